"""How a training reports its steps. Imports no torch, since displays import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """One optimiser step of a training."""

    #: Its epoch, counted from 1.
    epoch: int
    #: Epochs of the whole training.
    epochs: int
    #: Steps taken so far, this one among them.
    done: int
    #: Steps of the whole training.
    total: int
    #: The loss every few steps, else None.
    loss: float | None
    #: Images of this step's batch.
    images: int


class Progress(Protocol):
    """Is called at every step of a training. It runs in the loop, so it must be quick."""

    def step(self, step: Step) -> None: ...


class Silent:
    """A progress that says nothing."""

    def step(self, step: Step) -> None:
        return
