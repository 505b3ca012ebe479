"""What each kind of stage does. A stage gets the results it rests on and returns a model (and, for an attack, a trigger)."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kdbench.attack import AttackSetting, Trigger
from kdbench.bench.plan import Stage
from kdbench.bench.spec import Resolved
from kdbench.data import Dataset
from kdbench.data.base import Batch, ImageSet
from kdbench.defense import DefenseSetting
from kdbench.errors import ContractError
from kdbench.models import create_model
from kdbench.models.base import FeatureModel
from kdbench.models.views import FrozenTeacher
from kdbench.training import Fit, Numerics, Progress


@dataclass
class Result:
    """What a stage leaves behind: a model in eval mode, for an attack its trigger (and the classes that it works on, see
    Backdoor), and numbers for the record."""

    model: FeatureModel
    trigger: Trigger | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    source_classes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Bench:
    """What every stage of a run shares."""

    resolved: Resolved
    dataset: Dataset
    numerics: Numerics
    progress: Progress

    def run(self, stage: Stage, inputs: Mapping[str, Result]) -> Result:
        """Run one stage under its own random state; the caller's is untouched."""
        fit = Fit(self.numerics, self.progress)
        with _seeded(stage.random_seed()):
            result = _KINDS[stage.kind](self, stage, inputs, fit)
        if fit.losses:
            result.facts.setdefault("loss", fit.losses[-1])
        result.model.eval()
        return result

    # -- one method a kind; each gets a loop of its own, so that no stage sees another's losses --

    def clean(self, stage: Stage, inputs: Mapping[str, Result], fit: Fit) -> Result:
        model = self._new_model(stage.values["model"]).train()
        fit(
            model.parameters(),
            lambda batch: {"ce": torch.nn.functional.cross_entropy(model(batch.images).float(), batch.labels)},
            self.dataset.train,
            self.resolved.preset.clean,
            generator=_generator(stage),
            augmentation=self.dataset.augmentation,
        )
        return Result(model)

    def backdoor(self, stage: Stage, inputs: Mapping[str, Result], fit: Fit) -> Result:
        attack = self.resolved.method("attack", stage.values["name"])
        setting = AttackSetting(
            teacher=copy.deepcopy(inputs["clean"].model).eval(),
            train=self.dataset.train,
            target_class=self.resolved.spec.target_class,
            num_classes=self.dataset.num_classes,
            recipe=self.resolved.preset.poison,
            augmentation=self.dataset.augmentation,
            fit=fit,
            generator=_generator(stage),
            numerics=self.numerics,
        )
        backdoor = attack.implant(setting)
        if not isinstance(backdoor.trigger, Trigger) or backdoor.target_class != setting.target_class:
            raise ContractError(f"attack {attack.info.name!r} must return a Trigger and keep the target class it was given")
        trigger = self.numerics.place(backdoor.trigger).eval()
        return Result(backdoor.teacher, trigger, dict(backdoor.facts), backdoor.source_classes)  # type: ignore[arg-type]

    def cleanse(self, stage: Stage, inputs: Mapping[str, Result], fit: Fit) -> Result:
        defense = self.resolved.method("defense", stage.values["name"])
        teacher = copy.deepcopy(inputs["teacher"].model).eval()
        return Result(defense.cleanse_teacher(teacher, self._defense_setting(stage, fit)))

    def distill(self, stage: Stage, inputs: Mapping[str, Result], fit: Fit) -> Result:
        distiller = self.resolved.method("distiller", stage.values["distiller"]["name"])
        student = self._new_model(stage.values["model"]).train()
        teacher = FrozenTeacher(inputs["teacher"].model, distiller.batch_norm_mode())
        objectives = [self.numerics.place(distiller.objective(teacher, student)).train()]
        if stage.values["defense"] is not None:
            defense = self.resolved.method("defense", stage.values["defense"]["name"])
            extra = defense.objective(teacher, student, self._defense_setting(stage, fit))
            if extra is not None:
                objectives.append(self.numerics.place(extra).train())

        def loss(batch: Batch) -> dict[str, torch.Tensor]:
            teacher_out, student_out = teacher.features(batch.images), student.features(batch.images)
            terms: dict[str, torch.Tensor] = {}
            for objective in objectives:
                named = objective(batch, teacher_out, student_out)
                if clash := terms.keys() & named.keys():
                    raise ContractError(f"two objectives name the same loss: {', '.join(sorted(clash))}")
                terms |= named
            return terms

        fit(
            [*student.parameters(), *(p for objective in objectives for p in objective.parameters())],
            loss,
            self.dataset.train,
            self.resolved.preset.distill,
            generator=_generator(stage),
            augmentation=self.dataset.augmentation,
        )
        return Result(student)

    def repair(self, stage: Stage, inputs: Mapping[str, Result], fit: Fit) -> Result:
        defense = self.resolved.method("defense", stage.values["name"])
        student = copy.deepcopy(inputs["student"].model).eval()
        return Result(
            defense.repair_student(student, FrozenTeacher(inputs["teacher"].model), self._defense_setting(stage, fit))
        )

    # -- shared pieces -------------------------------------------------------------------------------------------------

    def _new_model(self, name: str) -> FeatureModel:
        model = create_model(name, self.dataset.num_classes, image_size=self.dataset.image_size)
        model.set_normalization(self.dataset.mean, self.dataset.std)
        return self.numerics.place(model)  # type: ignore[return-value]

    def _defense_setting(self, stage: Stage, fit: Fit) -> DefenseSetting:
        preset = self.resolved.preset
        return DefenseSetting(
            clean=_share(self.dataset.train, preset.clean_fraction, stage.seed),
            num_classes=self.dataset.num_classes,
            recipe=preset.repair,
            augmentation=self.dataset.augmentation,
            fit=fit,
            generator=_generator(stage),
            numerics=self.numerics,
        )


_KINDS = {
    "clean": Bench.clean,
    "backdoor": Bench.backdoor,
    "cleanse": Bench.cleanse,
    "distill": Bench.distill,
    "repair": Bench.repair,
}


def _generator(stage: Stage) -> torch.Generator:
    return torch.Generator().manual_seed(stage.random_seed())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global random states of torch, numpy and Python, seeded inside and restored outside."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _share(train: ImageSet, fraction: float, seed: int) -> ImageSet:
    """The defender's images: a fixed random fraction of every class, at least two of each; all of them for 1.0."""
    if fraction >= 1:
        return train
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in torch.unique(train.labels):
        of_class = torch.nonzero(train.labels == label).flatten()
        count = max(min(2, len(of_class)), round(fraction * len(of_class)))
        rows.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
    return train.subset(torch.sort(torch.cat(rows)).values)
