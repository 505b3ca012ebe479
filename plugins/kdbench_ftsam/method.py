"""FT-SAM: fine-tuning with sharpness-aware steps, which shrink the weights that a trigger uses.

M. Zhu, S. Wei, L. Shen, Y. Fan, B. Wu: Enhancing Fine-Tuning Based Backdoor Defense with
Sharpness-Aware Minimization. ICCV 2023, arXiv:2304.11823.

Implemented: the perturbation of the weights and the step at the perturbed weights. w are all
parameters of the network, g the gradient of the loss at w, and the norms go over all parameters.

    adaptive:  eps = rho * w^2 g / || |w| g ||
    plain:     eps = rho * g / ||g||
    then one step of SGD with the gradient of the loss at w + eps
    loss: cross-entropy, or with smoothing s
        KL(row || softmax(z)), row = 1 - s at the label and s / (K - 1) elsewhere

Scales of batch norms and biases are perturbed as all other weights. Where a norm is 0, eps is 0.
With rho = 0 it is fine-tuning, bit for bit.

Deviations from the paper:
- The learning rate follows one schedule from begin to end, as the paper says. BackdoorBench's code
  steps a cosine of as many steps as there are epochs once an *iteration*. So the rate swings, with
  a period of twice the epochs in iterations. ``ftsam.release`` has that.
- ``adaptive`` is the authors' default. A slip of their command line inverts its switch.
- Their rho is 2 on CIFAR-10, and 8 on GTSRB and Tiny ImageNet. There is none for CIFAR-100. Here it
  is 2 everywhere. ``ftsam.val`` takes the largest of 8, 2 and 0.5 that costs held-out clean images
  at most ``max_drop`` of accuracy.
- Their smoothing is 0.1 on CIFAR-10, and 0 elsewhere. Here it is 0.
- The running statistics of batch norms move in the first pass of a step only, as in the authors'
  code.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``).
- Recipe from the preset unless given here. The presets give the defender every training image; the
  authors give 5 % (``--clean-fraction 0.05``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from kdbench.data.base import Batch, ImageSet
from kdbench.defense import DefenseSetting
from kdbench.errors import ConfigError
from kdbench.method import Info, Variant
from kdbench.metrics import accuracy
from kdbench.models.base import FeatureModel
from kdbench.repair import PlainTuningParams, Repair, held_out
from kdbench_ftsam.swing import Swing

#: What ``select=val`` chooses from, the largest first. The authors' values, and a smaller one.
RHOS = (8.0, 2.0, 0.5)


class FTSAMParams(PlainTuningParams):
    """How far the weights are perturbed."""

    rho: float = Field(
        2.0,
        ge=0,
        le=100,
        description="length of the perturbation, relative to the weights if adaptive; authors: 2 "
        "on CIFAR-10, 8 on GTSRB and Tiny ImageNet",
    )
    adaptive: bool = Field(
        True, description="scale the perturbation of each weight by its square; paper section 4"
    )
    smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the label that goes to the other classes, of [0, 1); authors: 0.1 on "
        "CIFAR-10",
    )
    swing: bool = Field(
        False,
        description="the rate is half a cosine of as many steps as there are epochs, back and "
        "forth; authors' code",
    )
    select: Literal["fixed", "val"] = Field(
        "fixed",
        description="fixed: rho; val: the largest of 8, 2, 0.5 that max_drop allows; kdbench",
    )
    max_drop: float = Field(
        0.01,
        ge=0,
        le=1,
        description="val: accuracy on held-out images that the repair may cost, absolute, of "
        "[0, 1]; kdbench",
    )
    val_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="val: images of each class held out, share of the defender's; kdbench",
    )


def smoothed(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """KL of the smoothed labels from the softmax of (N, K) logits, mean over the images.

    Without smoothing it is cross-entropy.
    """
    if not smoothing:
        return F.cross_entropy(logits.float(), labels)
    classes = logits.shape[1]
    rows = torch.full_like(logits, smoothing / (classes - 1), dtype=torch.float32)
    rows.scatter_(1, labels[:, None], 1 - smoothing)
    return F.kl_div(F.log_softmax(logits.float(), 1), rows, reduction="batchmean")


def perturbation(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, adaptive: bool
) -> list[Tensor]:
    """eps of each weight, without a graph."""
    with torch.no_grad():
        lengths = [w.abs() if adaptive else torch.ones_like(w) for w in weights]
        scaled = [length * g for length, g in zip(lengths, gradients, strict=True)]
        norm = torch.stack([torch.linalg.vector_norm(s) for s in scaled]).norm()
        # Where the norm is 0 so is every element.
        factor = rho / norm.clamp(min=1e-12)
        return [factor * length * s for length, s in zip(lengths, scaled, strict=True)]


def sharp(
    loss: Callable[[dict[str, Tensor], bool], Tensor],
    weights: dict[str, Tensor],
    rho: float,
    adaptive: bool,
) -> Tensor:
    """A scalar whose gradient at ``weights`` is that of the loss at w + eps.

    Args:
        loss: (weights, is this the second pass) -> scalar.
    """
    gradients = torch.autograd.grad(
        loss(weights, False), list(weights.values()), allow_unused=True, materialize_grads=True
    )
    eps = perturbation(list(weights.values()), gradients, rho, adaptive)
    return loss({k: w + e for (k, w), e in zip(weights.items(), eps, strict=True)}, True)


class FTSAM(Repair):
    """Fine-tuning with sharpness-aware steps."""

    info = Info(
        name="ftsam",
        title="Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization",
        authors="Zhu, Wei, Shen, Fan, Wu",
        venue="ICCV",
        year=2023,
        link="https://arxiv.org/abs/2304.11823",
        evidence="defenses-of-the-field",
    )
    Params = FTSAMParams
    zero = {"epochs": 0}
    presets = {
        "quick": {},
        "standard": {},
        "paper": {
            "epochs": 100,
            "batch_size": 256,
            "lr": 0.01,
            "weight_decay": 5e-4,
            "cosine": True,
        },
    }
    variants = {
        "release": Variant(
            "the rate of BackdoorBench's code: a cosine that swings", {"swing": True}
        ),
        "val": Variant("the largest rho that held-out clean accuracy allows", {"select": "val"}),
        "sam": Variant(
            "without the scale of the weights, and rho 0.05", {"adaptive": False, "rho": 0.05}
        ),
    }
    params: FTSAMParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Train ``model`` in place; returns it.

        Raises:
            ConfigError: (``val``) no class has two images, so that none can be held out.
        """
        params, images = self.params, setting.clean
        if params.select == "fixed":
            self.tune(model, setting, images, params.rho)
            return model
        images, choosing = held_out(images, params.val_fraction, setting.generator)
        if len(choosing) == 0:
            raise ConfigError(
                "ftsam with select=val holds images out, and no class has two; raise "
                "--clean-fraction"
            )
        correct, total = accuracy(model, choosing, setting.numerics)
        given = copy.deepcopy(model.state_dict())
        for rho in RHOS:  # the smallest stays, where each costs too much
            model.load_state_dict(given)
            self.tune(model, setting, images, rho)
            left, _ = accuracy(model, choosing, setting.numerics)
            if left >= correct - params.max_drop * total:
                break
        return model

    def tune(
        self, model: FeatureModel, setting: DefenseSetting, images: ImageSet, rho: float
    ) -> None:
        """Train all of ``model`` in place. It is in eval mode afterwards."""
        params, recipe = self.params, self.params.recipe(setting.recipe)
        if params.swing:
            recipe = recipe.model_copy(update={"schedule": "constant"})
        model.requires_grad_(True).train()
        weights = dict(model.named_parameters())
        swing = Swing(list(weights.values()), recipe, len(images))

        def loss(batch: Batch) -> dict[str, Tensor]:
            def at(w: dict[str, Tensor], again: bool) -> Tensor:
                # The second pass moves copies of the running statistics.
                copies = {k: b.clone() for k, b in model.named_buffers()} if again else {}
                logits = functional_call(model, {**w, **copies}, (batch.images,))
                return smoothed(logits, batch.labels, params.smoothing)

            if params.swing:
                swing.begin(batch)
            return {"ce": sharp(at, weights, rho, params.adaptive)}

        setting.fit(
            model,
            loss,
            images,
            recipe,
            generator=setting.generator,
            augmentation=setting.augmentation,
            after_step=swing.end if params.swing else None,
        )
        model.eval()
