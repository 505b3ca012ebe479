"""The images of a run as artefacts.

Training and test images are two artefacts, so that the process of a stage can get one of them.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Literal

from kdbench.bench.keys import digest
from kdbench.bench.store.artefacts import Store
from kdbench.data import Dataset
from kdbench.data.files import image_folders, save_images

#: Name of the file.
IMAGES = "images.safetensors"


def keep_images(store: Store, dataset: Dataset, split: Literal["train", "test"]) -> Path:
    """The file of a split. The first call writes it.

    Raises:
        OSError: the disk is full.
    """
    images, content = (
        (dataset.train, dataset.train_digest)
        if split == "train"
        else (dataset.test, dataset.test_digest)
    )
    # A streamed split holds the paths of its images and no pixels. The same images in another
    # folder are then another file.
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
    """Folders that a stage must open besides the file. There are none for images in memory."""
    return image_folders(dataset.test if measuring else dataset.train)
