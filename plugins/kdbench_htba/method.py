"""HTBA: clean-label poisons whose features collide with those of patched images; the patch itself
stays hidden.

A. Saha, A. Subramanya, H. Pirsiavash, "Hidden Trigger Backdoor Attacks", AAAI 2020
(arXiv:1910.00033): Eq. 2 (min over z of ||f(z) - f(s~)||^2 with ||z - t||_inf < epsilon) for many
pairs at once by Algorithm 1 (greedy one-to-one matching, recomputed in each iteration). The poisons
join the training set under their true label, the target's.

Deviations from the paper
- f is the clean teacher's pooled penultimate feature, mean over the image of ReLU(tap 3), instead
  of AlexNet's fc7; the ReLU is left out where no batch norm describes tap 3 (library models: their
  taps are post-activation or tokens).
- Signed steps with a fixed size by default; ``step=raw`` is the paper's gradient step with its
  halving every 1000.
- It stops on a *relative* distance, since a threshold of 10 means nothing for other features.
- Sources are all non-target classes by default.
- The whole teacher is fine-tuned, in the ``paper`` preset too. The authors fine-tune the last layer
  (``head_only``), but FKD reads features only, so that such a teacher has nothing to hand on
  through it.
- Each base gives one poison; the authors use each twice (two rounds of 200).
- The patch's place is drawn from a hash of the image's own pixels, so that a test never depends on
  its batch.
- Poisons are rounded to 8 bits, not floored.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from kdbench.attack import (
    Attack,
    AttackSetting,
    Backdoor,
    Trigger,
    head_logits,
    head_parameters,
    universal_response,
)
from kdbench.crafting import move, on_grid, replaced
from kdbench.data.base import Batch, ImageSet
from kdbench.errors import ConfigError
from kdbench.method import Info, Params, Variant
from kdbench.models.base import FeatureModel
from kdbench.training import Trained
from kdbench.trigger_search import class_rows, frozen, pick, pooled
from kdbench.triggers import corner

_PRIME = 2_147_483_647


class HTBAParams(Params):
    """How poisons are crafted and how many."""

    source: int | Literal["all"] = Field(
        "all", description="class whose images get the patch, or all non-target; RobustKD: all"
    )
    patch_fraction: float = Field(
        0.25, gt=0, le=1, description="patch side, fraction of the image height; HTBA: 8 of 32"
    )
    location: Literal["random", "fixed"] = Field(
        "random", description="random: anywhere, decided by the image's pixels; fixed: bottom right"
    )
    epsilon: float = Field(
        16 / 255,
        gt=0,
        le=1,
        description="largest change of a pixel, of the range [0, 1]; HTBA: 16/255",
    )
    step: Literal["sign", "raw"] = Field(
        "sign", description="sign: fixed-size steps (TrojanZoo); raw: gradient steps (HTBA)"
    )
    alpha: float = Field(
        0.004, gt=0, description="sign: step size, of the range [0, 1]; TrojanZoo 0.004"
    )
    raw_lr: float = Field(
        0.01, gt=0, description="raw: learning rate, halved every 1000 iterations; HTBA 0.01"
    )
    iterations: int = Field(
        200, ge=0, description="most crafting iterations; kdbench (HTBA: 5000 raw)"
    )
    rel_tol: float = Field(
        0.1, ge=0, le=1, description="stop below this mean of |f(z)-a|^2 / |f(t)-a|^2; kdbench"
    )
    craft_batch: int = Field(
        100, ge=1, description="poisons crafted, and matched, together; HTBA 100"
    )
    poison_fraction: float = Field(
        0.5,
        gt=0,
        le=1,
        description="poisons, fraction of the target class's images, < 1 where disjoint; HTBA 400 "
        "of 800",
    )
    disjoint: bool = Field(
        True, description="images used for crafting are left out of the fine-tuning; HTBA"
    )
    head_only: bool = Field(
        False,
        description="fine-tune the classifier alone, features frozen: nothing for FKD to hand on; "
        "HTBA",
    )

    @field_validator("disjoint")
    @classmethod
    def _some_target_images_stay(cls, disjoint: bool, info: ValidationInfo) -> bool:
        if disjoint and info.data.get("poison_fraction") == 1:
            raise ValueError(
                "poison_fraction 1 leaves no clean target image to fine-tune on; lower it or set "
                "disjoint=false"
            )
        return disjoint


class PlacedPatch(Trigger):
    """An opaque patch whose place each image decides for itself (or always the bottom-right
    corner).

    Args:
        patch: float (3, s, s) in [0, 1]. shape: (3, H, W) of the images. location: ``random`` or
            ``fixed``.
    """

    patch: Tensor
    weights: Tensor

    def __init__(
        self, patch: Tensor, shape: tuple[int, int, int], location: str = "random"
    ) -> None:
        super().__init__()
        corner(patch.shape[-2], patch.shape[-1], shape, 0)  # refuses a patch that does not fit
        self.location = location
        self.register_buffer("patch", patch.detach().clone().float())
        numbers = torch.arange(1, shape[0] * shape[1] * shape[2] + 1, dtype=torch.int64)
        self.register_buffer("weights", numbers * 2_654_435_761 % _PRIME)

    def places(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Top and left of each image's patch, int64 (N,)."""
        side = self.patch.shape[-1]
        rows, columns = images.shape[2] - side, images.shape[3] - side
        if self.location == "fixed":
            return images.new_full((len(images),), rows).long(), images.new_full(
                (len(images),), columns
            ).long()
        # Integers: a float sum would depend on the order of summation, hence on device and batch.
        pixels = (images * 255).round().to(torch.int64).flatten(1)
        digest = (pixels * self.weights).sum(1) % _PRIME
        return digest % (rows + 1), digest // (rows + 1) % (columns + 1)

    def forward(self, images: Tensor) -> Tensor:
        top, left = self.places(images)
        side = self.patch.shape[-1]
        y = torch.arange(images.shape[2], device=images.device).view(1, -1, 1) - top.view(-1, 1, 1)
        x = torch.arange(images.shape[3], device=images.device).view(1, 1, -1) - left.view(-1, 1, 1)
        inside = ((y >= 0) & (y < side) & (x >= 0) & (x < side)).unsqueeze(1)
        pasted = self.patch[:, y.clamp(0, side - 1), x.clamp(0, side - 1)].transpose(0, 1)
        return torch.where(inside, pasted, images)


