"""What whoever watches a training is told. Imports no torch: displays read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """One optimiser step of a training."""

    #: The epoch that it belongs to, counted from 1.
    epoch: int
    #: Epochs of the whole training.
    epochs: int
    #: Steps taken so far, this one among them.
    done: int
    #: Steps of the whole training.
    total: int
    #: The loss, where it was looked at: every few steps.
    loss: float | None
    #: Images of this step's batch.
    images: int


class Progress(Protocol):
    """Hears of every step of a training. It is called in the loop, so it must be quick."""

    def step(self, step: Step) -> None: ...


class Silent:
    """A progress that says nothing."""

    def step(self, step: Step) -> None:
        return
