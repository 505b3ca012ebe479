"""The presets: every number of a run in one TOML file each."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from kdbench.bench.request.preset_files import preset_names, preset_numbers
from kdbench.errors import UnknownMethodError, unknown
from kdbench.method import Params
from kdbench.training import Recipe


class DatasetSizes(Params):
    """What is taken of a dataset when the request does not say. None: what the dataset has."""

    image_size: int | None = Field(default=None, ge=8, description="pixels a side")
    num_classes: int | None = Field(default=None, ge=2, description="classes")
    train_size: int | None = Field(default=None, ge=2, description="training images")
    test_size: int | None = Field(default=None, ge=2, description="test images")


class Preset(Params):
    """Every number that is not a method's own parameter."""

    transfer_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="the deployer's share of the training images that are not held out",
    )
    clean_fraction: float = Field(
        1.0, gt=0, le=1, description="the defender's share of the deployer's images"
    )
    min_teacher_acc: float = Field(
        50.0,
        ge=0,
        le=100,
        description="a teacher of lower ACC on held-out images has not learned its task, %",
    )
    datasets: dict[str, DatasetSizes] = Field(
        default_factory=dict, description="sizes of datasets, by name"
    )
    clean: Recipe
    poison: Recipe
    distill: Recipe
    repair: Recipe

    def sizes_of(self, dataset: str) -> DatasetSizes:
        """What the preset takes of a dataset, by its name or as ``NAME:PATH``."""
        return self.datasets.get(dataset.partition(":")[0], DatasetSizes())


def read_preset(name: str) -> dict[str, Any]:
    """The preset's numbers as written.

    Raises:
        UnknownMethodError: no such preset.
    """
    if name not in preset_names():
        raise UnknownMethodError(unknown("preset", name, preset_names()))
    return preset_numbers(name)
