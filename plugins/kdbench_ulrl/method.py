"""ULRL: unlearn clean images to see which class's weights move most, and relearn those weights.

N. M. Min, L. H. Pham, J. Sun: Unified Neural Backdoor Removal with Only Few Clean Samples through
Unlearning and Relearning. arXiv:2405.14781, 2024.

Implemented: both phases, as in the authors' code. W is the weight of the last linear layer, one row
for each class k.

    unlearn: a copy is trained on -CE until its training accuracy is low
        c_k = sum_j |change of W_kj|
        flagged: c_k > median, and |c_k - median| / MAD* > 3.5
    relearn, from the network that was given:
        flagged rows ~ U(-sqrt(2 / C), sqrt(2 / C)), their biases 0, C the inputs of the layer
        L = CE + alpha * sum over flagged k of cos(W_k, W_k as it was)

Gradients of the first phase are clipped at a length of 20. It ends after the first epoch with a
training accuracy of at most ``floor``, or 2 / K where that is more.

Deviations from the source:
- Where more than ``max_classes`` are flagged, those with the largest change are kept. The authors'
  code keeps those with the smallest number of the class (``ulrl.release``).
- The authors stop at an accuracy of 0.2, which is under chance for few classes. So 2 / K is the
  least.
- Rate and alpha differ by data set in their code, without a rule: 0.005 and 0.7 for CIFAR-10, 0.001
  and 0.001 for CIFAR-100 and GTSRB. ``paper`` has the latter. ``quick`` and ``standard`` have the
  preset's rate and 0.7.
- Where nothing is flagged it is fine-tuning, as in their code, and bit for bit.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``).
- The authors use 1 % of the training images (``--clean-fraction 0.01``). The presets give the
  defender every image. ``quick`` and ``standard`` unlearn in small batches, since their sets are
  small.
"""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.defense import DefenseSetting, Finding
from kdbench.errors import ConfigError
from kdbench.method import Info, Variant
from kdbench.models.base import FeatureModel
from kdbench.outliers import anomaly_index, flagged
from kdbench.repair import PlainTuningParams, Repair, derived, fine_tune, position
from kdbench.training import Recipe


class ULRLParams(PlainTuningParams):
    """How much is unlearned, which classes are flagged, and how they are relearned."""

    unlearn_epochs: int = Field(
        20, ge=0, description="epochs of unlearning, at most; authors' code"
    )
    unlearn_lr: float = Field(0.01, gt=0, description="learning rate there; authors' code")
    unlearn_batch: int = Field(128, ge=2, description="images a step there; authors' code")
    clip: float = Field(20.0, gt=0, description="longest gradient there; authors' code")
    floor: float = Field(
        0.2,
        ge=0,
        le=1,
        description="training accuracy at which unlearning ends, of [0, 1]; authors' code",
    )
    threshold: float = Field(
        3.5, ge=0, description="anomaly index above which a class is flagged; authors' code"
    )
    max_classes: int = Field(2, ge=0, description="classes flagged at most; authors' code")
    keep: Literal["largest", "first"] = Field(
        "largest",
        description="which, where there are more: of the largest changes, or the first (authors' "
        "code); kdbench",
    )
    alpha: float = Field(
        0.7,
        ge=0,
        le=100,
        description="weight of the cosine with the old rows; authors: 0.7 on CIFAR-10, 0.001 on "
        "CIFAR-100 and GTSRB",
    )


class _EnoughError(Exception):
    """The training accuracy is low enough."""


class Tally(nn.Module):
    """Counts hits of an epoch. They are buffers, so that a checkpoint keeps them."""

    hits: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hits", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def count(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: (N, K) against (N,)."""
        self.hits += (logits.argmax(1) == labels).sum()
        self.seen += len(labels)

    @torch.no_grad()
    def restart(self) -> None:
        self.hits.zero_()
        self.seen.zero_()


