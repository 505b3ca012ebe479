"""GTSRB, the German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012), in torchvision's layout."""

from __future__ import annotations

import csv
from pathlib import Path

from kdbench.data.base import Augmentation, Dataset
from kdbench.data.common import Request, finish, need_folder, padding
from kdbench.data.decode import image_set
from kdbench.errors import DatasetError

CLASSES = 43
# 39,209 training images in the final archive; torchvision fetches an older one of 26,640.
OFFICIAL_TRAIN, OFFICIAL_TEST = (39_209, 26_640), 12_630
# Measured on 10,456 training images at 32 pixels, rounded.
MEAN, STD = (0.34, 0.31, 0.32), (0.28, 0.26, 0.27)


def load_gtsrb(request: Request) -> Dataset:
    """``gtsrb``; named ``gtsrb-subset``, with a note, where the image counts are not the official ones."""
    folder = need_folder(request, "it holds gtsrb/GTSRB/Training and gtsrb/GT-final_test.csv")
    if request.download:
        _download(folder)
    base = folder / "gtsrb"
    train_paths, train_labels = _training(base / "GTSRB" / "Training")
    test_paths, test_labels = _test(base / "GT-final_test.csv", base / "GTSRB" / "Final_Test" / "Images")
    size = request.image_size or 32
    train, test = (
        image_set(paths, labels, size, root=base, cache_dir=request.cache_dir)
        for paths, labels in ((train_paths, train_labels), (test_paths, test_labels))
    )
    name, note = "gtsrb", ""
    if len(train) not in OFFICIAL_TRAIN or len(test) != OFFICIAL_TEST:
        name = "gtsrb-subset"
        note = (
            f"subset of GTSRB ({len(train):,} of 39,209 training and {len(test):,} of 12,630 test images): "
            "never quote these results as GTSRB"
        )
    return finish(
        request, name=name, train=train, test=test, class_names=tuple(f"{k:05d}" for k in range(CLASSES)),
        mean=MEAN, std=STD, augmentation=Augmentation(padding(size, 2), flip=False), note=note,
    )  # fmt: skip


def _download(folder: Path) -> None:
    from torchvision.datasets import GTSRB

    try:
        for split in ("train", "test"):
            GTSRB(str(folder), split=split, download=True)
    except (RuntimeError, OSError) as error:
        raise DatasetError(f"dataset 'gtsrb' could not be downloaded to {folder}: {error}") from error


def _training(folder: Path) -> tuple[list[Path], list[int]]:
    paths = sorted(folder.glob("*/*.ppm"))
    if not paths:
        raise DatasetError(
            f"dataset 'gtsrb': no images at {folder}/<class>/*.ppm; data_dir must be the folder that contains gtsrb/ "
            "(pass download=True to fetch it)"
        )
    labels = []
    for path in paths:
        if not path.parent.name.isdecimal() or int(path.parent.name) >= CLASSES:
            raise DatasetError(f"dataset 'gtsrb': folder {path.parent} is no class; expected 00000 to 00042")
        labels.append(int(path.parent.name))
    return paths, labels


def _test(table: Path, folder: Path) -> tuple[list[Path], list[int]]:
    if not table.is_file():
        raise DatasetError(f"dataset 'gtsrb': no {table}; it lists the test images (pass download=True to fetch it)")
    paths, labels = [], []
    with table.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter=";", skipinitialspace=True), 2):
            try:
                label, name = int(row["ClassId"]), row["Filename"]
            except (KeyError, TypeError, ValueError):
                label, name = -1, ""
            if not 0 <= label < CLASSES or not name or Path(name).name != name:
                raise DatasetError(f"dataset 'gtsrb': {table} line {number} lacks a Filename or a ClassId in 0..42")
            if not (folder / name).is_file():
                raise DatasetError(f"dataset 'gtsrb': {folder / name}, listed in {table.name}, is missing")
            paths.append(folder / name)
            labels.append(label)
    return paths, labels
