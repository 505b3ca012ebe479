"""I-BAU: unlearn the universal perturbation that does most harm, with the derivative through it.

Y. Zeng, S. Chen, W. Park, Z. M. Mao, M. Jin, R. Jia: Adversarial Unlearning of Backdoors via
Implicit Hypergradient. ICLR 2022, arXiv:2110.03735.

Implemented: the minimax problem (Eq. 1) by rounds of Algorithm 1 as in the authors' code. delta is
one image that is added to others, theta the network's parameters.

    min over theta, max over delta of CE(f(x + delta), y)

Each round starts with delta = 0 and one pass over the images, SGD at the rate 10 on

    inner(delta) = -CE(f(x + delta), argmax f(x)) + 0.001 ||delta||_2^2

Then there is one step of Adam for each batch. L is CE on the batch, with delta on a random
``portion`` of its images. Its gradient h has two parts:

    h = dL/dtheta + (dPhi/dtheta)^T v
    Phi(delta, theta) = delta - 0.1 * d inner / d delta
    v: K times  v <- (dPhi/ddelta)^T v + dL/ddelta,  from 0

In Phi, inner is that of the first batch of the round, with true labels. The network is in eval mode
throughout, so no statistics of batch norms move. delta is neither clamped nor projected, as in the
authors' code, so x + delta can leave [0, 1]; ``clamp`` keeps it there.

Deviations from the paper:
- At least one image of a batch gets delta. The authors take the whole part of portion * B, which is
  none in batches under 100. Then their method is plain fine-tuning. ``rounding=floor`` has that.
- delta is one of pixels in [0, 1]. The authors' code adds it to whatever the network takes, and
  BackdoorBench to normalised pixels (``space=normalised``). Its penalty weighs it otherwise there.
- The penalty is a sum over pixels, as in the authors' code. So it is stronger in larger images.
- The images come in one random order, the same for the inner passes of all rounds, without
  augmentation there. The batches of Adam are augmented.
- All of it is computed in float32, in runs with bfloat16 as well.
- The authors use 5,000 *test* images, batches of 100, 3 rounds of Adam at 0.001. BackdoorBench uses
  5 % of the training images, batches of 256, 5 rounds at 0.0001. ``paper`` has the latter numbers,
  and the presets give the defender every training image (``--clean-fraction 0.05``). In ``quick``
  and ``standard`` these are few. So there are smaller batches and more rounds, about as many steps
  as the authors take (150), at their rate.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.data.base import Batch, ImageSet
from kdbench.defense import DefenseSetting
from kdbench.method import Info, Variant
from kdbench.models.base import FeatureModel
from kdbench.repair import Repair, RepairParams, position
from kdbench.training import Recipe

#: A perturbation -> scalar. The scalar depends on the weights as well.
Loss = Callable[[Tensor], Tensor]


class IBAUParams(RepairParams):
    """The two loops, and how much of a batch is perturbed."""

    rounds: int = Field(5, ge=0, description="perturbations, each unlearned; BackdoorBench")
    portion: float = Field(
        0.01, ge=0, le=1, description="share of a batch that is perturbed; authors' code"
    )
    rounding: Literal["ceil", "floor"] = Field(
        "ceil",
        description="of portion x batch: up, or down to a whole number (authors' code); kdbench",
    )
    inner_lr: float = Field(
        10.0, gt=0, description="learning rate of the perturbation; authors' code"
    )
    penalty: float = Field(
        0.001,
        ge=0,
        description="weight of the perturbation's squared length, a sum over pixels; authors' code",
    )
    fixed_point: int = Field(5, ge=1, le=100, description="iterations for v, count; authors' code")
    inner_step: float = Field(
        0.1, ge=0, le=1, description="step of Phi along the inner slope; authors' code"
    )
    space: Literal["pixel", "normalised"] = Field(
        "pixel", description="what the perturbation is added to; normalised: BackdoorBench; kdbench"
    )
    clamp: bool = Field(
        False, description="keep perturbed pixels in [0, 1]; kdbench (authors' code: no)"
    )
    batch_size: int = Field(256, ge=2, description="images a step; BackdoorBench")
    lr: float = Field(1e-4, gt=0, description="learning rate of Adam; BackdoorBench")


def perturbed_count(params: IBAUParams, batch: int) -> int:
    """How many of ``batch`` images get the perturbation."""
    wanted = params.portion * batch
    if params.rounding == "floor":
        return int(wanted)
    # Less than a part in 10^9 above a whole number is an error of arithmetic.
    return math.ceil(wanted - 1e-9)


def hypergradient(
    outer: Loss, inner: Loss, delta: Tensor, weights: Sequence[Tensor], step: float, iterations: int
) -> tuple[Tensor, list[Tensor]]:
    """(the outer loss, h of each weight). Neither has a graph.

    Args:
        outer: L, of a perturbation like ``delta``.
        inner: what the perturbation minimises.
        delta: the perturbation that was found.
        weights: theta. They need gradients.
        step: of Phi along the inner slope.
        iterations: for v.
    """
    delta = delta.detach().requires_grad_()
    value = outer(delta)
    to_delta, *direct = _gradients(value, [delta, *weights])
    (slope,) = torch.autograd.grad(inner(delta), delta, create_graph=True)
    phi = delta - step * slope
    v = to_delta  # the first of the iterations, from 0
    for _ in range(iterations - 1):
        (through,) = _gradients(phi, [delta], v)
        v = through + to_delta
    implicit = _gradients(phi, weights, v)
    return value.detach(), [d + i for d, i in zip(direct, implicit, strict=True)]


def _gradients(
    of: Tensor, inputs: Sequence[Tensor], vector: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The gradient of a scalar, or the product of a vector with the Jacobian; 0 where there is no
    dependence."""
    return torch.autograd.grad(
        of, inputs, vector, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def with_gradients(value: Tensor, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar with that value, whose gradient at ``weights`` is ``gradients``."""
    linear = torch.stack([(g * w).sum() for g, w in zip(gradients, weights, strict=True)]).sum()
    return value + linear - linear.detach()


class IBAU(Repair):
    """Unlearn the universal perturbation that does most harm."""

    info = Info(
        name="ibau",
        title="Adversarial Unlearning of Backdoors via Implicit Hypergradient",
        authors="Zeng, Chen, Park, Mao, Jin, Jia",
        venue="ICLR",
        year=2022,
        link="https://arxiv.org/abs/2110.03735",
        evidence="defenses-of-the-field",
    )
    Params = IBAUParams
    zero = {"rounds": 0}
    for_checks = {"rounds": 2, "batch_size": 40, "fixed_point": 2}
    presets = {
        "quick": {"rounds": 25, "batch_size": 32, "lr": 1e-3},
        "standard": {"rounds": 20, "batch_size": 32, "lr": 1e-3},
        "paper": {},
    }
    variants = {
        "release": Variant(
            "as BackdoorBench computes it: normalised pixels, and no perturbation in batches under "
            "100",
            {"space": "normalised", "rounding": "floor"},
        )
    }
    params: IBAUParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Train ``model`` in place; returns it. It stays in eval mode."""
        params, clean, device = self.params, setting.clean, setting.numerics.device
        order = torch.randperm(len(clean), generator=setting.generator)
        ordered = clean.subset(order)
        size = min(params.batch_size, len(clean))
        first = ordered.read(torch.arange(size), device), ordered.labels[:size].to(device)
        recipe = Recipe(
            epochs=params.rounds,
            batch_size=params.batch_size,
            optimizer="adam",
            lr=params.lr,
            weight_decay=0,
            schedule="constant",
        )
        model.eval().requires_grad_(True)
        weights = list(model.parameters())
        delta = torch.zeros(1, *clean.shape, device=device)

        def loss(batch: Batch) -> dict[str, Tensor]:
            nonlocal delta
            with torch.autocast(device.type, enabled=False):
                # It starts anew in each round, and a checkpoint is made between rounds only.
                if position(batch, recipe, len(clean))[1] == 0:
                    delta = self.worst(model, ordered)
                rows = torch.randperm(len(batch.labels))
                rows = rows[: perturbed_count(params, len(rows))].to(device)

                def outer(d: Tensor) -> Tensor:
                    changed = self.add(model, batch.images[rows], d)
                    images = batch.images.index_copy(0, rows, changed)
                    return F.cross_entropy(model(images), batch.labels)

                def inner(d: Tensor) -> Tensor:
                    return self.inner(model, first[0], first[1], d)

                value, h = hypergradient(
                    outer, inner, delta, weights, params.inner_step, params.fixed_point
                )
                return {"ce": with_gradients(value, weights, h)}

        setting.fit(
            model,
            loss,
            clean,
            recipe,
            generator=setting.generator,
            augmentation=setting.augmentation,
        )
        return model

    def worst(self, model: FeatureModel, images: ImageSet) -> Tensor:
        """delta after one pass over the images, (1, 3, H, W), for the network as it is."""
        device = next(model.parameters()).device
        delta = torch.zeros(1, *images.shape, device=device)
        for batch in images.batches(self.params.batch_size, device=device):
            with torch.no_grad():
                labels = model(batch.images).argmax(1)
            delta.requires_grad_()
            (slope,) = torch.autograd.grad(self.inner(model, batch.images, labels, delta), delta)
            delta = delta.detach() - self.params.inner_lr * slope
        return delta

    def inner(self, model: FeatureModel, images: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
        """What the perturbation minimises on images (N, 3, H, W)."""
        ce = F.cross_entropy(model(self.add(model, images, delta)), labels)
        return self.params.penalty * delta.square().sum() - ce

    def add(self, model: FeatureModel, images: Tensor, delta: Tensor) -> Tensor:
        """The images (N, 3, H, W) with the perturbation (1, 3, H, W)."""
        changed = images + (delta if self.params.space == "pixel" else delta * model.pixel_std)
        return changed.clamp(0, 1) if self.params.clamp else changed