def classifier(model: FeatureModel) -> nn.Linear:
    """The last linear layer with an output for each class.

    Raises:
        ConfigError: there is none.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == model.num_classes
    ]
    if not layers:
        raise ConfigError(
            f"ulrl looks at the last linear layer, and {model.name} has none with "
            f"{model.num_classes} outputs; choose another network or defense"
        )
    return layers[-1]


class ULRL(Repair):
    """Unlearn to find the target's weights, and relearn them."""

    info = Info(
        name="ulrl",
        title="Unified Neural Backdoor Removal with Only Few Clean Samples through Unlearning and "
        "Relearning",
        authors="Min, Pham, Sun",
        venue="arXiv",
        year=2024,
        link="https://arxiv.org/abs/2405.14781",
        evidence="defenses-of-the-field",
    )
    Params = ULRLParams
    zero = {"epochs": 0, "max_classes": 0}
    for_checks = {"unlearn_epochs": 2, "unlearn_batch": 40}
    presets = {
        "quick": {"unlearn_batch": 32},
        "standard": {"unlearn_batch": 32},
        "paper": {
            "epochs": 20,
            "batch_size": 128,
            "lr": 0.001,
            "weight_decay": 5e-4,
            "cosine": True,
            "alpha": 0.001,
        },
    }
    variants = {
        "release": Variant(
            "keeps the first of the flagged classes, and not those that moved most",
            {"keep": "first"},
        )
    }
    params: ULRLParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Train ``model`` in place; returns it. Reports the anomaly index of every class.

        Raises:
            ConfigError: no linear layer has an output for each class.
        """
        params, head = self.params, classifier(model)
        index = anomaly_index(self.changes(model, setting))
        most = params.max_classes if params.keep == "largest" else len(index)
        classes = sorted(flagged(index, params.threshold, most))[: params.max_classes]
        setting.report(Finding(tuple(classes), float(index.max()), tuple(float(i) for i in index)))
        before = head.weight.detach()[classes].clone()
        self.reset(head, classes, setting.generator)

        def loss(batch: Batch) -> dict[str, Tensor]:
            terms = {"ce": F.cross_entropy(model(batch.images).float(), batch.labels)}
            if classes and params.alpha:
                cosines = F.cosine_similarity(head.weight[classes], before, dim=1)
                terms["cosine"] = params.alpha * cosines.sum()
            return terms

        fine_tune(model, setting, params.recipe(setting.recipe), loss=loss)
        return model

    @torch.no_grad()
    def reset(self, head: nn.Linear, classes: list[int], generator: torch.Generator) -> None:
        """Draw the rows of some classes anew, and set their biases to 0."""
        if not classes:
            return
        bound = math.sqrt(2 / head.in_features)
        rows = torch.empty(len(classes), head.in_features)
        head.weight[classes] = rows.uniform_(-bound, bound, generator=generator).to(head.weight)
        if head.bias is not None:
            head.bias[classes] = 0

    def changes(self, model: FeatureModel, setting: DefenseSetting) -> Tensor:
        """c of every class, (K,) on the CPU; ``model`` is not changed."""
        params, images = self.params, setting.clean
        forgetful, tally = copy.deepcopy(model), Tally().to(setting.numerics.device)
        forgetful.requires_grad_(True).train()
        weights = list(forgetful.parameters())
        recipe = Recipe(
            epochs=params.unlearn_epochs,
            batch_size=params.unlearn_batch,
            lr=params.unlearn_lr,
            nesterov=False,
        )
        floor = max(params.floor, 2 / setting.num_classes)

        def loss(batch: Batch) -> dict[str, Tensor]:
            epoch, step = position(batch, recipe, len(images))
            if step == 0:
                if epoch and bool(tally.hits <= floor * tally.seen):
                    raise _EnoughError
                tally.restart()
            logits = forgetful(batch.images).float()
            tally.count(logits, batch.labels)
            ce = F.cross_entropy(logits, batch.labels)
            slopes = torch.autograd.grad(
                ce, weights, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            length = torch.stack([torch.linalg.vector_norm(s) for s in slopes]).norm()
            return {"unlearn": -ce * (params.clip / (length + 1e-6)).clamp(max=1)}

        with contextlib.suppress(_EnoughError):
            setting.fit(
                [forgetful, tally],
                loss,
                images,
                recipe,
                # So the relearning draws as fine-tuning would.
                generator=derived(setting.generator),
                augmentation=setting.augmentation,
            )
        moved = classifier(forgetful).weight - classifier(model).weight
        return moved.detach().abs().sum(1).cpu()
