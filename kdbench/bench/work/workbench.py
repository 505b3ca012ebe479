"""What a stage works with: its task, its inputs as objects, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kdbench.attack import Trigger
from kdbench.bench.keys import MODEL
from kdbench.bench.kinds import Kind
from kdbench.bench.work.task import Product, Task
from kdbench.data.base import Augmentation, ImageSet
from kdbench.data.files import load_images
from kdbench.data.fraction import defender_images
from kdbench.defense import DefenseSetting
from kdbench.errors import ContractError, IntegrityError
from kdbench.loading.registry import Registry
from kdbench.models import create_model
from kdbench.models.base import FeatureModel
from kdbench.models.files import load_module, save_module
from kdbench.numerics import Numerics
from kdbench.training import Fit, Progress, Recipe
from kdbench.training.checkpoint import FolderCheckpoints
from kdbench.training.profiling import spanned


@dataclass(frozen=True)
class Workbench:
    """One stage at work."""

    task: Task
    """What the stage is told."""
    registry: Registry
    """Methods and networks by name."""
    numerics: Numerics
    """Device and arithmetic."""
    fit: Fit
    """The loop, with the stage's checkpoints and progress."""
    links: Mapping[str, int]
    """Companion -> descriptor of the socket that leads to it."""

    @classmethod
    def of(
        cls, task: Task, registry: Registry, progress: Progress, links: Mapping[str, int]
    ) -> Workbench:
        """The workbench of a task. Makes the folder of its results."""
        numerics = Numerics(torch.device(task.device), task.bf16, task.threads)
        checkpoints = FolderCheckpoints(task.checkpoints, task.checkpoint_s)
        task.out.mkdir(parents=True, exist_ok=True)
        fit = Fit(numerics, progress, checkpoints=checkpoints)
        return cls(task, registry, numerics, fit, links)

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.task.pad, self.task.flip)

    @spanned("files")
    def train(self) -> ImageSet:
        assert self.task.train is not None
        return load_images(self.task.inputs_folder / self.task.train)

    @spanned("files")
    def test(self) -> ImageSet:
        assert self.task.test is not None
        return load_images(self.task.inputs_folder / self.task.test)

    def recipe(self) -> Recipe:
        return Recipe(**self.task.values["recipe"])

    def generator(self) -> torch.Generator:
        """A new generator with the seed of the stage."""
        return torch.Generator().manual_seed(self.task.random_seed)

    def method(self, values: dict[str, Any]) -> Any:
        """The attack, distiller or defense that ``values`` names, with its parameters."""
        cls = self.registry.get(values["kind"], values["name"])
        return cls(cls.Params(**values["params"]))

    @spanned("files")
    def input(self, role: str) -> FeatureModel:
        """A private copy of a network that the stage rests on, on the device, in eval mode."""
        model, record = load_module(
            self.task.inputs_folder / self.task.inputs[role], self.task.packages
        )
        if not isinstance(model, FeatureModel):
            raise IntegrityError(
                f"{self.task.inputs[role]} holds a {type(model).__name__}, no network"
            )
        # An imported teacher came as weights alone. Its input is normalised as the dataset says.
        if record.get("normalization") == "dataset":
            model.set_normalization(self.task.mean, self.task.std)
        return self.numerics.place(model)

    @spanned("files")
    def trigger(self) -> tuple[Trigger, tuple[int, ...] | None]:
        """(the trigger, the classes that it is for). None: every class but the target."""
        trigger, record = load_module(
            self.task.inputs_folder / self.task.inputs["trigger"], self.task.packages
        )
        if not isinstance(trigger, Trigger):
            raise IntegrityError(
                f"{self.task.inputs['trigger']} holds a {type(trigger).__name__}, no trigger"
            )
        sources = record["source_classes"]
        return self.numerics.place(trigger), None if sources is None else tuple(sources)

    @spanned("files")
    def keep(self, model: FeatureModel, facts: dict[str, Any] | None = None) -> Product:
        """Save a network as the stage's result."""
        if not isinstance(model, FeatureModel):
            raise ContractError(
                f"a stage must return a network (FeatureModel), got {type(model).__name__}"
            )
        save_module(model.eval(), self.task.out / MODEL)
        return Product(facts or {})

    @spanned("files")
    def new_model(self, name: str) -> FeatureModel:
        """A network with fresh weights, on the device."""
        model = create_model(
            name,
            self.task.num_classes,
            image_size=self.task.image_size,
            sources=self.registry.models,
        )
        model.set_normalization(self.task.mean, self.task.std)
        return self.numerics.place(model)

    def defense_setting(self) -> DefenseSetting:
        """All that a defense may know: nothing of the attack, and only its share of the images."""
        # The values of a distillation hold those of its defense. Other kinds have the defense's.
        distilling = self.task.kind is Kind.DISTILL
        values = self.task.values["defense"] if distilling else self.task.values
        clean = self.train()
        # A distillation needs all images. The file of other kinds holds the defender's share alone.
        if distilling:
            clean = defender_images(clean, values["clean_fraction"], self.task.seed)
        return DefenseSetting(
            clean=clean,
            num_classes=self.task.num_classes,
            recipe=Recipe(**values["recipe"]),
            augmentation=self.augmentation,
            fit=self.fit,
            generator=self.generator(),
            numerics=self.numerics,
        )
