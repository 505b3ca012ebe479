"""The datasets that are folders of image files: flower17, imagenet1k and imagefolder:PATH."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from kdbench.data.base import Augmentation, Dataset
from kdbench.data.common import DatasetRequest, finish, padding
from kdbench.data.load import image_set
from kdbench.errors import DatasetError

# The statistics of ImageNet that torchvision's models use. They are near enough for photographs.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))

FLOWERS = (
    "daffodil",
    "snowdrop",
    "lily of the valley",
    "bluebell",
    "crocus",
    "iris",
    "tigerlily",
    "tulip",
    "fritillary",
    "sunflower",
    "daisy",
    "colts' foot",
    "dandelion",
    "cowslip",
    "buttercup",
    "windflower",
    "pansy",
)


def load_flower17(request: DatasetRequest) -> Dataset:
    """Flower17 (Nilsback & Zisserman 2006): 70 training and 10 test images a class.

    The images of a class are 80 consecutive files. The seed chooses the ten. data_dir holds
    jpg/image_0001.jpg to image_1360.jpg, from https://www.robots.ox.ac.uk/~vgg/data/flowers/17/.
    """
    folder = request.folder
    paths = [folder / "jpg" / f"image_{number:04d}.jpg" for number in range(1, 1361)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"dataset 'flower17': {len(missing)} of 1360 images are missing, first {missing[0]}; "
            "unpack 17flowers.tgz "
            f"from https://www.robots.ox.ac.uk/~vgg/data/flowers/17/ into {folder}"
        )
    generator = torch.Generator().manual_seed(request.seed)
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for label in range(17):
        order = (torch.randperm(80, generator=generator) + 80 * label).tolist()
        rows["train"] += sorted(order[:70])
        rows["test"] += sorted(order[70:])
    size = request.side
    # Decoded once for all seeds, since every split is a view of the same cache entry.
    whole = image_set(
        paths, [row // 80 for row in range(1360)], size, root=folder, cache_dir=request.cache_dir
    )
    train, test = (whole.subset(torch.tensor(rows[part])) for part in ("train", "test"))
    return finish(
        request,
        name="flower17",
        train=train,
        test=test,
        class_names=FLOWERS,
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(padding(size, 4), flip=True),
    )


def load_imagenet(request: DatasetRequest) -> Dataset:
    """ImageNet-1k (Russakovsky et al. 2015).

    data_dir holds train/<wnid>/ and val/<wnid>/, with 1000 folders each.
    """
    return _from_folders(request, request.folder, ("val",), 1000)


def load_imagefolder(request: DatasetRequest) -> Dataset:
    """``imagefolder:PATH``: PATH holds train/<class>/ and test/<class>/ of the same classes.

    val/<class>/ may stand for test/<class>/. PATH may also be a zip or tar of these, or of one
    folder that holds them. It is unpacked into the cache.

    A class folder or an image may be a link, also to a place outside PATH: what is linked belongs
    to the dataset. Links to folders inside a class folder are not followed. An archive may hold no
    link.

    Raises:
        IntegrityError: the archive is damaged or hostile.
    """
    if not request.folder.is_file():
        return _from_folders(request, request.folder, ("test", "val"), None)
    from kdbench.data.unpacked import unpacked

    folder = _inner(unpacked(request.folder, request.cache_dir))
    try:
        return _from_folders(request, folder, ("test", "val"), None)
    except DatasetError as error:
        raise DatasetError(
            f"{error} (this was unpacked from {request.folder}: mend the archive, not the copy)"
        ) from error


def _inner(folder: Path) -> Path:
    """The folder itself, or the only folder in it. Many archives hold one such folder."""
    visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return (
        visible[0]
        if len(visible) == 1 and visible[0].is_dir() and visible[0].name != "train"
        else folder
    )


def _from_folders(
    request: DatasetRequest, root: Path, test_names: tuple[str, ...], classes: int | None
) -> Dataset:
    """A dataset of class folders. ``test_names``: what the folder of test images may be called."""
    where = f"dataset {request.name!r}: {root}"
    test_name = next((name for name in test_names if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or test_name is None:
        raise DatasetError(
            f"{where} must contain train/<class>/ and "
            f"{' or '.join(f'{name}/<class>/' for name in test_names)}"
        )
    names = _class_folders(root / "train")
    if _class_folders(root / test_name) != names:
        other = set(names) ^ set(_class_folders(root / test_name))
        raise DatasetError(
            f"{where}: train/ and {test_name}/ have different classes: "
            f"{', '.join(sorted(other)[:5])}"
        )
    if len(names) < 2 or (classes is not None and len(names) != classes):
        raise DatasetError(
            f"{where} has {len(names)} classes in train/; expected {classes or 'at least 2'}"
        )
    size = request.side
    sets = []
    for part in ("train", test_name):
        paths, labels = _files(root / part, names, where)
        sets.append(image_set(paths, labels, size, root=root, cache_dir=request.cache_dir))
    return finish(
        request,
        name=request.name,
        train=sets[0],
        test=sets[1],
        class_names=tuple(names),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(padding(size, 4), flip=True),
    )


def _class_folders(folder: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _files(folder: Path, names: list[str], where: str) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        images = _image_files(folder / name)
        if not images:
            raise DatasetError(f"{where}: class folder {folder / name} holds no image file")
        paths += images
        labels += [label] * len(images)
    return paths, labels


def _image_files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        # Path.rglob would skip a folder that may not be read, and with it the images in it.
        raise error

    # Sorted by path: the order of a folder's files differs between disks, and decides the rows.
    walk = os.walk(folder, onerror=refuse)
    return sorted(
        Path(where, name)
        for where, _, names in walk
        for name in names
        if Path(name).suffix.lower() in EXTENSIONS
    )
