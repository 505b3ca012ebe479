"""RobustKD: a learned offset on the teacher's features, so that less of a backdoor reaches the
student.

J. Chen, X. Zhao, H. Zheng, X. Li, S. Xiang, H. Guo: Robust Knowledge Distillation Based on Feature
Variance Against Backdoored Teacher Model. 2024, arXiv:2406.03409.

Implemented: the detoxified feature (Eq. 7, ``additive``; Eq. 15, ``convex``), the variance loss
(Eq. 8), the classification loss of the detoxified teacher (Eq. 9) and their sum (Eq. 10).
Distillation from the detoxified features (Algorithm 1) is the distiller's business: it receives the
edited teacher as if it were any other.

    additive:  F' = F + sign * p * m          convex:  F' = (1 - m) * F + sign * p * m
    L_t = CE(B(F'_3), y) + w * Var(F'_3),     p, m of the feature's size (C, H, W), 0 <= m <= m_max

Deviations from the paper (its released code lacks this stage, so much is reconstruction):
- Algorithm 1 stops on the attack success rate, which a defender cannot measure; here the budget is
  fixed.
- The definition of Var, how m is kept in bounds, the optimiser (Adam) and the batch size (64) are
  not in the paper; the first two are parameters (``var_mode``, ``mask_param``), the defaults follow
  the shipped tensors.
- p and m are learned on the teacher's stored batch-norm statistics, while FKD by default distils
  with those of each batch (docs/methods.md says what that cancels); the paper does not say.
  ``bn_learning`` and ``bn_handed_on`` make them agree.
- p starts at the mean over ``init_images`` images where that is set, and ``steps`` may train on a
  random subset; the paper has neither. The presets give the defender every training image, as the
  paper's distillation has.
- With trained p only the product p * m acts, so m_max bounds m but not the offset;
  ``p_trainable=False`` bounds both.
- The quick and standard presets take fewer, larger steps; how strong they are is measured in
  benchmarks/README.md.
- m_max = 0 returns the teacher as it is: nothing to optimise, nothing drawn at random.
- ``offset=shuffled`` is no defense but control C5: what was learned, at random places.
- ``losses=var`` and ``var_layers=all`` (the sum over the three groups) as in, and beyond, the
  ablation of Fig. 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from kdbench.capture import Pass
from kdbench.data.base import Batch, ImageSet
from kdbench.defense import Defense, DefenseSetting
from kdbench.method import Info, Params, Variant
from kdbench.models.base import GROUPS, BatchNormMode, FeatureModel, FeatureOutput
from kdbench.models.views import Edited, batch_statistics
from kdbench.training import Recipe
from kdbench.variance import VarMode, feature_variance


def squashed(a: Tensor, m_max: float) -> Tensor:
    """m = m_max * (tanh(a) / 2 + 1/2), element-wise in [0, m_max]."""
    return m_max * (torch.tanh(a) / 2 + 0.5)


def additive(features: Tensor, p: Tensor, m: Tensor, sign: int = 1) -> Tensor:
    """Eq. 7, F' = F + sign * p * m: features (N, C, H, W); p, m broadcast over N. In the features'
    dtype."""
    return features + (sign * p * m).to(features.dtype)


def convex(features: Tensor, p: Tensor, m: Tensor, sign: int = 1) -> Tensor:
    """Eq. 15, F' = (1 - m) * F + sign * p * m: features (N, C, H, W); p, m broadcast over N. In the
    features' dtype."""
    return (1 - m).to(features.dtype) * features + (sign * p * m).to(features.dtype)


