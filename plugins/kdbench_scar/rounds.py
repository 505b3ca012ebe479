"""Stage 2 of SCAR: a surrogate student follows the teacher, and the teacher is trained by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from kdbench.attack import AttackSetting, universal_response
from kdbench.data.base import Batch
from kdbench.models.base import FeatureModel
from kdbench.search_steps import fit_steps
from kdbench.training import Recipe
from kdbench.trigger_search import pick
from kdbench.triggers import AddTrigger
from kdbench_scar.losses import Losses, SCARParams, inner_loss

Facts = dict[str, float | int | str]


def new_student(setting: AttackSetting, params: SCARParams) -> FeatureModel:
    """A new surrogate that is distilled from the setting's teacher."""
    assert params.surrogate is not None
    surrogate = setting.network(params.surrogate)
    _distil(setting, params, surrogate, params.surrogate_epochs, "cosine")
    return surrogate


def harden(setting: AttackSetting, params: SCARParams, trigger: AddTrigger) -> None:
    """Train the setting's teacher on images with and without the trigger, in eval mode at the
    end."""
    teacher = setting.teacher.train()
    losses = Losses(params, setting.target_class, teacher, trigger)
    setting.fit(
        teacher,
        losses.of_teacher,
        setting.train,
        setting.recipe,
        generator=setting.generator,
        augmentation=setting.augmentation,
    )
    teacher.eval()


def play_rounds(setting: AttackSetting, params: SCARParams, trigger: AddTrigger) -> Facts:
    """Train a surrogate and the setting's teacher in turns, the teacher in eval mode at the end.

    What lives from one training to the next is in the two networks and the generator. So a stage
    that is run again goes on in the same bits.

    Returns:
        Facts of the surrogate. Without rounds there is its name alone.
    """
    assert params.surrogate is not None
    facts: Facts = {"surrogate": params.surrogate}
    if params.rounds == 0:
        return facts
    # Another one than that of the search: the trigger was made to fool that.
    surrogate = new_student(setting, params)
    shown = replace(setting, teacher=surrogate)
    facts["surrogate_asr_first"] = universal_response(shown, trigger)
    teacher = setting.teacher.train()
    losses = Losses(params, setting.target_class, teacher, trigger, surrogate)
    # As in the loop, a batch is no larger than the set.
    size = min(setting.recipe.batch_size, len(setting.train))
    ratios = []
    for _ in range(params.rounds):
        _distil(setting, params, surrogate, params.round_epochs, "constant")
        rows = pick(torch.arange(len(setting.train)), len(setting.train), setting.generator)
        ratios.append(_ratio(setting, losses, rows[:size]))
        fit_steps(
            setting,
            teacher,
            losses.of_teacher,
            rows,
            steps=params.round_batches,
            batch_size=size,
            lr=params.teacher_lr,
        )
    teacher.eval()
    facts["surrogate_asr_last"] = universal_response(shown, trigger)
    # A mean over the rounds, each at its beginning.
    facts["implicit_ratio"] = sum(ratios) / len(ratios)
    return facts


def _distil(
    setting: AttackSetting,
    params: SCARParams,
    surrogate: FeatureModel,
    epochs: int,
    schedule: Literal["cosine", "constant"],
) -> None:
    """Train a surrogate on the setting's teacher as it is now."""
    setting.fit(
        surrogate.train(),
        lambda batch: inner_loss(params, setting.teacher, surrogate, batch),
        setting.train,
        Recipe(
            epochs=epochs,
            batch_size=setting.recipe.batch_size,
            optimizer="adam",
            lr=params.surrogate_lr,
            weight_decay=0,
            schedule=schedule,
        ),
        generator=setting.generator,
        augmentation=setting.augmentation,
    )


def _ratio(setting: AttackSetting, losses: Losses, rows: torch.Tensor) -> float:
    """How the gradients of the teacher's terms compare, on training rows without augmentation."""
    device = setting.numerics.device
    images, labels = setting.train.read(rows, device), setting.train.labels[rows]
    batch = Batch(images, labels.to(device), rows)
    with setting.numerics.autocast():
        return losses.ratio(batch)
