"""The only optimisation loop, its checkpoints, and where its time goes."""

from __future__ import annotations

from kdbench._progress import Progress, Silent, Step
from kdbench.training.loop import (
    DifferentEpochsError,
    Fit,
    LossFunction,
    Player,
    Trainee,
    cross_entropy,
    train_together,
)
from kdbench.training.random_states import RandomStates, seeded
from kdbench.training.recipe import Recipe
from kdbench.training.state import Trained

__all__ = [
    "DifferentEpochsError",
    "Fit",
    "LossFunction",
    "Player",
    "Progress",
    "RandomStates",
    "Recipe",
    "Silent",
    "Step",
    "Trained",
    "Trainee",
    "cross_entropy",
    "seeded",
    "train_together",
]
