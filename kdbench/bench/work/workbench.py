"""What a stage works with: its task, its inputs as objects, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.bench.keys import MODEL
from kdbench.bench.kinds import Kind
from kdbench.bench.work.companions import (
    COPIES,
    TRIGGER,
    as_network,
    as_trigger,
    remote_network,
    remote_trigger,
)
from kdbench.bench.work.findings import finding_facts
from kdbench.bench.work.results import WRAPPERS, source_classes
from kdbench.bench.work.task import Product, Task
from kdbench.data.base import Augmentation, ImageSet
from kdbench.data.files import load_images
from kdbench.data.fraction import defender_images
from kdbench.defense import DefenseSetting, Finding
from kdbench.errors import ContractError
from kdbench.loading.registry import Registry
from kdbench.metrics import Network, network_of
from kdbench.models import create_model
from kdbench.models.base import FeatureModel
from kdbench.models.files import load_module, save_module
from kdbench.models.named import check_network
from kdbench.numerics import Numerics
from kdbench.training import Fit, Progress, Recipe, seeded
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
    findings: list[Finding] = field(default_factory=list)
    """What a defense reported."""

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
    def images(self) -> ImageSet:
        """The images that a stage of this kind may see."""
        return self._images(self.task.images)

    def _images(self, file: str) -> ImageSet:
        return load_images(self.task.inputs_folder / file, workers=self.task.decoders)

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
        path = self._file(role)
        module, record = load_module(path, self.task.packages.get(role, ()))
        model = as_network(module, record, self.task.mean, self.task.std, path.name)
        return self.numerics.place(model)

    def _file(self, role: str) -> Path:
        return self.task.inputs_folder / self.task.inputs[role]

    def networks(self) -> tuple[Network, Network]:
        """Two copies of the network to measure. One that needs no plugin is the same one twice."""
        first, second = (
            remote_network(self.links[name], self.task.num_classes) if name in self.links else None
            for name in COPIES
        )
        if first is None:
            first = network_of(self.input("model"), self.numerics)
        return first, second or first

    @spanned("files")
    def trigger(self) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...] | None]:
        """(the trigger, the classes that it is for). None: every class but the target."""
        path = self._file("trigger")
        if TRIGGER in self.links:
            return remote_trigger(self.links[TRIGGER]), source_classes(path)
        module, _ = load_module(path, self.task.packages.get("trigger", ()))
        return self.numerics.place(as_trigger(module, path.name)), source_classes(path)

    @spanned("files")
    def keep(self, model: FeatureModel, facts: dict[str, Any] | None = None) -> Product:
        """Save a network as the stage's result.

        Raises:
            ContractError: it is not the network of the stage.
        """
        if not isinstance(model, FeatureModel):
            raise ContractError(
                f"a stage must return a network (FeatureModel), got {type(model).__name__}"
            )
        check_network(
            model,
            self.task.network,
            self.task.num_classes,
            self.task.image_size,
            sources=self.registry.models,
            wrappers=WRAPPERS.get(self.task.kind, ()),
        )
        save_module(model.eval(), self.task.out / MODEL)
        return Product((facts or {}) | finding_facts(self.findings, self.task.num_classes))

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

    def new_models(self, generator: torch.Generator) -> Callable[[str], FeatureModel]:
        """What gives an attack networks by name, as :class:`AttackSetting` says."""

        def network(name: str) -> FeatureModel:
            with seeded(int(torch.randint(1 << 62, (), generator=generator))):
                return self.new_model(name).train()

        return network

    def defense_setting(self) -> DefenseSetting:
        """All that a defense may know: nothing of the attack, and only its share of the images."""
        # The values of a distillation hold those of its defense. Other kinds have the defense's.
        distilling = self.task.kind is Kind.DISTILL
        values = self.task.values["defense"] if distilling else self.task.values
        clean = self.images()
        # A distillation needs all of the deployer's images. The file of other kinds holds the
        # defender's share alone.
        if distilling:
            clean = defender_images(clean, values["clean_fraction"], self.task.seed)
        return DefenseSetting(
            clean=clean,
            unlabeled=self._images(self.task.pool) if self.task.pool else None,
            num_classes=self.task.num_classes,
            recipe=Recipe(**values["recipe"]),
            augmentation=self.augmentation,
            fit=self.fit,
            generator=self.generator(),
            numerics=self.numerics,
            report=self.findings.append,
        )
