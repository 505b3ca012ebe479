"""Distances of logits, which distillers and defenses share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(z_t/T) || softmax(z_s/T)) for logits (N, K): summed over classes, averaged over N;
    float32 scalar."""
    log_s = F.log_softmax(student.float() / temperature, 1)
    log_t = F.log_softmax(teacher.detach().float() / temperature, 1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """-sum_k softmax(z_t/T)_k log softmax(z_s/T)_k for logits (N, K), averaged over N; float32
    scalar."""
    return F.cross_entropy(
        student.float() / temperature, F.softmax(teacher.detach().float() / temperature, 1)
    )


def standardised(logits: Tensor) -> Tensor:
    """(z - mean) / (1e-7 + sd) of each row of (N, K), float32; sd divides by K - 1. Equal logits
    become 0."""
    z = logits.float()
    z = z - z.mean(1, keepdim=True)
    # Of the norm, since the slope of a standard deviation of equal numbers is not finite.
    sd = torch.linalg.vector_norm(z, dim=1, keepdim=True) / max(1, z.shape[1] - 1) ** 0.5
    scaled: Tensor = z / (1e-7 + sd)
    return scaled
