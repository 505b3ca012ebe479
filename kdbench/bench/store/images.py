"""The images of a run as artefacts.

Training images, test images and each share of the training images are artefacts of their own. So
the process of a stage can get exactly what it may see.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kdbench.bench.keys import digest
from kdbench.bench.kinds import Split
from kdbench.bench.store.artefacts import DamagedError, Store
from kdbench.data import Dataset
from kdbench.data.base import ImageSet
from kdbench.data.files import LIST_FORM, image_files, link_target, save_images
from kdbench.data.fraction import defender_images

#: Name of the file.
IMAGES = "images.safetensors"


@dataclass(frozen=True)
class Seen:
    """The images that a stage may see."""

    dataset: Dataset
    """Whose images."""
    split: Split
    """Training or test images."""
    fraction: float = 1.0
    """The defender's share of them."""
    seed: int = 0
    """The root seed, by which the share is drawn."""

    @cached_property
    def images(self) -> ImageSet:
        """The image set."""
        whole = self.dataset.train if self.split == "train" else self.dataset.test
        return defender_images(whole, self.fraction, self.seed)

    @property
    def digest(self) -> str:
        """Of the whole split."""
        return self.dataset.train_digest if self.split == "train" else self.dataset.test_digest

    @cached_property
    def key(self) -> str:
        """Of their artefact."""
        share = [self.fraction, self.seed] if self.fraction < 1 else []
        # A streamed split holds the paths of its images and no pixels. The same images in another
        # folder are then another file.
        folders = sorted({os.path.dirname(path) for path in image_files(self.images)})
        form = [LIST_FORM] if folders else []
        return digest(["images", self.digest, folders, *form, *share])

    @cached_property
    def reads(self) -> tuple[Path, ...]:
        """What a stage must open besides the file of the images; empty for images in memory.

        A folder is among them only if no other image of the dataset lies in it or below. The images
        of other folders are named one by one, and so are those to which a link leads.
        """
        files = image_files(self.images)
        if not files:
            return ()
        others = {*image_files(self.dataset.train), *image_files(self.dataset.test)}
        mixed = _folders_above(_with_targets(others.difference(files)))
        reads = {path if (folder := os.path.dirname(path)) in mixed else folder for path in files}
        reads |= {target for path in files if (target := link_target(path)) != path}
        return tuple(Path(path) for path in sorted(reads))


def keep_images(store: Store, seen: Seen, target: Path) -> None:
    """Put a file of these images at ``target``. The first call writes their artefact.

    Raises:
        OSError: the disk is full.
    """
    key = seen.key
    if store.verified(key) is None:
        with store.scratch() as folder:
            # A link may lead through folders that the stage does not have.
            save_images(seen.images, folder / IMAGES, targets=True)
            store.publish(
                key,
                folder,
                (IMAGES,),
                kind="images",
                title=f"{seen.split} images of {seen.dataset.name}",
                facts={"fraction": seen.fraction} if seen.fraction < 1 else {},
                seconds=0.0,
                peak_mb=0.0,
                ingredients={"digest": seen.digest},
            )
    # A further name of the same bytes. So a job does not learn where the store is, and no disk is
    # filled with copies.
    try:
        os.link(store.folder(key) / IMAGES, target)
    except OSError:  # a file system without hard links, or a file that has too many
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        try:
            store.copy_out(key, IMAGES, target)
        except DamagedError as error:  # since it was looked at above
            raise OSError(str(error)) from error


def _with_targets(paths: Iterable[str]) -> Iterable[str]:
    for path in paths:
        yield from {path, link_target(path)}


def _folders_above(paths: Iterable[str]) -> set[str]:
    """All folders that hold one of these files, at any depth."""
    folders: set[str] = set()
    for path in paths:
        folder = os.path.dirname(path)
        while folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
    return folders