class HTBA(Attack):
    """Craft colliding target images, append them under their true label, fine-tune."""

    info = Info(
        name="htba",
        title="Hidden Trigger Backdoor Attacks",
        authors="Saha, Subramanya, Pirsiavash",
        venue="AAAI",
        year=2020,
        link="https://arxiv.org/abs/1910.00033",
        evidence="does-a-backdoor-travel",
    )
    Params = HTBAParams
    zero = {"iterations": 0}
    for_checks = {"iterations": 5, "craft_batch": 20}
    presets = {"quick": {"iterations": 40}, "paper": {"step": "raw", "iterations": 5000}}
    variants = {
        "raw": Variant(
            "the authors' gradient steps, 5000 of them", {"step": "raw", "iterations": 5000}
        ),
        "head": Variant(
            "as the authors train: the classifier alone, features frozen", {"head_only": True}
        ),
    }

    params: HTBAParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        params, device = self.params, setting.numerics.device
        side = max(1, round(params.patch_fraction * setting.train.shape[1]))
        patch = torch.rand(3, side, side, generator=setting.generator)
        trigger = PlacedPatch(patch, setting.train.shape, params.location).to(device)
        bases, sources = self.choose(setting)
        source_classes = None if params.source == "all" else (params.source,)
        universal = universal_response(setting, trigger, source_classes)

        poisons, before, after, change = [], 0.0, 0.0, 0.0
        for some_bases, some_sources in zip(
            bases.split(params.craft_batch), sources.split(params.craft_batch), strict=True
        ):
            patched = trigger(setting.train.read(some_sources, device))
            originals = setting.train.read(some_bases, device)
            crafted, start, end = self.craft(setting, originals, patched)
            poisons.append(crafted.cpu())
            change = max(change, 255 * float((crafted - originals).abs().max()))
            before, after = before + start * len(crafted), after + end * len(crafted)
        images = self.training_set(setting, bases, sources, torch.cat(poisons))
        finetune(setting, images, head_only=params.head_only)
        facts = {
            "poisons": len(bases),
            # What makes the attack clean-label: poisons look like their bases, and keep the label
            # that these have.
            "largest_change_of_255": change,
            "labels_changed": int((setting.train.labels[bases] != setting.target_class).sum()),
            "feature_distance_before": before / len(bases),
            "feature_distance_after": after / len(bases),
            "universal": universal,
        }
        return Backdoor(
            setting.teacher, trigger, setting.target_class, facts, source_classes=source_classes
        )

    def choose(self, setting: AttackSetting) -> tuple[Tensor, Tensor]:
        """Rows of the bases (target class) and of as many sources.

        Raises:
            ConfigError: the source class is the target, or has no images; or no target image is
                left to fine-tune on.
        """
        targets = class_rows(setting, target=True)
        others = class_rows(setting, target=False)
        if self.params.source != "all":
            others = others[setting.train.labels[others] == self.params.source]
            if len(others) == 0:
                raise ConfigError(
                    f"source {self.params.source} has no training image outside the target class; "
                    "name another"
                )
        # max: a class of one image still gives one poison; min: one-to-one matching needs as many
        # sources.
        wanted = min(max(1, round(self.params.poison_fraction * len(targets))), len(others))
        if self.params.disjoint and wanted == len(targets):
            raise ConfigError(
                f"target class {setting.target_class} has {len(targets)} training image(s), and "
                f"crafting uses {wanted}, which "
                "leaves no clean one to fine-tune on; choose another target_class or set "
                "attack.htba.disjoint=false"
            )
        return pick(targets, wanted, setting.generator), pick(others, wanted, setting.generator)

    def training_set(
        self, setting: AttackSetting, bases: Tensor, sources: Tensor, poisons: Tensor
    ) -> ImageSet:
        """The images to fine-tune on: the training set (less those used in crafting, if
        ``disjoint``) plus poisons."""
        used = torch.cat([bases, sources]) if self.params.disjoint else bases[:0]
        return replaced(setting.train, used, poisons, setting.target_class)

    def craft(
        self, setting: AttackSetting, bases: Tensor, patched: Tensor
    ) -> tuple[Tensor, float, float]:
        """Poisons (N, 3, H, W) on the 8-bit grid, and the mean squared distance to the matched
        feature before and after."""
        params = self.params
        delta = torch.zeros_like(bases, requires_grad=True)
        with frozen(setting.teacher) as teacher, setting.numerics.autocast():
            with torch.no_grad():
                anchors, start = penultimate(teacher, patched), penultimate(teacher, bases)
            for j in range(params.iterations):
                features = penultimate(teacher, bases + delta)
                matched = anchors[match(torch.cdist(features.detach(), anchors))]
                distance = (features - matched).square().sum(1)
                ratio = distance.detach() / (start - matched).square().sum(1).clamp(min=1e-12)
                if float(ratio.mean()) < params.rel_tol:
                    break
                (gradient,) = torch.autograd.grad(distance.sum(), delta)
                if params.step == "sign":
                    step = params.alpha * gradient.sign()
                else:
                    step = params.raw_lr * 0.5 ** (j // 1000) * gradient
                move(delta, bases, -step, params.epsilon)
            with torch.no_grad():
                poisons = on_grid(bases + delta)
                features = penultimate(teacher, poisons)
                matched = anchors[match(torch.cdist(features, anchors))]
                before, after = (
                    (start - matched).square().sum(1).mean(),
                    (features - matched).square().sum(1).mean(),
                )
        return poisons, float(before), float(after)


def penultimate(teacher: FeatureModel, images: Tensor) -> Tensor:
    """Pooled last tap, float32 (N, C).

    After a ReLU, as the classifier sees it, if the model names that tap's batch norm; taps that no
    norm describes (library models) are post-activation or token features, which a ReLU would only
    cut.
    """
    tap = teacher.features(images).taps[-1]
    return pooled(tap if teacher.tap_norms()[-1] is None else tap.relu())


def match(distances: Tensor) -> Tensor:
    """Greedy one-to-one matching: again and again the closest pair left. (N, N) -> for each row its
    column, int64 (N,)."""
    left = distances.clone()
    columns = torch.zeros(len(left), dtype=torch.int64, device=left.device)
    for _ in range(len(left)):
        pair = left.argmin()
        row, column = pair // left.shape[1], pair % left.shape[1]
        columns[row] = column
        left[row, :] = torch.inf
        left[:, column] = torch.inf
    return columns


def finetune(setting: AttackSetting, images: ImageSet, *, head_only: bool) -> None:
    """Fine-tune the setting's teacher with cross-entropy and leave it in eval mode.

    ``head_only``: only what comes after the last tap learns, and batch norm stays in eval mode.
    """
    teacher = setting.teacher.train(not head_only)
    trained: Trained = teacher

    def logits(batch_images: Tensor) -> Tensor:
        return head_logits(teacher, batch_images) if head_only else teacher(batch_images).float()

    if head_only:
        trained = head_parameters(setting)

    def objective(batch: Batch) -> dict[str, Tensor]:
        return {"ce": nn.functional.cross_entropy(logits(batch.images), batch.labels)}

    setting.fit(
        trained,
        objective,
        images,
        setting.recipe,
        generator=setting.generator,
        augmentation=setting.augmentation,
    )
    teacher.eval()
