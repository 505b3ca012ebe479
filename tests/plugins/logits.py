"""Two images with three classes, on which the losses of logits were computed by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.data.base import Batch
from kdbench.distiller import Distiller
from kdbench.models.base import FeatureOutput

Z_T = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
Z_S = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1])


def terms(
    distiller: Distiller,
    teacher: Tensor = Z_T,
    student: Tensor = Z_S,
    labels: Tensor = LABELS,
    progress: float = 0.5,
) -> dict[str, Tensor]:
    """The named losses of a distiller that looks at logits only."""
    count = len(labels)
    batch = Batch(torch.zeros(count, 3, 1, 1), labels, torch.arange(count), progress)
    objective = distiller.objective(None, None)
    return objective(batch, FeatureOutput((), (), teacher), FeatureOutput((), (), student))
