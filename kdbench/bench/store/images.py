"""The images of a run as artefacts.

Test images and each share of the training images are artefacts of their own. So the process of a
stage can get exactly what it may see.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from kdbench.bench.keys import digest
from kdbench.bench.kinds import Pool, Split
from kdbench.bench.store.artefacts import DamagedError, Store
from kdbench.data import Dataset, fraction
from kdbench.data.base import ImageSet
from kdbench.data.files import LIST_FORM, image_files, link_target, save_images
from kdbench.data.fraction import images_of_split, provider_images, without_traces
from kdbench.loading.source import source_digest

#: Name of the file, in the store and in a job's folder.
IMAGES = "images.safetensors"
#: Name of the file of a pool in a job's folder.
POOL = "pool.safetensors"


@dataclass(frozen=True)
class Seen:
    """The images that a stage may see."""

    dataset: Dataset
    """Whose images."""
    split: Split | Pool
    """Which of them."""
    data_seed: int = 0
    """By it images are held out."""
    transfer_fraction: float = 1.0
    """The deployer's share of the provider's images."""
    clean_fraction: float = 1.0
    """The defender's share of the deployer's images."""
    seed: int = 0
    """The root seed, by which all shares are drawn."""
    unlabeled: float = 1.0
    """The pool's share of the provider's images that the deployer does not have."""

    @cached_property
    def images(self) -> ImageSet:
        """The image set."""
        if self.split == "test":
            return self.dataset.test
        return images_of_split(
            self.dataset.train,
            self.split,
            self.data_seed,
            self.transfer_fraction,
            self.clean_fraction,
            self.seed,
            self.unlabeled,
        )

    @property
    def choice(self) -> tuple[object, ...]:
        """What tells these images from others of the dataset."""
        if self.split == "test":
            return (self.split,)
        if self.split in ("held out", "provider"):
            return (self.split, self.data_seed)
        if self.split == "pool":
            shares = [self.transfer_fraction, self.unlabeled]
            return (self.split, self.data_seed, *shares, self.seed)
        fractions = [self.transfer_fraction]
        if self.split == "defender":
            fractions.append(self.clean_fraction)
        shares = [fraction for fraction in fractions if fraction < 1]
        return ("provider", self.data_seed, *((*shares, self.seed) if shares else ()))

    @property
    def digest(self) -> str:
        """Of all training images, or of all test images."""
        return self.dataset.test_digest if self.split == "test" else self.dataset.train_digest

    @cached_property
    def key(self) -> str:
        """Of their artefact. Equal images have one."""
        # A streamed split holds the paths of its images and no pixels. The same images in another
        # folder are then another file.
        folders = sorted({os.path.dirname(path) for path in self._files})
        form = [LIST_FORM] if folders else []
        rule = [] if self.split == "test" else [_rule_of_splits()]
        return digest(["images", self.digest, folders, *form, *rule, *self.choice])

    @property
    def _files(self) -> list[str]:
        """The image files that the artefact names. That of a pool has pixels."""
        return [] if self.split == "pool" else image_files(self.images)

    @cached_property
    def reads(self) -> tuple[Path, ...]:
        """What a stage must open besides the file of the images; empty for images in memory.

        A folder is among them only if no other image of the dataset lies in it or below, but for
        those that are held out: these are nobody's secret. The images of other folders are named
        one by one, and so are those to which a link leads.
        """
        files = self._files
        if not files:
            return ()
        train = provider_images(self.dataset.train, self.data_seed)
        others = {*image_files(train), *image_files(self.dataset.test)}
        mixed = _folders_above(_with_targets(others.difference(files)))
        reads = {path if (folder := os.path.dirname(path)) in mixed else folder for path in files}
        reads |= {target for path in files if (target := link_target(path)) != path}
        return tuple(Path(path) for path in sorted(reads))


def keep_images(store: Store, seen: Seen, target: Path) -> None:
    """Put a file of these images at ``target``. The first call writes their artefact.

    Raises:
        DatasetError: an image of a pool cannot be decoded.
        OSError: the disk is full.
    """
    key = seen.key
    if store.verified(key) is None:
        with store.scratch() as folder:
            # A link may lead through folders that the stage does not have.
            images = without_traces(seen.images) if seen.split == "pool" else seen.images
            save_images(images, folder / IMAGES, targets=True)
            store.publish(
                key,
                folder,
                (IMAGES,),
                kind="images",
                title=f"{seen.split} images of {seen.dataset.name}",
                facts={},
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


@cache
def _rule_of_splits() -> str:
    """SHA-256 over how shares are drawn. Drawn otherwise, they are other images."""
    return source_digest({"fraction.py": Path(fraction.__file__).read_bytes()})


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
