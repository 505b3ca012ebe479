"""Adversarial Neuron Pruning ("ANP"): remove the channels through which a small perturbation does
most harm.

D. Wu, Y. Wang: Adversarial Neuron Pruning Purifies Backdoored Deep Models. NeurIPS 2021,
arXiv:2110.14430.

Implemented: perturbed batch norms (Eq. 2-4), the masks' minimax problem (Eq. 5) by Algorithm 1 as
in the authors' code, and pruning by a threshold. x_hat is the normalised input of a batch norm, m
its mask, one number a channel.

    y = (m + delta) * gamma * x_hat + (1 + xi) * beta
        with delta, xi ~ U(-eps, eps), then sign ascent on CE
    min over m in [0, 1] of  alpha * CE(m) + (1 - alpha) * CE(m, delta, xi)
    then gamma_c = 0 where m_c <= threshold
        beta stays, so that a pruned channel is the constant beta_c

Deviations from the paper:
- The noise is not projected after its ascent, as in the authors' code, so |delta| can reach 2 eps;
  ``project_noise`` keeps it within eps, as in the paper.
- Momentum is Nesterov's, as everywhere in kdbench; the authors' is plain.
- The masks are learned on all of the defender's images; the authors take 1 % of the training set,
  and the presets give the defender every training image (``--clean-fraction 0.01``).
- Only batch norms use each batch's statistics, and their stored ones stay; anything else that acts
  in training alone (dropout) is off.
- ``select=val`` takes the largest threshold that costs held-out images at most ``max_drop`` of
  accuracy; the authors' code prints the test accuracy of all thresholds, BackdoorBench picks by
  test ASR.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``).
- The quick and standard presets take fewer iterations, and so leave the masks closer to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from kdbench.data.base import Batch, ImageSet
from kdbench.defense import DefenseSetting
from kdbench.errors import ConfigError
from kdbench.method import Info, Variant
from kdbench.metrics import accuracy
from kdbench.models.base import FeatureModel
from kdbench.models.views import batch_statistics
from kdbench.repair import Repair, RepairParams, held_out
from kdbench.training import Recipe
from kdbench.trigger_search import frozen

#: What ``select=val`` chooses from.
THRESHOLDS = tuple(i / 20 for i in range(20))


class ANPParams(RepairParams):
    """How the masks are learned and where they are cut."""

    epsilon: float = Field(
        0.4,
        ge=0,
        le=10,
        description="largest start of the noise, relative to a weight; paper section 4",
    )
    alpha: float = Field(
        0.2, ge=0, le=1, description="weight of the loss without noise, of [0, 1]; paper section 4"
    )
    lr: float = Field(0.2, gt=0, description="learning rate of the masks; paper section 4")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the masks; paper section 4")
    batch_size: int = Field(128, ge=2, description="images an iteration; paper section 4")
    iterations: int = Field(2000, ge=1, description="updates of the masks, count; paper section 4")
    inner_steps: int = Field(
        1, ge=1, description="ascent steps of the noise, each epsilon / inner_steps; authors' code"
    )
    project_noise: bool = Field(
        False, description="keep the noise within epsilon after each ascent step; paper Eq. 4"
    )
    threshold: float = Field(
        0.2,
        ge=-1,
        le=1,
        description="masks up to here are pruned, of [0, 1]; below 0: none; paper section 4",
    )
    select: Literal["fixed", "val"] = Field(
        "fixed",
        description="fixed: threshold; val: the largest of 0, 0.05 .. 0.95 that max_drop allows; "
        "kdbench",
    )
    max_drop: float = Field(
        0.03,
        ge=0,
        le=1,
        description="val: accuracy on held-out images that pruning may cost, absolute, of [0, 1]; "
        "kdbench",
    )
    val_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="val: images of each class held out, share of the defender's; kdbench",
    )


class Masks(nn.Module):
    """m of all channels, one after the other, in the order of the batch norms; 1 at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.ones(channels))

    @torch.no_grad()
    def project(self) -> None:
        """Bring m back into [0, 1]."""
        self.m.clamp_(0, 1)


