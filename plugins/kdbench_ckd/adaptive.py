"""CKD by an attacker who expects RobustKD: lower the teacher's feature variance first, or train
against a simulated defender.

Chen et al. 2024 (arXiv 2406.03409), Table 7: "a loss function is added to CKD that specifically
reduces the variance of the features". Weight, layer and stage are not given; here it is the
variance of the last group's features, in the teacher's training unless said otherwise.
:class:`SimulatedDetoxification` is kdbench's, and stronger: nothing in the paper does it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.models.base import GROUPS, FeatureModel, FeatureOutput
from kdbench.models.views import batch_statistics
from kdbench.trigger_search import frozen
from kdbench.variance import VarMode, feature_variance


class LowVariance:
    """``share * (L0 / V0) * Var(G3)``: a variance loss that starts at ``share`` of the loss it
    joins.

    L0, V0: that loss and the variance on what is passed first, so that ``share`` means the same for
    every network.
    """

    def __init__(self, share: float, mode: VarMode) -> None:
        self.share, self.mode = share, mode
        self._scale: float | None = None

    def start(self, loss: Tensor, out: FeatureOutput) -> None:
        """Measure L0 and V0; once."""
        variance = float(feature_variance(out.groups[-1], self.mode))
        self._scale = self.share * float(loss) / max(variance, 1e-12)

    @property
    def started(self) -> bool:
        return self._scale is not None

    def __call__(self, out: FeatureOutput) -> Tensor:
        assert self._scale is not None
        return self._scale * feature_variance(out.groups[-1], self.mode)


class SimulatedDetoxification(nn.Module):
    """A defender in miniature: an offset q_l on each group, moved to lower RobustKD's objective on
    the teacher as it is now.

        G'_l = G_l + q_l
        q <- q - rate * sign(grad_q [CE(B(G'_3(x)), y) + Var(G'_3(x))])    on clean images x

    Signed steps are what Adam's first steps are. The teacher then also learns to classify G'(x),
    triggered images as the target among them, so that what it hands on after such an offset is
    still poisoned.

    Args:
        out: features of any batch, for the shapes of the offsets. steps: signed steps for each of
            the teacher's.
        rate: size of such a step. weight: of the loss.
    """

    def __init__(self, out: FeatureOutput, steps: int, rate: float, weight: float) -> None:
        super().__init__()
        self.steps, self.rate, self.weight = steps, rate, weight
        for i, g in enumerate(out.groups):
            self.register_buffer(f"q{i}", torch.zeros_like(g[:1], dtype=torch.float32))

    def edit(self, i: int, g: Tensor) -> Tensor:
        return g + getattr(self, f"q{i}").to(g.dtype)

    def defend(self, teacher: FeatureModel, batch: Batch) -> None:
        """The defender's steps on clean images; the teacher stays as it is."""
        offsets = [getattr(self, f"q{i}") for i in range(GROUPS)]
        with frozen(teacher):
            for _ in range(self.steps):
                for q in offsets:
                    q.requires_grad_(True)
                out = teacher.features(batch.images, edit=self.edit)
                loss = F.cross_entropy(out.logits.float(), batch.labels) + feature_variance(
                    out.groups[-1]
                )
                slopes = torch.autograd.grad(loss, offsets)
                for q, slope in zip(offsets, slopes, strict=True):
                    q.requires_grad_(False).sub_(self.rate * slope.sign())

    def loss(self, teacher: FeatureModel, batch: Batch) -> Tensor:
        """``weight`` times the cross-entropy of the teacher with offsets, on a poisoned batch;
        batch norms do not move."""
        with batch_statistics(teacher):
            out = teacher.features(batch.images, edit=self.edit)
        return self.weight * F.cross_entropy(out.logits.float(), batch.labels)
