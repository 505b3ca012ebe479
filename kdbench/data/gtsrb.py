"""GTSRB, the German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012), in torchvision's
layout."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from kdbench.data.base import Augmentation, Dataset
from kdbench.data.common import DatasetRequest, finish, padding
from kdbench.data.load import image_set
from kdbench.errors import DatasetError
from kdbench.untrusted.files import read_regular

CLASSES = 43
# Images of the final archive. torchvision fetches an older one with 26,640 training images, which
# are a subset.
OFFICIAL_TRAIN, OFFICIAL_TEST = 39_209, 12_630
# Bytes and columns of the largest table of test images; the official one has 0.4 MB and 8.
_MOST_TABLE, _MOST_COLUMNS = 1 << 24, 64
# Measured on 10,456 training images at 32 pixels, rounded.
MEAN, STD = (0.34, 0.31, 0.32), (0.28, 0.26, 0.27)


def load_gtsrb(request: DatasetRequest) -> Dataset:
    """``gtsrb``, or ``gtsrb-subset`` with a note if some official images are left out."""
    folder, base = request.folder, request.folder / "gtsrb"
    training, final_test = base / "GTSRB" / "Training", base / "GTSRB" / "Final_Test" / "Images"
    if request.download:
        _download(folder, {"train": training, "test": final_test})
    train_paths, train_labels = _training(training, min(request.num_classes or CLASSES, CLASSES))
    test_paths, test_labels = _test(base / "GT-final_test.csv", final_test)
    size = request.side
    train, test = (
        image_set(paths, labels, size, root=base, cache_dir=request.cache_dir)
        for paths, labels in ((train_paths, train_labels), (test_paths, test_labels))
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
        augmentation=Augmentation(padding(size, 2), flip=False),
        note=note,
    )


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


def _download(folder: Path, parts: dict[str, Path]) -> None:
    from torchvision.datasets import GTSRB

    try:
        for split, images in parts.items():
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


def _training(folder: Path, wanted: int) -> tuple[list[Path], list[int]]:
    paths = sorted(folder.glob("*/*.ppm"))
    if not paths:
        raise DatasetError(
            f"dataset 'gtsrb': no images at {folder}/<class>/*.ppm; --data-dir must be the folder "
            "that contains gtsrb/ "
            "(pass --download to fetch it)"
        )
    labels = []
    for path in paths:
        label = _class(path.parent.name)
        if label is None:
            raise DatasetError(
                f"dataset 'gtsrb': folder {path.parent} is no class; expected 00000 to 00042"
            )
        labels.append(label)
    if missing := sorted(set(range(wanted)) - set(labels)):
        raise DatasetError(
            f"dataset 'gtsrb': {len(missing)} of {wanted} classes have no images, first "
            f"{folder / f'{missing[0]:05d}'}; "
            "was its archive unpacked only in part? Unpack it again"
        )
    return paths, labels


def _test(table: Path, folder: Path) -> tuple[list[Path], list[int]]:
    if not table.is_file():
        raise DatasetError(
            f"dataset 'gtsrb': no {table}, which lists the test images; unpack "
            "GTSRB_Final_Test_GT.zip there, or remove "
            f"{folder} and pass --download"
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
