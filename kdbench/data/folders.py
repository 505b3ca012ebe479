"""The datasets that are folders of image files: flower17, imagenet1k and imagefolder:PATH."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from kdbench.data.base import Augmentation, Dataset
from kdbench.data.common import DatasetRequest, finish, padding
from kdbench.data.layout import TEST_NAMES, find_layout, folder_with, inner_folder, what_it_holds
from kdbench.data.load import image_set, image_sets
from kdbench.data.members import Members
from kdbench.errors import DatasetError

# The statistics of ImageNet that torchvision's models use. They are near enough for photographs.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Its folder ``test`` has no classes.
IMAGENET_TEST = ("val", "valid", "validation")

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
    names = [f"image_{number:04d}.jpg" for number in range(1, 1361)]
    jpg = folder_with(folder, names[0], ("jpg", "", "17flowers/jpg")) or folder / "jpg"
    missing = [jpg / name for name in names if not (jpg / name).is_file()]
    if missing:
        raise DatasetError(
            f"dataset 'flower17': {len(missing)} of 1360 images are missing, first {missing[0]}; "
            "unpack 17flowers.tgz "
            f"from https://www.robots.ox.ac.uk/~vgg/data/flowers/17/ into {folder}"
            f"{what_it_holds(folder)}"
        )
    paths, members = [jpg / name for name in names], Members()
    others = {*members.files(jpg, "train")} - {*paths}
    members.leave_out("train", "", "image of another name", len(others))
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
        left_out=members.left_out,
    )


def load_imagenet(request: DatasetRequest) -> Dataset:
    """ImageNet-1k (Russakovsky et al. 2015).

    data_dir holds train/<wnid>/ and val/<wnid>/, with 1000 folders each.
    """
    return _from_folders(request, request.folder, IMAGENET_TEST, 1000)


def load_imagefolder(request: DatasetRequest) -> Dataset:
    """``imagefolder:PATH``: PATH holds train/<class>/ and test/<class>/ of the same classes.

    val/<class>/ and some other names may stand for test/<class>/. PATH may also be a zip or tar.
    The folders may lie in one more folder. An archive is unpacked into the cache.

    A class folder, an image or a folder in a class folder may be a link, also to a place outside
    PATH: what is linked belongs to the dataset. An archive may hold no link.

    Raises:
        IntegrityError: the archive is damaged or hostile.
    """
    if not request.folder.is_file():
        return _from_folders(request, request.folder, TEST_NAMES, None)
    from kdbench.data.unpacked import unpacked

    folder = unpacked(request.folder, request.cache_dir)
    try:
        return _from_folders(request, folder, TEST_NAMES, None)
    except DatasetError as error:
        # The copy's path has 64 digits that tell nobody anything.
        text = str(error).replace(str(folder), str(request.folder))
        raise DatasetError(
            f"{text} (this was unpacked from {request.folder}: mend the archive, not the copy)"
        ) from error


def _from_folders(
    request: DatasetRequest, folder: Path, test_names: Sequence[str], classes: int | None
) -> Dataset:
    """A dataset of class folders.

    Args:
        test_names: names of the folder of test images.
        classes: how many there must be. None: at least two.
    """
    root = inner_folder(folder)
    where, members = f"dataset {request.name!r}: {root}", Members()
    layout = find_layout(where, root, test_names, members, classes)
    folders = {"train": (layout.train, layout.names), "test": (layout.test, layout.test_names)}
    files = []
    for split, classes_of_split in members.images(folders).items():
        at, names = folders[split]
        for name, images in zip(names, classes_of_split, strict=True):
            if not images:
                what = members.left_out.of_split(split).in_class(name).line()
                raise DatasetError(
                    f"{where}: class folder {at / name} holds no image file; "
                    f"{what or 'it is empty'}; put pictures there, or remove the class from "
                    f"{layout.train.name}/ and {layout.test.name}/"
                )
        files.append(
            (
                [path for images in classes_of_split for path in images],
                [label for label, images in enumerate(classes_of_split) for _ in images],
            )
        )
    train, test = image_sets(files, request.side, root=root, cache_dir=request.cache_dir)
    return finish(
        request,
        name=request.name,
        train=train,
        test=test,
        class_names=layout.names,
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(padding(request.side, 4), flip=True),
        left_out=members.left_out,
    )