class RobustKDParams(Params):
    layers: tuple[Annotated[int, Field(ge=1, le=GROUPS)], ...] = Field(
        (1, 2, 3), description="groups that get an offset, 1-based; Fig. 7"
    )
    equation: Literal["additive", "convex"] = Field(
        "additive", description="Eq. 7 or Eq. 15; Fig. 5"
    )
    sign: Literal[1, -1] = Field(
        1, description="sign of p * m; -1 as in a helper of the released code"
    )
    m_max: float = Field(
        0.2, ge=0, le=1, description="largest mask value, share of p; section 5 (threshold m)"
    )
    mask_param: Literal["elementwise_tanh", "elementwise_clamp", "scalar_fixed"] = Field(
        "elementwise_tanh",
        description="how m stays in [0, m_max]; scalar_fixed: m = m_max, not learned; from the "
        "shipped tensors",
    )
    p_init: Literal["mean", "randn", "zeros"] = Field(
        "mean", description="start of p; mean feature in section 4"
    )
    p_trainable: bool = Field(True, description="optimise p besides m; from the shipped tensors")
    init_images: int | None = Field(
        None, ge=1, description="images for the mean feature, count; None: all; kdbench"
    )
    losses: Literal["ce", "var", "ce+var"] = Field("ce+var", description="terms of Eq. 10; Fig. 6")
    variance_weight: float = Field(
        1.0, ge=0, description="weight of the variance loss; Eq. 10 has 1"
    )
    var_mode: VarMode = Field(
        "global", description="over which axes the variance is taken; not in the paper"
    )
    var_layers: Literal["last", "all"] = Field(
        "last", description="groups whose variance is minimised; Eq. 8: last"
    )
    bn_learning: BatchNormMode = Field(
        "running",
        description="statistics of the teacher's batch norms while p and m are learned; not in the "
        "paper",
    )
    bn_handed_on: Literal["running"] | None = Field(
        None,
        description="running: distil with the stored statistics whatever the distiller does; None: "
        "as it does; kdbench",
    )
    offset: Literal["learned", "shuffled"] = Field(
        "learned",
        description="shuffled: p and m are permuted at random within each channel after learning; "
        "control C5",
    )
    lr: float = Field(1e-3, gt=0, le=1, description="Adam learning rate; section 5")
    epochs: int = Field(40, ge=0, description="passes over the defender's images; section 5")
    steps: int | None = Field(
        None,
        ge=1,
        description="optimiser steps instead of epochs, rounded up to equal passes; None: epochs; "
        "kdbench",
    )
    batch_size: int = Field(64, ge=2, description="images a step; not in the paper")

    @field_validator("layers")
    @classmethod
    def _distinct(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if not layers or len(set(layers)) != len(layers):
            raise ValueError("layers must name at least one group, each once")
        return layers


class Detoxification(nn.Module):
    """The edit ``(i, G) -> G'`` of a teacher's group outputs; ``i`` is 0-based, groups not in
    ``layers`` pass as is.

    Args:
        starts: for each 0-based group the start of p, (1, C, H, W).
        params: equation, bounds and parametrisation.
    """

    capturable = True

    def __init__(self, starts: dict[int, Tensor], params: RobustKDParams) -> None:
        super().__init__()
        self.params, self.groups = params, frozenset(starts)
        for i, p in starts.items():
            if params.p_trainable:
                self.register_parameter(f"p{i}", nn.Parameter(p.clone()))
            else:
                self.register_buffer(f"p{i}", p.clone())
            if params.mask_param == "elementwise_tanh":
                self.register_parameter(f"a{i}", nn.Parameter(torch.zeros_like(p)))
            elif params.mask_param == "elementwise_clamp":
                self.register_parameter(f"a{i}", nn.Parameter(torch.full_like(p, params.m_max / 2)))
            else:
                self.register_buffer(
                    f"a{i}", torch.full((1, 1, 1, 1), params.m_max, device=p.device)
                )

    def offset(self, i: int) -> Tensor:
        """p of group ``i``, (1, C, H, W)."""
        return getattr(self, f"p{i}")

    def mask(self, i: int) -> Tensor:
        """m of group ``i``, (1, C, H, W) or, for scalar_fixed, (1, 1, 1, 1)."""
        leaf = getattr(self, f"a{i}")
        return (
            squashed(leaf, self.params.m_max)
            if self.params.mask_param == "elementwise_tanh"
            else leaf
        )

    @torch.no_grad()
    def shuffle(self, generator: torch.Generator) -> None:
        """Permute p and m, alike, at random over each channel's places: every norm stays, what was
        learned goes (C5)."""
        for i in self.groups:
            p, leaf = self.offset(i), getattr(self, f"a{i}")
            places = p.shape[2] * p.shape[3]
            order = torch.rand((p.shape[1], places), generator=generator).argsort(1).to(p.device)
            for tensor in (p, leaf):
                if tensor.shape == p.shape:
                    tensor.copy_(
                        tensor.reshape(p.shape[1], places).gather(1, order).reshape(p.shape)
                    )

    @torch.no_grad()
    def project(self) -> None:
        """Bring clamped masks back into [0, m_max]."""
        if self.params.mask_param == "elementwise_clamp":
            for i in self.groups:
                getattr(self, f"a{i}").clamp_(0, self.params.m_max)

    def forward(self, i: int, g: Tensor) -> Tensor:
        if i not in self.groups:
            return g
        apply = additive if self.params.equation == "additive" else convex
        return apply(g, self.offset(i), self.mask(i), self.params.sign)


def detoxification_loss(
    features: Callable[[Tensor], FeatureOutput], batch: Batch, params: RobustKDParams
) -> dict[str, Tensor]:
    """Eq. 10: named terms of L_t for one batch; what ``losses`` leaves out is not computed.
    features: the edited teacher's."""
    out = features(batch.images)
    terms: dict[str, Tensor] = {}
    if "ce" in params.losses:
        terms["ce"] = F.cross_entropy(out.logits.float(), batch.labels)
    if "var" in params.losses:
        chosen = out.groups if params.var_layers == "all" else out.groups[-1:]
        variance = torch.stack([feature_variance(g, params.var_mode) for g in chosen]).sum()
        terms["variance"] = params.variance_weight * variance
    return terms


@torch.no_grad()
def mean_features(
    teacher: FeatureModel, images: ImageSet, setting: DefenseSetting, batch_size: int
) -> list[Tensor]:
    """Mean of each group's output over ``images``: G1..G3 -> three (1, C, H, W), float32.
    Unshuffled, one pass."""
    sums: list[Tensor | float] = [0.0] * GROUPS
    for batch in images.batches(batch_size, device=setting.numerics.device):
        with setting.numerics.autocast():
            groups = teacher.features(batch.images).groups
        sums = [
            s + g.sum(0, keepdim=True, dtype=torch.float32)
            for s, g in zip(sums, groups, strict=True)
        ]
    return [s / len(images) for s in sums]  # type: ignore[operator]


def budget(params: RobustKDParams, images: int) -> tuple[int, int]:
    """(epochs, images a pass) for ``images`` available: ``steps`` costs the same whatever the size
    of the data set."""
    if params.steps is None:
        return params.epochs, images
    batch = min(params.batch_size, images)
    epochs = math.ceil(params.steps / max(1, images // batch))
    return epochs, math.ceil(params.steps / epochs) * batch


_PAPER = {
    **{
        "equation": "additive",
        "m_max": 0.2,
        "layers": (1, 2, 3),
        "losses": "ce+var",
        "init_images": None,
    },
    **{"lr": 1e-3, "epochs": 40, "steps": None, "batch_size": 64},
}


class RobustKD(Defense):
    """Feature detoxification of the teacher before distillation."""

    info = Info(
        name="robustkd",
        title="Robust Knowledge Distillation Based on Feature Variance Against Backdoored Teacher "
        "Model",
        authors="Chen, Zhao, Zheng, Li, Xiang, Guo",
        venue="arXiv",
        year=2024,
        link="https://arxiv.org/abs/2406.03409",
        evidence="robustkd-on-three-pairs",
    )
    Params = RobustKDParams
    zero = {"m_max": 0.0}
    for_checks = {"steps": 6, "batch_size": 40, "init_images": 80}
    presets = {
        "quick": {"steps": 300, "batch_size": 16, "lr": 0.3, "init_images": 1024},
        "standard": {"steps": 1000, "lr": 0.02},
        "paper": {},
    }
    variants = {
        "paper": Variant(
            "every number as in the paper, whatever the preset: Adam, 0.001, 40 epochs, m up to "
            "0.2",
            _PAPER,
        ),
        "eq15": Variant(
            "Eq. 15, (1 - m) F + p m, in place of Eq. 7; Fig. 5", {"equation": "convex"}
        ),
        "release": Variant(
            "the forward pass of the released code: Eq. 15 with a learned p",
            {**_PAPER, "equation": "convex"},
        ),
        "pfixed": Variant(
            "p stays at the mean feature, only m is learned",
            {"p_init": "mean", "p_trainable": False},
        ),
        "evalbn": Variant(
            "distilled with the stored batch-norm statistics, as it was learned",
            {"bn_handed_on": "running"},
        ),
        "batchbn": Variant(
            "learned on each batch's statistics, as FKD distils; kdbench", {"bn_learning": "batch"}
        ),
        "zero": Variant("control C4: m is 0, so that nothing changes", {"m_max": 0.0}),
        "random": Variant("control C5: what was learned, at random places", {"offset": "shuffled"}),
    }
    params: RobustKDParams

    def cleanse_teacher(self, teacher: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        params = self.params
        if params.m_max == 0:
            return teacher
        # Only p and m may learn; eval keeps the running statistics and every buffer where they are.
        trainable = [q for q in teacher.parameters() if q.requires_grad]
        teacher.eval().requires_grad_(False)
        detox = Detoxification(self._starts(teacher, setting), params)
        edited = setting.numerics.place(Edited(teacher, detox)).eval()
        learned = list(detox.parameters())
        epochs, count = budget(params, len(setting.clean))
        if learned and epochs:
            images = setting.clean
            if count < len(images):
                images = images.subset(
                    torch.randperm(len(images), generator=setting.generator)[:count]
                )
            recipe = Recipe(
                optimizer="adam",
                lr=params.lr,
                epochs=epochs,
                batch_size=params.batch_size,
                weight_decay=0,
                schedule="constant",
            )
            features = Pass(edited, setting.numerics)
            with batch_statistics(edited, params.bn_learning == "batch"):
                setting.fit(
                    detox,
                    lambda batch: detoxification_loss(features, batch, params),
                    images,
                    recipe,
                    generator=setting.generator,
                    augmentation=None,
                    after_step=detox.project,
                )
        if params.offset == "shuffled":
            detox.shuffle(setting.generator)
        edited.batch_norm = params.bn_handed_on or teacher.batch_norm
        detox.requires_grad_(False)
        for q in trainable:
            q.requires_grad_(True)
        return edited

    def _starts(self, teacher: FeatureModel, setting: DefenseSetting) -> dict[int, Tensor]:
        params, images = self.params, setting.clean
        wanted = [i - 1 for i in sorted(params.layers)]
        if params.p_init == "mean":
            if params.init_images is not None and params.init_images < len(images):
                # Evenly spread: a file sorted by class would otherwise yield the mean of its first
                # classes.
                images = images.subset(
                    torch.linspace(0, len(images) - 1, params.init_images).long()
                )
            means = mean_features(teacher, images, setting, params.batch_size)
            return {i: means[i] for i in wanted}
        with torch.no_grad():
            probe = teacher.features(
                images.read(torch.zeros(1, dtype=torch.int64), setting.numerics.device)
            ).groups
        if params.p_init == "zeros":
            return {i: torch.zeros_like(probe[i], dtype=torch.float32) for i in wanted}
        # Drawn on the CPU, so that every device starts alike.
        return {
            i: torch.randn(probe[i].shape, generator=setting.generator).to(probe[i].device)
            for i in wanted
        }
