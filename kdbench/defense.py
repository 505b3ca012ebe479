"""What a defense plugin subclasses, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kdbench.data.base import Augmentation, ImageSet
from kdbench.method import Method
from kdbench.models.base import FeatureModel
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Fit, Recipe

STEPS = ("cleanse_teacher", "objective", "repair_student")


@dataclass(frozen=True)
class DefenseSetting:
    """All a defender holds: clean labelled images, no trigger, no target class, no test image.

    clean: the stated fraction of the training images. num_classes.
    recipe: how a repaired network is fine-tuned (from the preset). augmentation: for training
    images.
    fit: the core's loop. generator: CPU generator for all randomness. numerics: device and
    autocast.
    """

    clean: ImageSet
    num_classes: int
    recipe: Recipe
    augmentation: Augmentation
    fit: Fit
    generator: torch.Generator
    numerics: Numerics


class Defense(Method):
    """Three optional steps; each default changes nothing. All models are on the device, in eval
    mode."""

    kind = "defense"

    def steps(self) -> frozenset[str]:
        """Which of the three steps these parameters use. A step not named here is not run, and its
        result is shared with the undefended control. By default: those that the class overrides."""
        return frozenset(
            step for step in STEPS if getattr(type(self), step) is not getattr(Defense, step)
        )

    def cleanse_teacher(self, teacher: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Before distillation. ``teacher`` is a private copy."""
        return teacher

    def objective(
        self, teacher: FrozenTeacher, student: FeatureModel, setting: DefenseSetting
    ) -> nn.Module | None:
        """During distillation: a module like a distiller's whose named losses are added, or
        None."""
        return None

    def repair_student(
        self, student: FeatureModel, teacher: FrozenTeacher, setting: DefenseSetting
    ) -> FeatureModel:
        """After distillation. ``student`` is a private copy."""
        return student
