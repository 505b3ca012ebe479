"""Where the splits and the class folders of a folder of images are.

A folder of images holds ``train/CLASS/`` and ``test/CLASS/``, or other names of these splits. What
is packed often lies in one more folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench._counted import counted
from kdbench.data.members import Members, folders_and_others
from kdbench.data.spelling import rough, spelling
from kdbench.errors import DatasetError
from kdbench.untrusted.text import shown_name

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
    names = Members().class_folders(train[0], "train")
    check_spelling(names, train[0])
    return names


def find_layout(
    where: str, root: Path, test_names: Sequence[str], members: Members, classes: int | None = None
) -> Layout:
    """The splits and classes of a folder of images.

    Args:
        where: the dataset and its folder, for messages.
        root: the folder that holds the splits.
        test_names: names of the folder of test images. The first whose classes are those of
            training counts.
        members: counts what lies beside the class folders.
        classes: how many there must be. None: at least two.

    Raises:
        DatasetError: a split is missing, or the splits have different classes.
        OSError: a folder cannot be read.
    """
    trains, tests = split_folders(root, TRAIN_NAMES), split_folders(root, test_names)
    if not trains or not tests:
        wanted = " or ".join(f"{name}/<class>/" for name in test_names[:2])
        raise DatasetError(
            f"{where} must contain train/<class>/ and {wanted}{_advice(root, test_names)}"
            f"{what_it_holds(root)}"
        )
    if len(trains) > 1 and trains[0].name != TRAIN_NAMES[0]:
        both = ", ".join(folder.name for folder in trains)
        raise DatasetError(f"{where} has two folders of training images, {both}; keep one of them")
    train = trains[0]
    names = members.class_folders(train, "train")
    check_spelling(names, train)
    test = next((folder for folder in tests if _share_classes(names, folder)), tests[0])
    for folder in tests:
        if folder != test:
            members.leave_out("test", "", f"folder {shown_name(folder.name)} beside {test.name}")
    test_names_there = members.class_folders(test, "test")
    check_spelling(test_names_there, test)
    by_spelling = {spelling(name): name for name in test_names_there}
    if set(by_spelling) != {spelling(name) for name in names}:
        raise DatasetError(f"{where}: {_differences(names, test_names_there, train, test)}")
    if len(names) < 2 or (classes is not None and len(names) != classes):
        raise DatasetError(
            f"{where} has {counted(len(names), 'class')} in {train.name}/; expected "
            f"{classes or 'at least 2'}{what_it_holds(train)}"
        )
    return Layout(train, test, tuple(names), tuple(by_spelling[spelling(name)] for name in names))


def _share_classes(names: Sequence[str], split: Path) -> bool:
    known = {spelling(name) for name in names}
    return any(spelling(name) in known for name in Members().class_folders(split, "test"))


def _differences(train_names: Sequence[str], test_names: Sequence[str], *splits: Path) -> str:
    """What the classes of two splits do not have in common, and what to do."""
    train, test = splits
    spelt = {spelling(name) for name in train_names} & {spelling(name) for name in test_names}
    only = [
        [name for name in names if spelling(name) not in spelt]
        for names in (train_names, test_names)
    ]
    every = _few(sorted([*only[0], *only[1]]))
    text = f"{train.name}/ and {test.name}/ have different classes: {every}"
    alike = {rough(name): name for name in only[1]}
    pairs = [(name, alike[rough(name)]) for name in only[0] if rough(name) in alike]
    if pairs:
        words = ", ".join(f"{first!a} and {second!a}" for first, second in pairs[:5])
        return f"{text}; {words} differ only in blanks, capitals or look-alike letters; rename one"
    if not test_names:
        return (
            f"{text}; {test.name}/ has no class folder{what_it_holds(test)}; sort its pictures "
            f"into {test.name}/<class>/"
        )
    for names, here, other in ((only[0], train, test), (only[1], test, train)):
        if names:
            text += f"; {len(names)} only in {here.name}/ ({_few(names)})"
            there = {name: reason for name, reason in folders_and_others(other) if reason}
            text += "".join(
                f", and {other.name}/{name} is a {there[name]}" for name in names if name in there
            )
    return f"{text}; add the missing folders with their pictures, or remove the others"


def _few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown_name, names[:most])) + more


def _advice(root: Path, test_names: Sequence[str]) -> str:
    """What to name in place of a folder that does not hold the splits, if it can be seen."""
    is_split = root.name.lower() in (*TRAIN_NAMES, *test_names)
    if is_split and split_folders(root.parent, TRAIN_NAMES):
        return f"; it is one of these folders itself, so name {root.parent}"
    if split_folders(root, TRAIN_NAMES):
        return f"; it has no folder of test images ({', '.join(test_names)})"
    inner = _folders_with_train(root)
    if len(inner) > 1:
        return f"; {_few([folder.name for folder in inner])} do, so name one of them"
    for folder in _below(root):
        if split_folders(folder, test_names):
            return f"; {folder} does, so name it"
    return ""


def _below(root: Path, depth: int = 3, most: int = 200) -> list[Path]:
    """The first folders below this one that hold training images. Few folders are looked at."""
    level, looked = [root], 0
    for _ in range(depth):
        inner: list[Path] = []
        for folder in level:
            if looked < most:
                looked += 1
                inner += _folders_with_train(folder)
        if inner:
            return inner
        level = [below for folder in level[:most] for below in _folders(folder)]
    return []


def _folders(root: Path) -> list[Path]:
    try:
        return [root / name for name, reason in folders_and_others(root) if not reason]
    except OSError:
        return []


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
    return [folder for folder in _folders(root) if split_folders(folder, TRAIN_NAMES)]


def folder_with(root: Path, name: str, places: Sequence[str]) -> Path | None:
    """The first of some places below a folder that holds a certain name. None: there is none."""
    return next((root / at for at in places if (root / at / name).exists()), None)


def what_it_holds(root: Path) -> str:
    """What is in a folder, as the end of a message."""
    return f"; it holds {', '.join(_listing(root)) or 'nothing'}"


def _listing(root: Path, most: int = 8) -> list[str]:
    """The first names in a folder, those of folders with a slash."""
    try:
        names = [
            shown_name(name) + ("" if reason else "/")
            for name, reason in folders_and_others(root)
            if not reason.startswith(("hidden", "system"))
        ]
    except OSError as error:
        return [f"what cannot be listed ({error.strerror})"]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return names[:most] + more
