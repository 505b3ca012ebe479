"""The one rule of what belongs to a dataset that is made of files.

- A name that begins with a point is hidden. It does not belong to a dataset, at any depth. Nor do
  the folders that operating systems put into every folder.
- An image is a regular file, or a link to one, whose suffix is known. Nothing else is opened.
- A link to a folder inside a class folder is followed. But each folder counts once, in the place
  where it really lies.

What is left out is counted, with the reason.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from kdbench.data.left_out import LeftOut, left_out
from kdbench.data.spelling import spelling
from kdbench.untrusted.text import shown_name

#: torchvision's ImageFolder takes the same ones.
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))

#: Folders of macOS, Synology, QNAP, Windows and Linux, in small letters. Some of them hold small
#: copies of the pictures beside them.
_SYSTEM_FOLDERS = frozenset(
    (
        "__macosx",
        "@eadir",
        "@recycle",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    )
)

_KINDS = (
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISCHR, "device"),
)

#: Device and number of a folder. They are the same by whatever path it is reached.
_Identity = tuple[int, int]
Paths = list[Path]


def ignored(name: str) -> str:
    """Why nothing of this name can belong to a dataset. Empty: it can."""
    if name.startswith("."):
        return "hidden"
    return "system" if name.lower() in _SYSTEM_FOLDERS else ""


class Members:
    """Collects the images of one dataset, and counts what does not belong to it.

    Args:
        suffixes: of image files, in small letters.
    """

    def __init__(self, suffixes: Collection[str] = SUFFIXES) -> None:
        self.suffixes = suffixes
        self._counts: Counter[tuple[str, str, str]] = Counter()

    @property
    def left_out(self) -> LeftOut:
        """What was left out so far."""
        return left_out(self._counts)

    def leave_out(self, split: str, class_name: str, reason: str, count: int = 1) -> None:
        """Count something that does not belong to the dataset."""
        self._counts[split, spelling(class_name), reason] += count

    def class_folders(self, folder: Path, split: str) -> list[str]:
        """Names of the class folders of a split, sorted. A class folder may be a link.

        Args:
            folder: of the split.
            split: ``train`` or ``test``.

        Raises:
            OSError: the folder cannot be read.
        """
        names = []
        for name, reason in folders_and_others(folder):
            if reason:
                beside = f"{reason} beside the class folders" if reason == "file" else reason
                self.leave_out(split, "", beside)
            else:
                names.append(name)
        return names

    def images(self, splits: Mapping[str, tuple[Path, Sequence[str]]]) -> dict[str, list[Paths]]:
        """The image files of each class folder of each split, sorted by path.

        Args:
            splits: by name, ``train`` or ``test``: its folder, and the names of its class folders.

        Raises:
            OSError: a folder cannot be read.
        """
        walks = {
            split: [_Walk(self, folder / name, split, name) for name in names]
            for split, (folder, names) in splits.items()
        }
        self._walk([walk for of_split in walks.values() for walk in of_split])
        # Sorted by path: the order of a folder's files differs between disks, and decides the rows.
        return {
            split: [sorted(walk.paths) for walk in of_split] for split, of_split in walks.items()
        }

    def files(self, folder: Path, split: str) -> Paths:
        """The image files in a folder that is of no class, sorted by path.

        Raises:
            OSError: the folder cannot be read.
        """
        walk = _Walk(self, folder, split, "")
        self._walk([walk])
        return sorted(walk.paths)

    def _walk(self, everything: Sequence[_Walk]) -> None:
        # The folders that really lie in the dataset come first, so that a link takes none of them.
        for walk in everything:
            walk.walk(walk.folder)
        counted: set[_Identity] = set()
        above: set[_Identity] = set()
        if any(walk.links for walk in everything):
            for walk in everything:
                counted |= walk.folders
                above |= _folders_above(walk.folder)
        for walk in everything:
            walk.follow_links(counted, above)


class _Walk:
    """The images of one class folder."""

    def __init__(self, members: Members, folder: Path, split: str, name: str) -> None:
        self.members, self.folder, self.split, self.name = members, folder, split, name
        self.paths: list[Path] = []
        self.folders: set[_Identity] = set()
        self.links: list[Path] = []

    def walk(self, folder: Path, counted: Collection[_Identity] = ()) -> None:
        """Take the images of a folder and of those below it, without following links.

        Args:
            counted: folders that are passed over.
        """
        # No recursion: folders may lie deeper in each other than Python can call.
        waiting = [folder]
        while waiting:
            at = waiting.pop()
            identity = _identity(at)
            if identity in counted:
                self._leave_out("folder that is counted already")
                continue
            self.folders.add(identity)
            with os.scandir(at) as entries:
                for entry in entries:
                    reason = self._take(entry, at / entry.name)
                    if reason == "folder":
                        waiting.append(at / entry.name)
                    elif reason:
                        self._leave_out(reason)

    def _take(self, entry: os.DirEntry[str], path: Path) -> str:
        """Take an image or a link to a folder. For anything else: the reason why it was not."""
        if word := ignored(entry.name):
            return f"{word} {'folder' if _is_folder(entry) else 'file'}"
        kind = _kind(entry)
        if kind == "link to a folder":
            self.links.append(path)
            return ""
        if kind != "file":
            return kind
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix not in self.members.suffixes:
            return f"suffix {shown_name(suffix)}" if suffix else "no suffix"
        self.paths.append(path)
        return ""

    def follow_links(self, counted: set[_Identity], above: set[_Identity]) -> None:
        """Take the images behind links to folders.

        Args:
            counted: folders whose images are taken. Those that are followed are added.
            above: folders that hold one of these. The links lead round in a circle.
        """
        while self.links:
            link = min(self.links)
            self.links.remove(link)
            identity = _identity(link)
            if identity in above:
                self._leave_out("link to a folder that holds this one")
            elif identity in counted:
                self._leave_out("link to a folder that is counted already")
            else:
                above |= _folders_above(link)
                self.walk(link, counted | above)
                counted |= self.folders

    def _leave_out(self, reason: str) -> None:
        self.members.leave_out(self.split, self.name, reason)


def folders_and_others(folder: Path) -> Iterator[tuple[str, str]]:
    """The names in a folder, sorted. Each comes with the reason why it is no folder of a dataset.

    The reason is empty for a folder, or a link to one.
    """
    with os.scandir(folder) as entries:
        facts = [(entry.name, _reason(entry)) for entry in entries]
    yield from sorted(facts)


def _reason(entry: os.DirEntry[str]) -> str:
    """Why an entry is no folder of a dataset. Empty: it is one."""
    if word := ignored(entry.name):
        return f"{word} {'folder' if _is_folder(entry) else 'file'}"
    kind = _kind(entry)
    return "" if kind in ("folder", "link to a folder") else kind


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry of a folder is. The type of most entries is known without asking the disk."""
    if entry.is_file(follow_symlinks=False):
        return "file"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return "broken link"
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return "link loop" if error.errno == errno.ELOOP else "broken link"
        raise
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "link to a folder"
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def _identity(folder: Path) -> _Identity:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _folders_above(folder: Path) -> set[_Identity]:
    """The folders that hold this one, by its path as it is written and as it really is."""
    paths = {*Path(os.path.abspath(folder)).parents, *Path(os.path.realpath(folder)).parents}
    return {_identity(path) for path in paths}
