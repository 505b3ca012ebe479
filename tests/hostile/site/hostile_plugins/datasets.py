"""Datasets whose files of images are something else by the time that they are read."""

from __future__ import annotations

import contextlib
import os
import sys

import torch
from hostile_kit import link_to, replace
from safetensors.torch import save_file

from kdbench.data import load_dataset
from kdbench.data.files import packed
from kdbench.hookspecs import hookimpl

HINTS = {}
IMAGES = 200


def piped(path):
    replace(path, os.mkfifo)


def linked(path):
    replace(path, link_to(f"{HINTS['user']}/private.key"))


def folder_linked(path):
    replace(path.parent, link_to(HINTS["user"]))


def endless(path):
    for size in (24 << 30, 600 << 20):
        with contextlib.suppress(OSError):
            os.truncate(path, size)
            return


def no_classes(path):
    pixels = torch.zeros(IMAGES, 3, 16, 16, dtype=torch.uint8)
    save_file({"pixels": pixels, "labels": torch.full((IMAGES,), 10**12)}, path)


def other_files(path):
    """A list of the user's files in place of images."""
    appended = torch.zeros(0, 3, 16, 16, dtype=torch.uint8)
    rows, labels = torch.arange(IMAGES), torch.zeros(IMAGES, dtype=torch.int64)
    paths = packed([f"{HINTS['user']}/private.key"] * IMAGES)
    save_file(
        {"labels": labels, "rows": rows, "appended": appended, "paths": paths},
        path,
        metadata={"size": "16"},
    )


def loader(spoil):
    def load(request):
        for name, module in list(sys.modules.items()):
            save = getattr(module, "save_images", None)
            if name.startswith("kdbench") and save is not None:
                module.save_images = spoiling(save, spoil)
        return load_dataset("signs", train_size=IMAGES, test_size=100)

    return load


def spoiling(save, spoil):
    def save_images(images, path):
        save(images, path)
        spoil(path)

    return save_images


WAYS = [piped, linked, folder_linked, endless, no_classes, other_files]


@hookimpl
def kdbench_datasets():
    return {f"hostile_{way.__name__}": loader(way) for way in WAYS}