class Neurons:
    """The batch norms of a network whose channels can be perturbed and pruned, by name.

    Raises:
        ConfigError: there are none.
    """

    def __init__(self, model: FeatureModel) -> None:
        self.model = model
        self.norms = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.BatchNorm2d) and module.affine
        }
        if not self.norms:
            raise ConfigError(
                f"anp prunes by the scales of batch norms, and {model.name} has no batch norm with "
                "a scale; "
                "choose another network, or a defense that needs none (finetune, nad)"
            )
        self.sizes = [norm.num_features for norm in self.norms.values()]
        self.gammas = [norm.weight.detach().clone() for norm in self.norms.values()]

    @property
    def count(self) -> int:
        """Channels of all batch norms together."""
        return sum(self.sizes)

    def logits(self, images: Tensor, m: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) -> (N, K) under masks m (C,) and noise (2, C): delta, xi. The network's own
        weights stay as they are."""
        scale, shift = (m, torch.ones_like(m)) if noise is None else (m + noise[0], 1 + noise[1])
        weights: dict[str, Tensor] = {}
        for (name, norm), a, b in zip(
            self.norms.items(), scale.split(self.sizes), shift.split(self.sizes), strict=True
        ):
            weights |= {f"{name}.weight": a * norm.weight, f"{name}.bias": b * norm.bias}
        return functional_call(self.model, weights, (images,))

    @torch.no_grad()
    def prune(self, m: Tensor, threshold: float) -> None:
        """Give every scale its value of the start, or 0 where its mask is at most ``threshold``."""
        for norm, gamma, part in zip(
            self.norms.values(), self.gammas, m.split(self.sizes), strict=True
        ):
            norm.weight.copy_(gamma.masked_fill(part <= threshold, 0))


def adversarial_noise(
    loss: Callable[[Tensor], Tensor], channels: int, device: torch.device, params: ANPParams
) -> Tensor:
    """Noise (2, channels) that raises ``loss(noise)``: uniform, then sign ascent.

    Drawn on the CPU, for the same noise on every device, from torch's global random state: the core
    seeds it for each stage and keeps it in checkpoints, so that a resumed run goes on with the same
    noise.
    """
    noise = (2 * torch.rand(2, channels) - 1).mul_(params.epsilon).to(device)
    for _ in range(params.inner_steps):
        noise.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(noise), noise)
        noise = noise.detach() + params.epsilon / params.inner_steps * gradient.sign()
        if params.project_noise:
            noise.clamp_(-params.epsilon, params.epsilon)
    return noise


class ANP(Repair):
    """Prune the channels that an adversary would perturb."""

    info = Info(
        name="anp",
        title="Adversarial Neuron Pruning Purifies Backdoored Deep Models",
        authors="Wu, Wang",
        venue="NeurIPS",
        year=2021,
        link="https://arxiv.org/abs/2110.14430",
        evidence="other-repairs",
    )
    Params = ANPParams
    zero = {"select": "fixed", "threshold": -1}
    for_checks = {"iterations": 5, "batch_size": 40}
    presets = {
        "quick": {"iterations": 100, "batch_size": 64, "select": "val"},
        "standard": {"iterations": 500, "select": "val"},
        "paper": {},
    }
    variants = {
        "fixed": Variant(
            "prunes below the paper's threshold 0.2, whatever it costs",
            {"select": "fixed", "threshold": 0.2},
        )
    }
    params: ANPParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Prune ``model`` in place; returns it. Nothing but scales of batch norms is changed.

        Raises:
            ConfigError: no batch norm to prune, or (``val``) no class with two images, so that none
                can be held out.
        """
        neurons, images = Neurons(model), setting.clean
        if self.params.select == "fixed":
            neurons.prune(self.learn(neurons, images, setting), self.params.threshold)
            return model
        images, choosing = held_out(images, self.params.val_fraction, setting.generator)
        if len(choosing) == 0:
            raise ConfigError(
                "anp with select=val holds images out, and no class has two; raise --clean-fraction"
            )
        correct, total = accuracy(model, choosing, setting.numerics)
        m = self.learn(neurons, images, setting)
        for threshold in (*reversed(THRESHOLDS), -1.0):  # -1: nothing, where even 0 costs too much
            neurons.prune(m, threshold)
            if (
                accuracy(model, choosing, setting.numerics)[0]
                >= correct - self.params.max_drop * total
            ):
                break
        return model

    def learn(self, neurons: Neurons, images: ImageSet, setting: DefenseSetting) -> Tensor:
        """m of every channel, (C,) in [0, 1]; the network comes out as it went in."""
        params, device = self.params, setting.numerics.device
        masks = Masks(neurons.count).to(device)

        def loss(batch: Batch) -> dict[str, Tensor]:
            def ce(m: Tensor, noise: Tensor | None = None) -> Tensor:
                return F.cross_entropy(neurons.logits(batch.images, m, noise).float(), batch.labels)

            still = masks.m.detach()
            noise = adversarial_noise(lambda given: ce(still, given), neurons.count, device, params)
            return {
                "clean": params.alpha * ce(masks.m),
                "perturbed": (1 - params.alpha) * ce(masks.m, noise),
            }

        # One pass over rows drawn with replacement, so that the number of updates does not depend
        # on the size of the set.
        rows = torch.randint(
            len(images), (params.iterations * params.batch_size,), generator=setting.generator
        )
        recipe = Recipe(
            epochs=1,
            batch_size=params.batch_size,
            lr=params.lr,
            momentum=params.momentum,
            weight_decay=0,
            schedule="constant",
        )
        with frozen(neurons.model), batch_statistics(neurons.model):
            setting.fit(
                masks,
                loss,
                images.subset(rows),
                recipe,
                generator=setting.generator,
                augmentation=setting.augmentation,
                after_step=masks.project,
            )
        return masks.m.detach()
