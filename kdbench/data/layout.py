"""Where the splits and the class folders of a folder of images are.

A folder of images holds ``train/CLASS/`` and ``test/CLASS/``, or other names of these splits. What
is packed often lies in one more folder.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.data.members import Members, folders_and_others, shown
from kdbench.errors import DatasetError

#: Names of the folder of training images. The first that is there counts.
TRAIN_NAMES = ("train", "training")
#: Names of the folder of test images. The first whose classes are those of training counts.
TEST_NAMES = ("test", "val", "testing", "valid", "validation", "eval", "evaluation")


@dataclass(frozen=True)
class Layout:
    """The splits of a folder of images."""

    train: Path
    """Folder of the training images."""
    test: Path
    """Folder of the test images."""
    names: tuple[str, ...]
    """The classes, as the folders of the training images are called."""
    test_names: tuple[str, ...]
    """The folders of the same classes among the test images. They may be spelt otherwise."""


def class_folders(root: Path) -> list[str]:
    """Names of the classes of a folder of images, by index. No image is opened.

    Args:
        root: a folder with ``train/CLASS/``, as for ``imagefolder:PATH``.

    Raises:
        DatasetError: it holds no training images, or two class folders have one name.
        OSError: it cannot be read.
    """
    root = inner_folder(root)
    train = split_folders(root, TRAIN_NAMES)
    if not train:
        raise DatasetError(f"{root} must contain train/<class>/{what_it_holds(root)}")
    names = Members().class_folders(train[0])
    check_spelling(names, train[0])
    return names


def spelling(name: str) -> str:
    """The name with each letter and its accent as one character (NFC).

    Systems spell accents in two ways, and the same text may come in both.
    """
    return unicodedata.normalize("NFC", name)


def check_spelling(names: Sequence[str], split: Path) -> None:
    """Raise DatasetError where two class folders of a split have the same name, spelt in two
    ways."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(spelling(name), name)
        if other != name:
            raise DatasetError(
                f"{split} has two folders of one name, {other!a} and {name!a}; their "
                "accents are spelt in two ways; put the pictures into one folder"
            )


def split_folders(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders of a split, in the order of ``names``.

    First come the names as they are written here, then the same in other letters, such as
    ``Train``.
    """
    exact = [root / name for name in names if (root / name).is_dir()]
    try:
        there = [name for name, reason in folders_and_others(root) if not reason]
    except OSError:  # a folder whose entries may be opened, but not listed
        return exact
    other = [
        root / name
        for wanted in names
        for name in there
        if name.lower() == wanted and name not in names
    ]
    return exact + other


def inner_folder(root: Path) -> Path:
    """The folder that holds the training images: ``root``, or the only such folder in it."""
    if split_folders(root, TRAIN_NAMES):
        return root
    inner = _folders_with_train(root)
    return inner[0] if len(inner) == 1 else root


def _folders_with_train(root: Path) -> list[Path]:
    try:
        below = [root / name for name, reason in folders_and_others(root) if not reason]
        return [folder for folder in below if split_folders(folder, TRAIN_NAMES)]
    except OSError:
        return []


def what_it_holds(root: Path) -> str:
    """What is in a folder, as the end of a message."""
    return f"; it holds {', '.join(_listing(root)) or 'nothing'}"


def _listing(root: Path, most: int = 8) -> list[str]:
    """The first names in a folder, those of folders with a slash."""
    try:
        names = [
            shown(name) + ("" if reason else "/")
            for name, reason in folders_and_others(root)
            if not reason.startswith(("hidden", "system"))
        ]
    except OSError as error:
        return [f"what cannot be listed ({error.strerror})"]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return names[:most] + more
