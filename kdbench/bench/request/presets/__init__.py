"""The presets: every number of a run in one TOML file each."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from kdbench.bench.request.preset_files import preset_names, preset_numbers
from kdbench.errors import UnknownMethodError, unknown
from kdbench.method import Params
from kdbench.training import Recipe

#: The recipes of a preset.
RecipeName = Literal["clean", "poison", "distill", "repair"]
RECIPES: tuple[RecipeName, ...] = get_args(RecipeName)


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
    networks: dict[str, dict[RecipeName, dict[str, Any]]] = Field(
        default_factory=dict,
        description="numbers of recipes that differ for the pairs of a teacher, by its network",
    )
    clean: Recipe
    poison: Recipe
    distill: Recipe
    repair: Recipe

    def sizes_of(self, dataset: str) -> DatasetSizes:
        """What the preset takes of a dataset, by its name or as ``NAME:PATH``."""
        return self.datasets.get(dataset.partition(":")[0], DatasetSizes())

    def of_teacher(self, network: str) -> Preset:
        """The preset for the pairs of a teacher, by the name of its network.

        A preset is a budget of time. A step of a deep teacher costs many steps of a small one, and
        teaches it more. So one length cannot fit both.
        """
        recipes: dict[str, Any] = {
            name: Recipe(**{**getattr(self, name).model_dump(), **numbers})
            for name, numbers in self.networks.get(network, {}).items()
        }
        return self.model_copy(update={**recipes, "networks": {}})


def read_preset(name: str) -> dict[str, Any]:
    """The preset's numbers as written.

    Raises:
        UnknownMethodError: no such preset.
    """
    if name not in preset_names():
        raise UnknownMethodError(unknown("preset", name, preset_names()))
    return preset_numbers(name)
