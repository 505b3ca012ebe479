"""What a defense plugin subclasses, and what it is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from kdbench.data.base import Augmentation, ImageSet
from kdbench.errors import ContractError
from kdbench.method import Method
from kdbench.models.base import FeatureModel
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Fit, Recipe

STEPS = ("cleanse_teacher", "objective", "repair_student")


@dataclass(frozen=True)
class Finding:
    """What a defense found that looks for a backdoor before it removes one."""

    flagged: tuple[int, ...]
    """Classes that it takes for the target of a backdoor. Empty: none."""
    score: float
    """How suspicious the network is. Larger is more. The scale is the method's own."""
    per_class: tuple[float, ...] = ()
    """The same of each class, if the method has it."""


def check_finding(finding: object, num_classes: int) -> None:
    """Refuse what is no finding of a network with so many classes.

    Raises:
        ContractError: why not.
    """
    if not isinstance(finding, Finding):
        raise ContractError(f"report takes a Finding, and got a {type(finding).__name__}")
    if not all(type(c) is int and 0 <= c < num_classes for c in finding.flagged):
        raise ContractError(
            f"flagged={finding.flagged!r}; classes are whole numbers from 0 to {num_classes - 1}"
        )
    numbers = (finding.score, *finding.per_class)
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ContractError("the scores of a finding are finite numbers")
    if finding.per_class and len(finding.per_class) != num_classes:
        raise ContractError(
            f"per_class has {len(finding.per_class)} scores for {num_classes} classes"
        )


def _forget(finding: Finding) -> None:
    """Where nobody asks what was found."""


@dataclass(frozen=True)
class DefenseSetting:
    """All a defender holds: clean labelled images, perhaps others without labels, no trigger, no
    target class, no test image.

    Its process can open none of these, and before and after distillation no other training images.
    docs/threat-model.md says on which systems, and names the tests.
    """

    clean: ImageSet
    """The defender's images: ``clean_fraction`` of the deployer's."""
    num_classes: int
    recipe: Recipe
    """How a repaired network is fine-tuned. It comes from the preset."""
    augmentation: Augmentation
    """For training images."""
    fit: Fit
    """The core's optimisation loop."""
    generator: torch.Generator
    """A CPU generator for all randomness of the defense."""
    numerics: Numerics
    """Device and autocast."""
    report: Callable[[Finding], None] = _forget
    """Takes what the defense found. The results then have the classes, and whether the target is
    among them. A defense is never told the latter."""
    unlabeled: ImageSet | None = None
    """Further images, none of them the deployer's, each with the label -1. None: the request has no
    ``--unlabeled``. Whatever labels it is made with, a setting holds -1."""

    def __post_init__(self) -> None:
        if self.unlabeled is not None:
            object.__setattr__(self, "unlabeled", self.unlabeled.unlabeled())


class Defense(Method):
    """Three optional steps; each default changes nothing. All models are on the device, in eval
    mode."""

    kind = "defense"

    def steps(self) -> frozenset[str]:
        """Which of the three steps these parameters use; by default those that the class overrides.

        A step that is not named is not run. Its result is shared with the undefended control.
        """
        return frozenset(
            step for step in STEPS if getattr(type(self), step) is not getattr(Defense, step)
        )

    def cleanse_teacher(self, teacher: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Before distillation. ``teacher`` is a private copy.

        Return the same network with other weights, or ``Edited`` or ``Pruned`` of
        :mod:`kdbench.models.views` around it. The editor may be of a class of the plugin. Another
        network is an error. A measurement shows an edited teacher the test images in random order,
        without labels, in a process of its own.
        """
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
        """After distillation. ``student`` is a private copy.

        Return the same network with other weights, or ``Pruned`` of :mod:`kdbench.models.views`
        around it. Another network, the teacher, or a class of the plugin is an error.
        """
        return student
