"""For attacks that search a trigger on the frozen clean teacher and then train it in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from kdbench.attack import (
    PROBE,
    AttackSetting,
    PoisonedImages,
    choose_poison,
    finetune_poisoned,
    target_share,
)
from kdbench.data.base import Batch
from kdbench.errors import ConfigError
from kdbench.method import Params
from kdbench.models.base import GROUPS, FeatureModel, FeatureOutput
from kdbench.search_steps import fit_steps
from kdbench.triggers import BlendTrigger, LearnedTrigger, corner
from kdbench.universal_bound import UniversalBound

#: Features of triggered images -> the scalar that the search minimises.
FeatureLoss = Callable[[FeatureOutput], Tensor]
#: Share of the images that the search does not see, at most.
_UNSEEN = 0.25
#: Times that a search goes on, a fraction of its steps each, while the response is over its aim.
_ROUNDS = 5


class SearchParams(Params):
    """Parameters of every attack with a searched trigger."""

    shape: Literal["blend", "patch"] = Field(
        "blend",
        description="blend: the whole image, learned opacity per pixel; patch: a square with fixed "
        "opacity",
    )
    kappa: float = Field(
        0.2,
        gt=0,
        le=1,
        description="blend: upper bound of a pixel's opacity; RobustKD release uses 0.2, CheatKD "
        "0.5",
    )
    opacity: float = Field(
        1.0, gt=0, le=1, description="patch: its opacity; Yao et al. paste opaquely"
    )
    patch_fraction: float = Field(
        0.25,
        gt=0,
        le=1,
        description="patch: side as a fraction of the image height; kdbench (Yao et al.: 0.2)",
    )
    margin: int = Field(
        1, ge=0, description="patch: distance to the bottom and right border, pixels; Yao et al."
    )
    layers: tuple[Annotated[int, Field(ge=1, le=GROUPS)], ...] = Field(
        (3,), description="taps the trigger acts on, 1 to 3; 3 is the last group's"
    )
    space: Literal["pixel", "normalised"] = Field(
        "pixel",
        description="where pattern and image are mixed; normalised: a pattern in [0, 1] of the "
        "teacher's normalised input, "
        "as in both releases, that is one in [mean, mean + std] of the pixels",
    )
    steps: int = Field(
        2000,
        ge=0,
        description="Adam steps of the trigger search; 0: uniform noise; kdbench (releases: about "
        "156,000)",
    )
    lr: float = Field(
        0.005, gt=0, description="Adam learning rate of the trigger search; CheatKD release"
    )
    search_batch: int = Field(
        64, ge=2, description="images a step of the trigger search; CheatKD release"
    )
    max_universal: float | None = Field(
        5.0,
        gt=0,
        le=100,
        description="most non-target images, in percent, that the clean teacher may take for the "
        "target class with the trigger; none: any number; kdbench",
    )
    poison_rate: float = Field(
        0.1,
        ge=0,
        le=1,
        description="triggered images, fraction of the training set; kdbench (CheatKD release: "
        "0.02)",
    )
    cover: Literal["duplicate", "none"] = Field(
        "duplicate",
        description="duplicate: the poisoned images stay in the set with true labels too; CheatKD "
        "release",
    )

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if not layers:
            raise ValueError("layers must name at least one tap; give one or more of 1, 2, 3")
        return tuple(sorted(set(layers)))

    @field_validator("margin")
    @classmethod
    def _room_for_margin(cls, margin: int, info: ValidationInfo) -> int:
        # This one fits no image size. ``corner`` finds the others when the size is known.
        if margin and info.data.get("shape") == "patch" and info.data.get("patch_fraction") == 1:
            raise ValueError(
                "a patch as large as the image leaves no room for a margin; lower patch_fraction "
                "or set margin 0"
            )
        return margin

    @property
    def taps(self) -> tuple[int, ...]:
        """``layers`` as 0-based indices, ascending."""
        return tuple(layer - 1 for layer in self.layers)


@contextmanager
def frozen(model: FeatureModel) -> Iterator[FeatureModel]:
    """The model in eval mode without parameter gradients. Every flag is put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, wanted in gradients.items():
            parameter.requires_grad_(wanted)


