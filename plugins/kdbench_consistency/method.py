"""Consistency: while it is distilled, the student must answer the same with and without a
perturbation.

kdbench's own, made of parts of two defenses of data-free distillation:
DHBE: Z. Yan, S. Li, R. Zhao, Y. Tian, Y. Zhao: DHBE: Data-free Holistic Backdoor Erasing in Deep
Neural Networks via Restricted Adversarial Distillation. AsiaCCS 2023, arXiv:2306.08009.
ABD: J. Hong, Y. Zeng, S. Yu, L. Lyu, R. Jia, J. Zhou: Revisiting Data-Free Knowledge Distillation
with Poisoned Teachers. ICML 2023, arXiv:2306.02368.

Implemented: a loss beside the distiller's. z_S are the student's logits, x o q an image with the
perturbation q, and sg passes no gradient.

    L_add = weight * d(z_S(x o q), sg z_S(x))
        d: mean |difference| over images and classes (l1), or
           KL( softmax(z_S(x)) || softmax(z_S(x o q)) )  (kl)
    patch: q takes the place of ``side`` x ``side`` pixels, at a random place in each step
    blend: x o q = (1 - opacity) x + opacity q

q has values in [0, 1]. It is new noise in each step (``random``). Or it starts as noise, and takes
a signed step up a slope every ``refresh`` steps: that of d of the student (``adversarial``), or of
KL( softmax(z_T(x)) || softmax(z_T(x o q)) ) of the teacher (``universal``).

Deviations from the sources:
- DHBE has a generator for its patches, and one for its images. Here q is one tensor, and images are
  those of the distillation. Its student starts from the backdoored weights.
- ABD's Self-Retrospection acts in the last steps alone, with a hypergradient through q.
  ``universal`` is its q without the latter, from begin to end.
- ABD's Shuffling Vaccine is left out. It is about images that a generator made.
- ``weight`` and ``side`` are DHBE's. ``opacity``, ``refresh`` and ``step`` are ours.
- A family of perturbations must be chosen. Who chooses the attack's own measures that knowledge. So
  report ``consistency`` and ``consistency.blend`` for each attack.
- The student's batch norms use the statistics of the perturbed batch, as in the sources, and their
  stored ones do not move. So a change of a channel's mean over the batch costs nothing. A student
  on its stored statistics, as in a measurement, keeps such a change. Where the loss took the stored
  ones, the logits of a small student grew: six times at weight 0.1, and without end at 1.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.defense import Defense, DefenseSetting
from kdbench.logits import soft_kl
from kdbench.method import Info, Params, Variant
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher, batch_statistics


class ConsistencyParams(Params):
    """The perturbation, and how much it counts."""

    weight: float = Field(0.1, ge=0, le=1000, description="weight of the loss; DHBE's code")
    distance: Literal["l1", "kl"] = Field(
        "l1", description="l1: of logits (DHBE); kl: of probabilities (ABD)"
    )
    perturbation: Literal["adversarial", "random", "universal"] = Field(
        "adversarial",
        description="adversarial: against the student; random: noise; universal: against the "
        "teacher; kdbench, after DHBE and ABD",
    )
    family: Literal["patch", "blend"] = Field(
        "patch", description="patch: a square; blend: the whole image; kdbench"
    )
    side: int = Field(5, ge=1, description="patch: its side, pixels; DHBE's code")
    opacity: float = Field(0.1, ge=0, le=1, description="blend: its opacity, of [0, 1]; kdbench")
    refresh: int = Field(
        10, ge=1, description="training steps between two changes of the perturbation; kdbench"
    )
    step: float = Field(
        0.1, ge=0, le=1, description="size of such a change, of [0, 1] pixel values; kdbench"
    )


def distance(changed: Tensor, wanted: Tensor, kind: str) -> Tensor:
    """d of logits (N, K), float32; only ``changed`` gets a gradient."""
    changed, wanted = changed.float(), wanted.detach().float()
    if kind == "l1":
        return (changed - wanted).abs().mean()
    return soft_kl(changed, wanted, 1.0)


class ConsistencyObjective(nn.Module):
    """The loss, with its perturbation."""

    pattern: Tensor
    steps: Tensor

    def __init__(
        self,
        teacher: FrozenTeacher,
        student: FeatureModel,
        shape: tuple[int, int, int],
        params: ConsistencyParams,
    ) -> None:
        super().__init__()
        # In a tuple, or the networks would be parts of this module, and trained with it.
        self.networks, self.params = (teacher.model, student), params
        side = (min(params.side, shape[1]), min(params.side, shape[2]))
        size = side if params.family == "patch" else shape[1:]
        self.register_buffer("pattern", torch.rand(3, *size))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        params = self.params
        _, student = self.networks
        place = self.place(batch.images)
        with batch_statistics(student):
            self.renew(batch.images, place, teacher_out.logits, student_out.logits)
            changed = student(self.perturbed(batch.images, self.pattern, place))
        self.steps = self.steps + 1
        return {
            "consistency": params.weight * distance(changed, student_out.logits, params.distance)
        }

    def renew(
        self, images: Tensor, place: tuple[int, int], teacher_logits: Tensor, student_logits: Tensor
    ) -> None:
        """The pattern of this step."""
        params = self.params
        teacher, student = self.networks
        if params.perturbation == "random":
            self.pattern = torch.rand(self.pattern.shape).to(self.pattern)
        elif int(self.steps) % params.refresh == 0:
            if params.perturbation == "universal":
                self.climb(teacher, images, teacher_logits, place, "kl")
            else:
                self.climb(student, images, student_logits, place, params.distance)

    def place(self, images: Tensor) -> tuple[int, int]:
        """Where the top left corner of a patch is, at random."""
        room = [images.shape[i] - self.pattern.shape[i - 1] for i in (2, 3)]
        y, x = (int(torch.randint(most + 1, ())) for most in room)
        return y, x

    def perturbed(self, images: Tensor, pattern: Tensor, place: tuple[int, int]) -> Tensor:
        """Images (N, 3, H, W) with the perturbation."""
        if self.params.family == "blend":
            return images + self.params.opacity * (pattern - images)
        (y, x), (height, width) = place, pattern.shape[1:]
        right, below = images.shape[3] - x - width, images.shape[2] - y - height
        around = (x, right, y, below)
        mask = F.pad(torch.ones_like(pattern[:1]), around)
        return images * (1 - mask) + F.pad(pattern, around)

    def climb(
        self, model: nn.Module, images: Tensor, logits: Tensor, place: tuple[int, int], kind: str
    ) -> None:
        """One signed step of the pattern that raises the distance of a network."""
        pattern = self.pattern.clone().requires_grad_()
        with torch.enable_grad():
            raised = distance(model(self.perturbed(images, pattern, place)), logits, kind)
            (slope,) = torch.autograd.grad(raised, pattern)
        self.pattern = (self.pattern + self.params.step * slope.sign()).clamp(0, 1)


class Consistency(Defense):
    """Distil a student that a perturbation does not move."""

    info = Info(
        name="consistency",
        title="Consistency under perturbations while distilling (after DHBE and ABD; kdbench)",
        authors="Yan, Li, Zhao, Tian, Zhao",
        venue="AsiaCCS",
        year=2023,
        link="https://arxiv.org/abs/2306.08009",
        evidence="defenses-of-the-field",
    )
    Params = ConsistencyParams
    zero = {"weight": 0}
    presets = {"quick": {}, "standard": {}, "paper": {}}
    variants = {
        "blend": Variant("perturbs the whole image, and no patch", {"family": "blend"}),
        "random": Variant("noise instead of an adversary", {"perturbation": "random"}),
        "universal": Variant(
            "the perturbation of the whole image that moves the teacher, after ABD",
            {"perturbation": "universal", "family": "blend", "distance": "kl"},
        ),
    }
    params: ConsistencyParams

    def steps(self) -> frozenset[str]:
        return frozenset({"objective"} if self.params.weight else ())

    def objective(
        self, teacher: FrozenTeacher, student: FeatureModel, setting: DefenseSetting
    ) -> ConsistencyObjective:
        return ConsistencyObjective(teacher, student, setting.clean.shape, self.params)
