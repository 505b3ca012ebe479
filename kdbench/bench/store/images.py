"""The images of a run as artefacts: training and test images apart, so that a stage's process can
be given one of them."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Literal

from kdbench.bench.keys import digest
from kdbench.bench.store.artefacts import Store
from kdbench.data import Dataset
from kdbench.data.files import image_folders, save_images

IMAGES = "images.safetensors"


def keep_images(store: Store, dataset: Dataset, split: Literal["train", "test"]) -> Path:
    """The file of a split, written when it is first asked for.

    Raises:
        OSError: the disk is full.
    """
    images, content = (
        (dataset.train, dataset.train_digest)
        if split == "train"
        else (dataset.test, dataset.test_digest)
    )
    # Where files are named instead of pixels being held, the same pictures elsewhere are another
    # file.
    folders = [str(folder) for folder in image_folders(images)]
    key = digest(["images", content, folders])
    if store.verified(key) is None:
        workspace = store.workspace(key) / uuid.uuid4().hex
        workspace.mkdir(parents=True)
        try:
            save_images(images, workspace / IMAGES)
            store.publish(
                key,
                workspace,
                (IMAGES,),
                kind="images",
                title=f"{split} images of {dataset.name}",
                facts={},
                seconds=0.0,
                peak_mb=0.0,
                ingredients={"digest": content},
            )
        finally:
            shutil.rmtree(store.workspace(key), ignore_errors=True)
    return store.folder(key) / IMAGES


def image_reads(dataset: Dataset, measuring: bool) -> list[Path]:
    """Folders that a stage has to open besides the file: none for images in memory."""
    return image_folders(dataset.test if measuring else dataset.train)