def pooled(tap: Tensor) -> Tensor:
    """(N, C, H, W) -> float32 (N, C): the mean over the image."""
    return tap.float().mean((2, 3))


def pick(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Up to ``count`` of ``rows``, without repetition."""
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


def class_rows(setting: AttackSetting, *, target: bool) -> Tensor:
    """Training rows of the target class, or of all others.

    Raises:
        ConfigError: there are none.
    """
    rows = torch.nonzero((setting.train.labels == setting.target_class) == target).flatten()
    if len(rows) == 0:
        where = "in" if target else "outside"
        raise ConfigError(
            f"no training image is {where} target class {setting.target_class}; choose another "
            "target_class"
        )
    return rows


@torch.no_grad()
def clean_taps(
    setting: AttackSetting, rows: Tensor, reduce: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """``reduce`` of each tap of the clean teacher on training rows without a trigger."""
    parts: list[list[Tensor]] = [[] for _ in range(GROUPS)]
    with frozen(setting.teacher) as teacher, setting.numerics.autocast():
        for chunk in rows.split(PROBE):
            out = teacher.features(setting.train.read(chunk, setting.numerics.device))
            for part, tap in zip(parts, out.taps, strict=True):
                part.append(reduce(tap))
    return [torch.cat(part) for part in parts]


@dataclass(frozen=True)
class FoundTrigger:
    """The result of a search."""

    trigger: BlendTrigger
    """The trigger."""
    facts: dict[str, float | int | str]
    """Numbers about the search, for the record."""


def _start(setting: AttackSetting, params: SearchParams) -> LearnedTrigger:
    """Uniform noise: the trigger before the search."""
    device, shape = setting.numerics.device, setting.train.shape
    pattern = torch.rand(shape, generator=setting.generator)
    mask = torch.rand(1, *shape[1:], generator=setting.generator)
    if params.shape == "blend":
        mask = mask.clamp(max=params.kappa)
    else:
        side = max(1, round(params.patch_fraction * shape[1]))
        mask = torch.zeros_like(mask)
        mask[:, *corner(side, side, shape, params.margin)] = params.opacity
    most = params.kappa if params.shape == "blend" else None
    return LearnedTrigger(
        pattern.to(device),
        mask.to(device),
        most,
        setting.teacher if params.space == "normalised" else None,
    )


def search_trigger(setting: AttackSetting, params: SearchParams, loss: FeatureLoss) -> FoundTrigger:
    """Minimise ``loss`` over a trigger on non-target images. The teacher stays as it is.

    The clean teacher's response is kept under ``max_universal``. The search aims at half of it, on
    images that it steers by, and goes on for some rounds while it is over that. Then the trigger is
    the one with the least response after a round. The facts say where the response is over
    ``max_universal`` all the same, and so they do of noise that was not searched.
    """
    with frozen(setting.teacher):
        search = _Search(setting, params, loss)
        before, _ = search.measure(search.unseen)
        if params.steps:
            search.run(before)
        after, universal = search.measure(search.unseen)
    trigger = search.trigger.as_it_is().to(setting.numerics.device)
    facts: dict[str, float | int | str] = {
        "trigger_loss_before": before,
        "trigger_loss_after": after,
        "mean_opacity": float(trigger.mask.mean()),
        # What the trigger achieves by itself, before any poison, on images it was not searched on.
        "universal": universal,
    }
    if params.max_universal is not None and universal > params.max_universal:
        facts["max_universal"] = f"not reached: {params.max_universal:g} %"
    return FoundTrigger(trigger, facts)


class _Search:
    """A trigger while it is searched on the frozen teacher.

    Up to a quarter of the images are kept from the search. What is reported is measured on them.
    """

    def __init__(self, setting: AttackSetting, params: SearchParams, loss: FeatureLoss) -> None:
        self.setting, self.params, self.loss = setting, params, loss
        self.trigger = _start(setting, params)
        rows = class_rows(setting, target=False)
        rows = pick(rows, len(rows), setting.generator)
        count = min(PROBE, max(1, int(_UNSEEN * len(rows))))
        self.unseen = setting.train.read(rows[:count], setting.numerics.device)
        # A single image has to be in both.
        self.rows = rows[count:] if len(rows) > 1 else rows

    @torch.no_grad()
    def measure(self, images: Tensor) -> tuple[float, float]:
        """(the loss, the teacher's response in percent) on images with the trigger as it is now."""
        with self.setting.numerics.autocast():
            out = self.setting.teacher.features(self.trigger.on(images))
            return float(self.loss(out)), target_share(out.logits, self.setting.target_class)

    def run(self, start: float) -> None:
        """Minimise the loss, with a response under the bound.

        Args:
            start: the loss before.
        """
        steps, most = self.params.steps, self.params.max_universal
        if most is None:
            self.minimise(steps)
            return
        bound = UniversalBound(most, self.setting.target_class, abs(start) or 1.0)
        bound.to(self.setting.numerics.device)
        seen = self.setting.train.read(self.rows[:PROBE], self.setting.numerics.device)
        least, kept = math.inf, self.trigger.state()
        for _ in range(1 + _ROUNDS):
            self.minimise(steps, bound)
            _, response = self.measure(seen)
            if response < least:
                least, kept = response, self.trigger.state()
            if response <= bound.aim:
                break
            # The weight stays what it has grown to.
            steps = max(1, self.params.steps // _ROUNDS)
        self.trigger.restore(kept)

    def minimise(self, steps: int, bound: UniversalBound | None = None) -> None:
        """Train the trigger for some steps."""
        setting, params, trigger = self.setting, self.params, self.trigger

        def objective(batch: Batch) -> dict[str, Tensor]:
            out = setting.teacher.features(trigger.on(batch.images))
            terms = {"trigger": self.loss(out)}
            return terms if bound is None else terms | {"universal": bound.penalty(out.logits)}

        def after_step() -> None:
            trigger.project()
            if bound is not None:
                bound.adapt()

        fit_steps(
            setting,
            trigger.learned if bound is None else [*trigger.learned, bound],
            objective,
            self.rows,
            steps=steps,
            batch_size=params.search_batch,
            lr=params.lr,
            after_step=after_step,
        )


#: Further losses of the teacher's training.
#: (batch with triggers, its features, which rows are poisoned) -> named scalars.
ExtraLoss = Callable[[Batch, FeatureOutput, Tensor], dict[str, Tensor]]


def poisoned_set(
    setting: AttackSetting, params: SearchParams, search: FoundTrigger
) -> tuple[PoisonedImages, int]:
    """(the training set with the trigger on a random share of its images, how many those are)."""
    rows = choose_poison(
        setting.train.labels, params.poison_rate, setting.target_class, setting.generator
    )
    duplicate = params.cover == "duplicate"
    return PoisonedImages.build(
        setting.train, rows, search.trigger, setting.target_class, duplicate=duplicate
    ), len(rows)


def train_in(
    setting: AttackSetting,
    poisoned: PoisonedImages,
    coupling: FeatureLoss,
    weight: float,
    *,
    dirty_label: bool = True,
    extra: ExtraLoss | None = None,
    beside: tuple[nn.Module, ...] = (),
) -> None:
    """Fine-tune the setting's teacher on a poisoned set.

    The loss is cross-entropy plus ``weight`` times ``coupling`` on the features of each batch's
    poisoned rows, plus ``extra``.

    Args:
        dirty_label: False: cross-entropy sees the unpoisoned rows only, so no label is changed.
        beside: modules whose buffers ``extra`` changes.
    """
    teacher = setting.teacher

    def objective(batch: Batch) -> dict[str, Tensor]:
        out = teacher.features(batch.images)
        mask = poisoned.mask(batch)
        classified = torch.ones_like(mask) if dirty_label else ~mask
        # A sum over no rows keeps the graph alive where a mean would be NaN.
        ce = nn.functional.cross_entropy(
            out.logits[classified].float(), batch.labels[classified], reduction="sum"
        )
        terms = {"ce": ce / classified.sum().clamp(min=1)}
        if weight and mask.any():
            chosen = FeatureOutput(
                tuple(g[mask] for g in out.groups),
                tuple(t[mask] for t in out.taps),
                out.logits[mask],
                None if out.stem is None else out.stem[mask],
            )
            terms["coupling"] = weight * coupling(chosen)
        return terms if extra is None else terms | extra(batch, out, mask)

    finetune_poisoned(setting, poisoned, objective, beside)
