"""The images of a plugin's dataset, from the process that loaded them to the coordinator.

That process leaves a file for each split, and says what is known of the dataset. The coordinator
believes nothing of it: it reads the files as data, and computes the digests by itself.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, StringConstraints, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdbench._counted import counted
from kdbench.data import Augmentation, Dataset, DatasetRequest, ImageSet, TensorImages
from kdbench.data.common import split_digest
from kdbench.data.files import unpacked
from kdbench.data.left_out import LeftOut, LeftOutCount
from kdbench.data.stream import StreamedImages
from kdbench.errors import ConfigError, ContractError, IntegrityError
from kdbench.loading.facts import MOST_CLASSES, WIDEST, Count, Facts, Line, plain
from kdbench.untrusted.box import check_file

#: Most bytes of the file of a split.
LARGEST = 64 << 30
#: Most entries of what a process left out. Further ones are not said.
_MOST_LEFT_OUT = 10_000
#: What reading something that is no dataset may raise.
_WRONG = (
    *(ValueError, LookupError, TypeError, ArithmeticError, OSError, RecursionError),
    *(SafetensorError, IntegrityError, ConfigError),
)
_Text = Annotated[str, StringConstraints(max_length=1000)]
_Deviation = Annotated[float | int, Field(gt=0, le=1e6), AfterValidator(plain)]
_Number = Annotated[float | int, Field(ge=-1e6, le=1e6), AfterValidator(plain)]


class LeftOutFacts(Facts):
    """What a process left out of a dataset, see :class:`kdbench.data.left_out.LeftOutCount`."""

    split: Literal["train", "test"]
    class_name: Line
    reason: Line
    count: Count


class ImagesFacts(Facts):
    """What a process says of a dataset that it has loaded."""

    name: Line = Field(min_length=1, max_length=1000)
    """As in the tables of results."""
    class_names: tuple[_Text, ...] = Field(min_length=1, max_length=MOST_CLASSES)
    num_classes: int = Field(ge=1, le=MOST_CLASSES)
    mean: tuple[_Number, _Number, _Number]
    std: tuple[_Deviation, _Deviation, _Deviation]
    pad: int = Field(ge=0, le=WIDEST)
    flip: bool
    note: Line
    left_out: tuple[LeftOutFacts, ...] = Field(default=(), max_length=_MOST_LEFT_OUT)

    @classmethod
    def of(cls, name: str, dataset: object) -> ImagesFacts:
        """The facts of what a loader returned.

        Raises:
            ContractError: it is no dataset.
        """
        if not isinstance(dataset, Dataset):
            raise ContractError(
                f"dataset {name!r} is a {type(dataset).__name__}; return what kdbench.data.finish "
                "returns"
            )
        return cls(
            name=dataset.name,
            class_names=dataset.class_names,
            num_classes=dataset.num_classes,
            mean=dataset.mean,
            std=dataset.std,
            pad=dataset.augmentation.pad,
            flip=dataset.augmentation.flip,
            note=dataset.note,
            left_out=tuple(
                LeftOutFacts(**asdict(entry)) for entry in dataset.left_out.counts[:_MOST_LEFT_OUT]
            ),
        )


def read_dataset(request: DatasetRequest, answer: Any, box: Path) -> Dataset:
    """The dataset of which a process has left the images in a folder.

    Nobody else can write the folder any more.

    Raises:
        ContractError: what it says cannot be true.
    """
    try:
        facts = ImagesFacts.model_validate(answer)
        train, test = (
            _read(box / f"{split}.safetensors", facts.num_classes, request.data_dir)
            for split in ("train", "test")
        )
        if train.shape != test.shape:
            raise ValueError(f"training images are {train.shape}, test images {test.shape}")
        if facts.num_classes != len(facts.class_names):
            raise ValueError(
                f"{counted(facts.num_classes, 'class')} with "
                f"{counted(len(facts.class_names), 'name')}"
            )
        if facts.pad >= train.shape[1]:
            raise ValueError(f"a shift by {facts.pad} pixels is too much for {train.shape}")
    except _WRONG as error:
        text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ContractError(f"dataset {request.name!r} cannot be used: {text}") from error
    # As kdbench.data.finish does.
    names = (request.name.partition(":")[0], facts.class_names)
    settings = (facts.mean, facts.std, facts.pad, facts.flip)
    return Dataset(
        facts.name,
        train,
        test,
        facts.num_classes,
        facts.class_names,
        facts.mean,
        facts.std,
        Augmentation(facts.pad, facts.flip),
        split_digest((*names, *settings), train),
        split_digest(names, test),
        facts.note,
        LeftOut(tuple(LeftOutCount(**entry.model_dump()) for entry in facts.left_out)),
    )


def _read(path: Path, num_classes: int, data_dir: Path | None) -> ImageSet:
    """The images of a split, checked."""
    check_file(path.parent, path.name, LARGEST)
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())
        header = file.metadata() or {}
        streamed = "paths" in names
        if names != (["appended", "labels", "paths", "rows"] if streamed else ["labels", "pixels"]):
            raise ValueError(f"{path.name} holds {', '.join(names)[:200]}")
        tensors = {name: file.get_tensor(name) for name in names}
    labels = _whole(tensors["labels"], "labels", num_classes)
    if not len(labels):
        raise ValueError("a split is empty")
    if streamed:
        return _streamed(int(header["size"]), tensors, labels, data_dir)
    pixels = tensors["pixels"]
    _check_pixels(pixels, 1)
    return TensorImages(pixels, labels)


def _streamed(
    size: int, tensors: dict[str, Tensor], labels: Tensor, data_dir: Path | None
) -> ImageSet:
    """Images that stay on disk. They must lie in the folder of the dataset."""
    if tensors["paths"].dtype != torch.uint8 or tensors["paths"].dim() != 1:
        raise ValueError("its paths are no bytes")
    paths = unpacked(tensors["paths"])
    if data_dir is None:
        raise ValueError("it names files although it has no folder")
    folder = data_dir.resolve()
    for path in paths:
        real = Path(path).resolve()
        if not real.is_relative_to(folder) or not real.is_file():
            raise ValueError("it names a file that is not in its folder")
    _check_pixels(tensors["appended"], 3)
    if tuple(tensors["appended"].shape[1:3]) != (size, size):
        raise ValueError(f"its added images have not {size} pixels a side")
    total = len(paths) + len(tensors["appended"])
    rows = _whole(tensors["rows"], "rows", total)
    if len(rows) != len(labels):
        raise ValueError(f"{counted(len(rows), 'image')} with {counted(len(labels), 'label')}")
    return StreamedImages.restored(paths, tensors["appended"], rows, labels, size)


def _check_pixels(pixels: Tensor, channels_at: int) -> None:
    """Raise ValueError unless they are images of three channels."""
    shape = tuple(pixels.shape)
    if pixels.dtype != torch.uint8 or len(shape) != 4 or shape[channels_at] != 3:
        raise ValueError(f"its images are {pixels.dtype} {shape}")
    if not all(1 <= side <= WIDEST for side in shape[1:]):
        raise ValueError(f"its images are {shape}")


def _whole(numbers: Tensor, what: str, below: int) -> Tensor:
    if numbers.dtype != torch.int64 or numbers.ndim != 1:
        raise ValueError(f"its {what} are {numbers.dtype} {tuple(numbers.shape)}")
    if len(numbers) and not (int(numbers.min()) >= 0 and int(numbers.max()) < below):
        raise ValueError(f"its {what} are not all from 0 to {below - 1}")
    return numbers
