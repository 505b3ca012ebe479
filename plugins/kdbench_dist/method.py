"""DIST: the student's predictions correlate with the teacher's, and need not be equal to them.

T. Huang, S. You, F. Wang, C. Qian, C. Xu: Knowledge Distillation from A Stronger Teacher. NeurIPS
2022, arXiv:2205.10536.

Implemented: the paper's relations between and within classes, in the form of the authors' code.

    p = softmax(z / T), (B, K);  rho(u, v) = <u', v'> / (||u'|| ||v'|| + 1e-8),  u' = u - mean(u)
    inter = T^2 * (1 - mean_i rho(p_s[i, :], p_t[i, :]))      over the classes of an image
    intra = T^2 * (1 - mean_k rho(p_s[:, k], p_t[:, k]))      over the images of a batch
    L = CE(z_s, y) + w * (beta * inter + gamma * intra)

Deviations from the paper:
- The numbers are those of the authors' CIFAR-100 runs, T = 4, w = 2, beta = gamma = 1. Their
  ImageNet runs have T = 1 and beta = gamma = 2 with w = 1.
- A correlation over a few images is noise, and over two images it is 1 or -1. So a batch of fewer
  than 16 images is refused.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.errors import ConfigError
from kdbench.method import Info, Params
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher

#: Images that a correlation over the batch needs at least.
_FEWEST = 16
_EPSILON = 1e-8


def correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Pearson's correlation of two matrices along ``dim``: (N, K) -> (K,) or (N,). 0 where a line
    is constant."""
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    lengths = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    return (a * b).sum(dim) / (lengths + _EPSILON)


def relations(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(inter, intra) of logits (N, K), each times T^2; float32 scalars. Only ``student`` gets a
    gradient."""
    p_s = F.softmax(student.float() / temperature, 1)
    p_t = F.softmax(teacher.detach().float() / temperature, 1)
    inter, intra = (temperature**2 * (1 - correlation(p_s, p_t, dim).mean()) for dim in (1, 0))
    return inter, intra


class DISTParams(Params):
    temperature: float = Field(
        4.0, gt=0, le=100, description="softening T, divides logits; authors' code, CIFAR-100"
    )
    weight: float = Field(
        2.0, ge=0, le=1000, description="weight w of both relations; authors' code, CIFAR-100"
    )
    beta: float = Field(
        1.0, ge=0, le=1000, description="weight of the relation over classes; authors' code"
    )
    gamma: float = Field(
        1.0, ge=0, le=1000, description="weight of the relation over the batch; authors' code"
    )


class DISTObjective(nn.Module):
    """The task loss and both weighted relations; owns no parameters."""

    def __init__(self, params: DISTParams) -> None:
        super().__init__()
        self.params = params

    def forward(
        self, batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput
    ) -> dict[str, Tensor]:
        """Return ``{"ce", "inter", "intra"}``, float32 scalars, already weighted.

        Raises:
            ConfigError: the batch has fewer than 16 images.
        """
        if len(batch.labels) < _FEWEST:
            raise ConfigError(
                f"dist correlates predictions over a batch, and this one has {len(batch.labels)} "
                f"images; it needs {_FEWEST}: --set distill.batch_size={_FEWEST} or more, or more "
                "training images"
            )
        p = self.params
        inter, intra = relations(student_out.logits, teacher_out.logits, p.temperature)
        return {
            "ce": F.cross_entropy(student_out.logits.float(), batch.labels),
            "inter": p.weight * p.beta * inter,
            "intra": p.weight * p.gamma * intra,
        }


class DIST(Distiller):
    """Distillation of the correlations between predictions."""

    info = Info(
        name="dist",
        title="Knowledge Distillation from A Stronger Teacher",
        authors="Huang, You, Wang, Qian, Xu",
        venue="NeurIPS",
        year=2022,
        link="https://arxiv.org/abs/2205.10536",
        evidence="first-look",
    )
    Params = DISTParams
    presets = {"quick": {}, "standard": {}, "paper": {}}
    params: DISTParams

    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> DISTObjective:
        return DISTObjective(self.params)
