"""GTSRB, the German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012), in torchvision's
layout."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from kdbench.data.base import Augmentation, Dataset
from kdbench.data.common import DatasetRequest, finish, padding
from kdbench.data.layout import folder_with, what_it_holds
from kdbench.data.load import image_sets
from kdbench.data.members import Members, folders_and_others
from kdbench.errors import DatasetError
from kdbench.untrusted.files import read_regular

CLASSES = 43
TABLE = "GT-final_test.csv"
# Where the training images are: as torchvision unpacks them, and as GTSRB's own site packs all.
_TRAINING = ("GTSRB/Training", "GTSRB/Final_Training/Images")
# Images of the final archive. torchvision fetches an older one with 26,640 training images, which
# are a subset.
OFFICIAL_TRAIN, OFFICIAL_TEST = 39_209, 12_630
# Bytes and columns of the largest table of test images; the official one has 0.4 MB and 8.
_MOST_TABLE, _MOST_COLUMNS = 1 << 24, 64
# Measured on 10,456 training images at 32 pixels, rounded.
MEAN, STD = (0.34, 0.31, 0.32), (0.28, 0.26, 0.27)


@dataclass(frozen=True)
class _Places:
    """Where the parts of the dataset are."""

    base: Path
    """A folder that holds all of them."""
    training: Path
    """Class folders of training images."""
    test: Path
    """The test images."""
    table: Path
    """The classes of the test images."""


def load_gtsrb(request: DatasetRequest) -> Dataset:
    """``gtsrb``, or ``gtsrb-subset`` with a note if some official images are left out.

    It is read as torchvision unpacks it, and as the archives of its own site unpack.
    """
    if request.download:
        _download(request.folder)
    places, members = _places(request.folder), Members(suffixes=(".ppm",))
    for other in _training_folders(places.base)[1:]:
        what = f"folder {other.relative_to(places.base)} beside {places.training.name}"
        members.leave_out("train", "", what)
    wanted = min(request.num_classes or CLASSES, CLASSES)
    train_paths, train_labels = _training(places, request.folder, wanted, members)
    test_paths, test_labels = _test(places)
    others = {*members.files(places.test, "test")} - {*test_paths}
    members.leave_out("test", "", f"image that is not in {places.table.name}", len(others))
    train, test = image_sets(
        [(train_paths, train_labels), (test_paths, test_labels)],
        request.side,
        root=places.base,
        cache_dir=request.cache_dir,
    )
    note = _note(request, len(train), len(test))
    return finish(
        request,
        name="gtsrb-subset" if note else "gtsrb",
        train=train,
        test=test,
        class_names=tuple(f"{k:05d}" for k in range(CLASSES)),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(padding(request.side, 2), flip=False),
        note=note,
        left_out=members.left_out,
    )


def _places(folder: Path) -> _Places:
    """The parts of the dataset where they are, else where torchvision unpacks them.

    The table lies beside GTSRB/ in torchvision's layout. Others unpack it elsewhere.
    """
    # The folder GTSRB itself is named instead of the one that holds it.
    above = (folder.parent,) if folder.name == "GTSRB" else ()
    bases = (folder / "gtsrb", folder, *above)
    base = next((at for at in bases if _training_folders(at)), bases[0])
    inside = base / "GTSRB"
    test = inside / "Final_Test" / "Images"
    table = folder_with(base, TABLE, ("", "GTSRB", "GTSRB/Final_Test", "GTSRB/Final_Test/Images"))
    training = [*_training_folders(base), inside / "Training"]
    return _Places(base, training[0], test, (table or base) / TABLE)


def _training_folders(base: Path) -> list[Path]:
    """The folders below ``base`` that hold folders of training images."""
    there = [base / at for at in _TRAINING if (base / at).is_dir()]
    return [at for at in there if any(not reason for _, reason in folders_and_others(at))]


def _note(request: DatasetRequest, train: int, test: int) -> str:
    """How this differs from the official dataset. Empty: not at all."""
    selections = (
        (request.num_classes, CLASSES, "the first {} classes"),
        (request.train_size, train, "{:,} training images"),
        (request.test_size, test, "{:,} test images"),
    )
    selected = ", ".join(
        text.format(wanted) for wanted, there, text in selections if wanted not in (None, there)
    )
    if not selected and (train, test) == (OFFICIAL_TRAIN, OFFICIAL_TEST):
        return ""
    return (
        f"subset of GTSRB ({train:,} of {OFFICIAL_TRAIN:,} training and {test:,} of "
        f"{OFFICIAL_TEST:,} test images"
        f"{f'; of these {selected}' if selected else ''}): never quote these results as GTSRB"
    )


def _download(folder: Path) -> None:
    from torchvision.datasets import GTSRB

    places = _places(folder)
    try:
        for split, images in (("train", places.training), ("test", places.test)):
            # torchvision does not fetch again what is there, complete or not. The functions below
            # check whether it is complete.
            if not images.is_dir():
                GTSRB(str(folder), split=split, download=True)
    except (RuntimeError, OSError) as error:
        raise DatasetError(
            f"dataset 'gtsrb' could not be downloaded to {folder}: {error}; try again, or unpack "
            "its archives there"
        ) from error


def _class(text: str) -> int | None:
    """A class number as folders and the table write it, 7 or 00007. None for any other text."""
    label = int(text) if re.fullmatch("[0-9]{1,5}", text) else CLASSES
    return label if label < CLASSES else None


def _training(
    places: _Places, data_dir: Path, wanted: int, members: Members
) -> tuple[list[Path], list[int]]:
    folder = places.training
    names = members.class_folders(folder, "train") if folder.is_dir() else []
    by_class = members.images({"train": (folder, names)})["train"]
    paths = [path for images in by_class for path in images]
    if not paths:
        raise DatasetError(
            f"dataset 'gtsrb': no images at {folder}/<class>/*.ppm; --data-dir must be the folder "
            "that contains gtsrb/ "
            f"(pass --download to fetch it){_advice(data_dir)}{what_it_holds(data_dir)}"
        )
    labels = []
    for name, images in zip(names, by_class, strict=True):
        label = _class(name)
        if label is None and images:
            raise DatasetError(
                f"dataset 'gtsrb': folder {folder / name} is no class; expected 00000 to 00042"
            )
        labels += [CLASSES if label is None else label] * len(images)
    if missing := sorted(set(range(wanted)) - set(labels)):
        raise DatasetError(
            f"dataset 'gtsrb': classes without images: {len(missing)} of {wanted}, first "
            f"{folder / f'{missing[0]:05d}'}; "
            "was its archive unpacked only in part? Unpack it again"
        )
    return paths, labels


def _advice(data_dir: Path) -> str:
    """What the folder holds instead of the dataset, if it is known, and what to do."""
    for at in (data_dir, data_dir / "gtsrb", data_dir / "GTSRB"):
        if archives := sorted(at.glob("GTSRB*.zip")):
            return f"; {archives[0]} is not unpacked"
        if (at / "Test.csv").is_file():
            return (
                f"; {at} is another site's copy (Train/, Test/, Test.csv), which is not read: use "
                "the archives of GTSRB's own site"
            )
    return ""


def _test(places: _Places) -> tuple[list[Path], list[int]]:
    table, folder = places.table, places.test
    if not table.is_file():
        unlabelled = folder / "GT-final_test.test.csv"
        there = f"; {unlabelled} has no classes" if unlabelled.is_file() else ""
        online = [at.name for at in sorted(places.base.glob("GTSRB/Online-Test*"))]
        there += f"; {', '.join(online)} belongs to the first phase, not the test" if online else ""
        raise DatasetError(
            f"dataset 'gtsrb': no {table}, which lists the test images; unpack "
            "GTSRB_Final_Test_GT.zip there, or remove "
            f"{folder} and pass --download{there}"
        )
    paths, labels = [], []
    try:
        text = read_regular(table, _MOST_TABLE).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=";", skipinitialspace=True)
        if len(rows.fieldnames or ()) > _MOST_COLUMNS:
            raise DatasetError(
                f"dataset 'gtsrb': {table} has more than {_MOST_COLUMNS} columns; restore it"
            )
        for row in rows:
            where = f"dataset 'gtsrb': {table} line {rows.line_num}"
            name, label = row.get("Filename") or "", _class((row.get("ClassId") or "").strip())
            if label is None or not name or Path(name).name != name or "\0" in name:
                raise DatasetError(
                    f"{where} must hold a Filename and a ClassId in 0..42; restore the table"
                )
            if not (folder / name).is_file():
                raise DatasetError(
                    f"{where} lists {folder / name}, which is missing; unpack the test images again"
                )
            paths.append(folder / name)
            labels.append(label)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"dataset 'gtsrb': {table} is no table in UTF-8 ({error}); restore it"
        ) from error
    if not paths:
        raise DatasetError(f"dataset 'gtsrb': {table} lists no test image; restore it")
    return paths, labels
