"""Defenses that repair one network: the teacher before distillation, or the student after it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field, model_validator

from kdbench.data.base import Batch, ImageSet
from kdbench.data.fraction import rows_of_each_class
from kdbench.defense import Defense, DefenseSetting
from kdbench.method import Params
from kdbench.models.base import FeatureModel
from kdbench.models.views import FrozenTeacher
from kdbench.training import LossFunction, Recipe, cross_entropy


class RepairParams(Params):
    """Parameters of every repair."""

    when: Literal["after", "before"] = Field(
        "after", description="after: repair the student; before: repair the teacher; kdbench"
    )


class TuningParams(RepairParams):
    """Parameters of a repair that fine-tunes: what differs from the preset's recipe ``repair``."""

    epochs: int | None = Field(
        None, ge=0, description="epochs of fine-tuning, exactly; None: preset's"
    )
    batch_size: int | None = Field(None, ge=2, description="images a step; None: preset's")
    lr: float | None = Field(None, gt=0, description="learning rate; None: preset's")
    weight_decay: float | None = Field(None, ge=0, description="L2 penalty; None: preset's")
    milestones: tuple[float, ...] | None = Field(
        None,
        description="fractions of the fine-tuning at which the rate drops x0.1; None: preset's "
        "schedule",
    )

    def recipe(self, base: Recipe) -> Recipe:
        """The preset's recipe with these parameters in place of its numbers."""
        return changed(base, self.epochs, self.milestones, self)


def changed(
    base: Recipe, epochs: int | None, milestones: tuple[float, ...] | None, params: TuningParams
) -> Recipe:
    """``base`` with other epochs and milestones, and with the other numbers of ``params``.

    None keeps the number of ``base``.
    """
    changes = {
        k: v for k in ("batch_size", "lr", "weight_decay") if (v := getattr(params, k)) is not None
    }
    if epochs is not None:
        # Whoever sets the epochs wants that many, on a small set as well.
        changes |= {"epochs": epochs, "min_steps": 0}
    if milestones is not None:
        changes |= {"schedule": "steps", "milestones": milestones}
    return base.model_copy(update=changes)


class PlainTuningParams(TuningParams):
    """Parameters of a fine-tuning whose authors take plain momentum, and half a cosine as rate."""

    nesterov: bool = Field(
        False, description="momentum as Nesterov's, as finetune has it, else plain; authors' code"
    )
    cosine: bool = Field(
        False,
        description="the rate follows half a cosine to 0, else the preset's schedule; authors' "
        "code",
    )

    @model_validator(mode="after")
    def _one_schedule(self) -> PlainTuningParams:
        if self.cosine and self.milestones is not None:
            raise ValueError("cosine and milestones are two schedules; give one of them")
        return self

    def recipe(self, base: Recipe) -> Recipe:
        own = super().recipe(base).model_copy(update={"nesterov": self.nesterov})
        return own.model_copy(update={"schedule": "cosine"}) if self.cosine else own


class GuidedParams(TuningParams):
    """Parameters of a repair that a fine-tuned copy of the network teaches.

    ``epochs`` and ``milestones`` are the repair's. The other numbers of the recipe are both
    phases'.
    """

    teacher_epochs: int | None = Field(
        None,
        ge=0,
        description="epochs of fine-tuning the attention teacher, exactly; None: preset's; authors "
        "use 5-10",
    )
    teacher_milestones: tuple[float, ...] | None = Field(
        None,
        description="fractions of the attention teacher's training at which the rate drops x0.1; "
        "None: preset's schedule; "
        "authors: after 2 epochs, 0.2 of 10",
    )

    def teacher_recipe(self, base: Recipe) -> Recipe:
        """How the copy is fine-tuned."""
        return changed(base, self.teacher_epochs, self.teacher_milestones, self)


def position(batch: Batch, recipe: Recipe, images: int) -> tuple[int, int]:
    """(epoch, step of the epoch) of a batch, both from 0, in a training by ``recipe``.

    Args:
        images: how many images it is trained on.
    """
    per_epoch = max(1, images // min(recipe.batch_size, images))
    return divmod(round(batch.progress * recipe.passes(images) * per_epoch), per_epoch)


class Repair(Defense):
    """Base of a defense that repairs a network by itself.

    A subclass defines :meth:`repair`. The parameter ``when`` says which network it gets.
    """

    Params = RepairParams
    params: RepairParams

    def steps(self) -> frozenset[str]:
        return frozenset({"cleanse_teacher" if self.params.when == "before" else "repair_student"})

    def cleanse_teacher(self, teacher: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        return self.repair(teacher, setting)

    def repair_student(
        self, student: FeatureModel, teacher: FrozenTeacher, setting: DefenseSetting
    ) -> FeatureModel:
        return self.repair(student, setting)

    @abstractmethod
    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Return the repaired network. ``model`` is a private copy, on the device, in eval mode."""


def fine_tune(
    model: FeatureModel,
    setting: DefenseSetting,
    recipe: Recipe,
    *,
    images: ImageSet | None = None,
    loss: LossFunction | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Train all of ``model`` in place. It is in eval mode afterwards.

    Args:
        images: None: the defender's.
        loss: a function of the batch that uses ``model``. None: cross-entropy.
        generator: None: the setting's.
    """
    model.requires_grad_(True).train()
    setting.fit(
        model,
        loss or cross_entropy(model),
        images or setting.clean,
        recipe,
        generator=generator or setting.generator,
        augmentation=setting.augmentation,
    )
    model.eval()


def derived(generator: torch.Generator) -> torch.Generator:
    """Another generator, by the seed of this one. What draws from it leaves this one as it is."""
    return torch.Generator().manual_seed((generator.initial_seed() + 1) % 2**63)


def tuned_copy(model: FeatureModel, setting: DefenseSetting, params: GuidedParams) -> FrozenTeacher:
    """A fine-tuned copy of ``model`` as its teacher. It draws from a derived generator, so that the
    repair itself draws exactly as fine-tuning would."""
    tuned = copy.deepcopy(model)
    recipe = params.teacher_recipe(setting.recipe)
    fine_tune(tuned, setting, recipe, generator=derived(setting.generator))
    return FrozenTeacher(tuned)


def held_out(
    clean: ImageSet, fraction: float, generator: torch.Generator
) -> tuple[ImageSet, ImageSet]:
    """(images to repair with, images to choose with), without common images.

    The second part is the fraction of every class, and at least one image of each class that has
    two.
    """

    def count(size: int) -> int:
        return min(size - 1, max(1, round(fraction * size)))

    chosen = rows_of_each_class(clean.labels, count, generator)
    left = torch.ones(len(clean), dtype=torch.bool)
    left[chosen] = False
    return clean.subset(torch.nonzero(left).flatten()), clean.subset(chosen)
