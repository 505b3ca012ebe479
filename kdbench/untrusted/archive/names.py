"""The names that an archive's members may have. Nothing here touches a disk."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from kdbench.untrusted.archive.limits import ArchiveLimits, Refusal

# Controls, invisible format characters (such as those that reverse the direction of writing),
# surrogates, line separators.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


@dataclass(slots=True)
class _Entry:
    spelling: str
    """The part of the path as the first member wrote it."""
    children: dict[str, _Entry] | None
    """None for a file."""
    listed: bool
    """False for a folder that only the names of other members imply."""


@dataclass
class Names:
    """The names of one archive so far, as a tree. Each new name must be harmless and must not
    collide with another.

    Two names collide where some file system takes them for one. Such names differ only in case, in
    Unicode normalisation, or in dots and spaces at the end.
    """

    limits: ArchiveLimits
    _tree: dict[str, _Entry] = field(default_factory=dict)
    _count: int = 0

    def add(self, name: str, folder: bool) -> tuple[str, ...]:
        """Check and keep a member's name.

        Returns:
            The parts of its path below the folder unpacked to; () for that folder itself.

        Raises:
            Refusal: the name is harmful, collides with another or is one too many.
        """
        parts = split_name(name, folder, self.limits)
        level = self._tree
        for depth, part in enumerate(parts, start=1):
            last, key = depth == len(parts), _key(part)
            is_file = last and not folder
            known = level.get(key)
            if known is None:
                # Folders that no member lists count as well: each one takes a place on the disk.
                self._count += 1
                if self._count > self.limits.members:
                    raise Refusal(f"it holds more than {self.limits.members:,} files and folders")
                known = level[key] = _Entry(part, None if is_file else {}, listed=last)
            elif known.spelling != part:
                raise Refusal(
                    f"on some systems {part!r} is the same name as {known.spelling!r}, which is "
                    "there too",
                    name,
                )
            elif is_file and known.children is not None:
                raise Refusal("it is a file where another member needs a folder", name)
            elif not is_file and known.children is None:
                raise Refusal(
                    f"it needs a folder where {'/'.join(parts[:depth])!r} is a file", name
                )
            elif last and known.listed:
                raise Refusal("it is there twice", name)
            elif last:
                known.listed = True
            if known.children is not None:
                level = known.children
        return parts


def split_name(name: str, folder: bool, limits: ArchiveLimits) -> tuple[str, ...]:
    """A name's parts. A leading ``./`` and a folder's last slash do not count.

    Raises:
        Refusal: says what is wrong with the name.
    """
    if len(name.encode("utf-8", "surrogatepass")) > limits.name:
        raise Refusal(f"its name has more than {limits.name} bytes", name)
    # Some file systems normalise names, which may turn a harmless character into a slash or a dot.
    for text in {name, unicodedata.normalize("NFKC", name)}:
        _check_characters(text, name)
    inner = name.removeprefix("./")
    inner = inner.removesuffix("/") if folder else inner
    if folder and inner in ("", "."):
        return ()
    parts = tuple(inner.split("/"))
    if "" in parts or "." in parts:
        raise Refusal("its name has an empty part, or '.' for one", name)
    if len(parts) > limits.depth:
        raise Refusal(f"it lies more than {limits.depth} folders deep", name)
    if any(len(part.encode()) > limits.part for part in parts):
        raise Refusal(f"a part of its name has more than {limits.part} bytes", name)
    return parts


def _check_characters(text: str, name: str) -> None:
    if not (text.isascii() and text.isprintable()):
        for character in text:
            if unicodedata.category(character) in _HIDDEN:
                raise Refusal(f"its name has the control character U+{ord(character):04X}", name)
    if "\\" in text:
        raise Refusal("its name has a backslash", name)
    if text.startswith("/"):
        raise Refusal("its name is absolute", name)
    parts = text.split("/")
    if ".." in parts:
        raise Refusal("its name has '..' for a part, which leads out of the folder", name)
    if any(re.match("[A-Za-z]:", part) for part in parts):
        raise Refusal("its name has a drive letter", name)


def _key(part: str) -> str:
    """A key that is equal for names that some file system takes for the same."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", part).casefold()).rstrip(
        ". "
    )
    # Where they are equal one string is kept, not two: an archive may have very many names.
    return part if folded == part else folded
