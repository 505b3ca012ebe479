"""The only optimisation loop, where it left off, and where its time goes."""

from __future__ import annotations

from kdbench.training.loop import (
    DifferentEpochsError,
    Fit,
    LossFunction,
    Progress,
    RandomStates,
    Recipe,
    Silent,
    Trained,
    Trainee,
    cross_entropy,
    train_together,
)

__all__ = [
    "DifferentEpochsError",
    "Fit",
    "LossFunction",
    "Progress",
    "RandomStates",
    "Recipe",
    "Silent",
    "Trained",
    "Trainee",
    "cross_entropy",
    "train_together",
]
