"""The only optimisation loop. Attacks, distillers and defenses say what to minimise; this file
minimises it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Augmentation, Batch, ImageSet
from kdbench.errors import DivergedError
from kdbench.method import Params
from kdbench.numerics import Numerics
from kdbench.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    NoCheckpoints,
    random_state,
    restore_random_state,
)
from kdbench.training.profiling import loop, span

#: A batch (already on the device) -> named scalar losses; their sum is minimised.
LossFunction = Callable[[Batch], dict[str, Tensor]]

#: What the loop optimises.
Trained = nn.Module | Tensor | Iterable[nn.Module | Tensor]


def cross_entropy(model: Callable[[Tensor], Tensor]) -> LossFunction:
    """The loss of plain training: float images -> logits (N, K) against the labels."""
    return lambda batch: {
        "ce": nn.functional.cross_entropy(model(batch.images).float(), batch.labels)
    }


class Recipe(Params):
    """How long and how fast to train."""

    epochs: int = Field(ge=0, description="passes over the training images")
    min_steps: int = Field(
        0, ge=0, description="optimiser steps to take at least; raises the epochs on a small set"
    )
    batch_size: int = Field(
        64,
        ge=2,
        description="images a step; a last smaller batch is dropped unless it is the only one",
    )
    optimizer: Literal["sgd", "adam"] = Field(
        "sgd", description="SGD with Nesterov momentum, or Adam"
    )
    lr: float = Field(gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty")
    schedule: Literal["onecycle", "steps", "constant"] = Field(
        "constant",
        description="onecycle: linear warm-up, then linear to 0; steps: x0.1 at each milestone, "
        "momentum reset",
    )
    warmup: float = Field(
        0.2, gt=0, lt=1, description="onecycle: fraction of training before the peak"
    )
    milestones: tuple[float, ...] = Field(
        (0.5, 0.75), description="steps: fractions of training at which the rate drops"
    )

    def passes(self, images: int) -> int:
        """Epochs over a set of that many images: ``epochs``, or more where ``min_steps`` asks for
        it."""
        per_epoch = max(1, images // min(self.batch_size, images))
        return max(self.epochs, math.ceil(self.min_steps / per_epoch))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` of ``steps``."""
        progress = step / max(1, steps)
        if self.schedule == "onecycle":
            if progress >= self.warmup:
                return self.lr * ((1 - progress) / (1 - self.warmup))
            first = 1 / max(1, steps)  # the first step of a warm-up is not lost to a rate of zero
            return self.lr * min(1.0, max(progress, first) / self.warmup)
        if self.schedule == "steps":
            return self.lr * 0.1 ** sum(progress >= m for m in self.milestones)
        return self.lr


class Progress(Protocol):
    """Told about every step; what a person sees is built on it."""

    def step(
        self, *, epoch: int, epochs: int, done: int, total: int, loss: float | None, images: int
    ) -> None: ...


class Silent:
    """A progress that says nothing."""

    def step(
        self, *, epoch: int, epochs: int, done: int, total: int, loss: float | None, images: int
    ) -> None:
        return


@dataclass(frozen=True)
class Fit:
    """The optimisation loop bound to a device, ready to be handed to plugins.

    losses: the mean loss of the last epoch of every call so far. checkpoints: where training left
    off, so that a killed stage, run again, goes on at the last epoch boundary that was kept, to the
    same bits on a CPU.
    """

    numerics: Numerics
    progress: Progress
    check_every: int = 20
    losses: list[float] = field(default_factory=list, compare=False)
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints, compare=False)
    _calls: Iterator[int] = field(default_factory=itertools.count, compare=False)

    def __call__(
        self,
        trained: Trained,
        loss: LossFunction,
        images: ImageSet,
        recipe: Recipe,
        *,
        generator: torch.Generator,
        augmentation: Augmentation | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> list[float]:
        """Minimise the summed losses over ``images`` and return the mean loss of each epoch.

        Args:
            trained: a module, a tensor, or several of them, already on the device: all parameters
                of the modules, and the tensors, are optimised. Put modules into the mode you want
                before the call. Pass every module whose buffers the loss changes (batch norms, say)
                as a module: what is kept at an epoch boundary is its parameters, buffers and extra
                    state, and whatever else lives between two steps is lost when a run is resumed.
            loss: batch -> named scalars; runs under the run's autocast.
            images: the training images. recipe: how long and how fast.
            generator: CPU generator; order and augmentation draw from it.
            augmentation: None trains on the images as they are.
            after_step: called after each optimiser step, e.g. to project a trigger into its bounds.

        Raises:
            DivergedError: the loss became NaN or infinite (looked at every ``check_every`` steps
                and each epoch's end).
        """
        trainee = Trainee(
            self, trained, lambda batch, _: loss(batch), recipe, len(images), after_step
        )
        train_together([trainee], images, generator=generator, augmentation=augmentation)
        if trainee.error is not None:
            raise trainee.error
        return trainee.history


class Trainee:
    """One of those that :func:`train_together` trains: what is optimised, and how far it is.

    Args:
        fit: the loop of its stage, with its checkpoints and its progress. trained, after_step: as
            in :class:`Fit`.
        loss: (batch, what is shared) -> named scalars. count: the training images.
        states: its own random states, where others train beside it; None: the process's are its
            own.

    Attributes:
        history: the mean loss of each epoch. error: what ended it before its time.
    """

    def __init__(
        self,
        fit: Fit,
        trained: Trained,
        loss: Callable[[Batch, Any], dict[str, Tensor]],
        recipe: Recipe,
        count: int,
        after_step: Callable[[], None] | None = None,
        states: RandomStates | None = None,
    ) -> None:
        self.fit, self.loss, self.recipe, self.after_step, self.states = (
            fit,
            loss,
            recipe,
            after_step,
            states,
        )
        self.parts = _parts(trained)
        self.parameters = _parameters(self.parts)
        self.batch_size = min(recipe.batch_size, count)
        self.per_epoch = max(1, count // self.batch_size)
        self.epochs = recipe.passes(count)
        self.history: list[float] = []
        self.error: Exception | None = None
        self._steps, self._rate = self.epochs * self.per_epoch, recipe.lr
        self._optimizer = _optimizer(self.parameters, recipe)
        self._call = next(fit._calls)
        self._total = torch.zeros((), device=fit.numerics.device)
        self._done = 0

    def restore(self, generator: torch.Generator) -> None:
        """Go on where a checkpoint was kept, if there is one of as many steps."""
        saved = self.fit.checkpoints.load(self._call)
        if saved is not None and saved.record["steps"] == self._steps:
            _restore(saved, self.parts, self.parameters, self._optimizer)
            with self._own_states():
                restore_random_state(saved, generator)
            self.history, self._rate = list(saved.record["history"]), saved.record["rate"]
        self._done = len(self.history) * self.per_epoch

    def step(self, batch: Batch, shared: Any) -> None:
        """One optimiser step. Raises whatever the loss raises, and DivergedError."""
        rate = self.recipe.rate(self._done, self._steps)
        if self.recipe.schedule == "steps" and rate != self._rate:
            # momentum is forgotten at each drop, as in Heo et al.
            self._optimizer = _optimizer(self.parameters, self.recipe)
        self._rate = rate
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with self._own_states():
            with span("forward"), self.fit.numerics.autocast():
                terms = self.loss(batch, shared)
            with span("backward"):
                value = torch.stack([term.float() for term in terms.values()]).sum()
                self._optimizer.zero_grad(set_to_none=True)
                value.backward()
            with span("optimizer"):
                self._optimizer.step()
                if self.after_step is not None:
                    self.after_step()
        self._total += value.detach()
        self._done += 1
        shown = None
        if self._done % self.fit.check_every == 0 or self._done % self.per_epoch == 0:
            shown = float(value.detach())
            if not math.isfinite(shown):
                named = ", ".join(f"{k}={float(v.detach()):g}" for k, v in terms.items())
                raise DivergedError(
                    f"loss is not finite at step {self._done} of {self._steps} ({named}); try a "
                    "smaller lr"
                )
        self.fit.progress.step(
            epoch=len(self.history) + 1,
            epochs=self.epochs,
            done=self._done,
            total=self._steps,
            loss=shown,
            images=len(batch.labels),
        )

    def end_epoch(self, generator: torch.Generator) -> None:
        """Note the epoch's mean loss, and keep a checkpoint if one is due."""
        self.history.append(float(self._total) / self.per_epoch)
        self._total = torch.zeros_like(self._total)
        if self.fit.checkpoints.due():
            state = _state(self.parts, self.parameters, self._optimizer)
            with self._own_states():
                drawn = random_state(generator)
            record = {
                **state.record,
                **drawn.record,
                "steps": self._steps,
                "history": self.history,
                "rate": self._rate,
            }
            self.fit.checkpoints.save(self._call, Checkpoint(state.tensors | drawn.tensors, record))

    def _own_states(self) -> AbstractContextManager[object]:
        return nullcontext() if self.states is None else self.states


class RandomStates:
    """The global random states of one of several that train in one process, put in place while it
    has its turn."""

    def __init__(self) -> None:
        self._own = self._now()

    @staticmethod
    def _now() -> tuple[Any, ...]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()

    @staticmethod
    def _set(states: tuple[Any, ...]) -> None:
        own, cuda, numpy, python = states
        torch.set_rng_state(own)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        np.random.set_state(numpy)
        random.setstate(python)

    def __enter__(self) -> None:
        self._others = self._now()
        self._set(self._own)

    def __exit__(self, *_: object) -> None:
        self._own = self._now()
        self._set(self._others)


class DifferentEpochsError(Exception):
    """Several cannot share their batches because they are not equally far."""


def train_together(
    trainees: Sequence[Trainee],
    images: ImageSet,
    *,
    generator: torch.Generator,
    augmentation: Augmentation | None = None,
    share: Callable[[Batch], Any] = lambda batch: None,
) -> None:
    """Train several on the same batches in the same order, each as it would be trained alone.

    Args:
        trainees: of one recipe and one set of images. One that raises stops (``error``), and the
            others go on.
        share: batch -> what all of them are handed: computed once for all.

    Raises:
        DifferentEpochsError: their checkpoints are of different epochs; train them apart.
    """
    first = trainees[0]
    if len(trainees) == 1 and first.states is not None:  # nobody else draws: once is enough
        states, first.states = first.states, None
        with states:
            return train_together(
                trainees, images, generator=generator, augmentation=augmentation, share=share
            )
    for trainee in trainees:
        trainee.restore(generator)
    if any(len(trainee.history) != len(first.history) for trainee in trainees):
        raise DifferentEpochsError
    left = list(trainees)
    begin = len(first.history)
    for epoch in range(begin, first.epochs):
        batches = images.batches(
            first.batch_size,
            device=first.fit.numerics.device,
            generator=generator,
            augmentation=augmentation,
            drop_last=True,
        )
        for batch in loop(batches, trace=epoch == begin):
            with span("teacher"):
                shared = share(batch)
            for trainee in list(left):
                try:
                    trainee.step(batch, shared)
                except Exception as error:  # that of one is not that of the others
                    trainee.error = error
                    left.remove(trainee)
            if not left:
                return
        for trainee in left:
            trainee.end_epoch(generator)
    for trainee in left:
        trainee.fit.losses.extend(trainee.history[-1:])


def _parts(trained: Trained) -> list[nn.Module | Tensor]:
    return [trained] if isinstance(trained, nn.Module | Tensor) else list(trained)


def _parameters(parts: list[nn.Module | Tensor]) -> list[Tensor]:
    found = (part.parameters() if isinstance(part, nn.Module) else [part] for part in parts)
    return list({id(p): p for group in found for p in group}.values())


def _state(
    parts: list[nn.Module | Tensor], parameters: list[Tensor], optimizer: torch.optim.Optimizer
) -> Checkpoint:
    """Everything that the next step depends on, besides random states."""
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for i, part in enumerate(parts):
        entries = part.state_dict() if isinstance(part, nn.Module) else {"": part}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"part.{i}.{name}"] = value
            else:
                extra[f"part.{i}.{name}"] = value
    for i, p in enumerate(parameters):
        for name, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
    return Checkpoint(tensors, {"extra": extra})


@torch.no_grad()
def _restore(
    saved: Checkpoint,
    parts: list[nn.Module | Tensor],
    parameters: list[Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """The inverse of :func:`_state`, in place: memory layouts stay what they are."""
    for i, part in enumerate(parts):
        prefix = f"part.{i}."
        entries = {
            k.removeprefix(prefix): v
            for k, v in (saved.tensors | saved.record["extra"]).items()
            if k.startswith(prefix)
        }
        if isinstance(part, nn.Module):
            part.load_state_dict(entries)
        else:
            part.copy_(entries[""])
    for i, p in enumerate(parameters):
        prefix = f"optimizer.{i}."
        device = p.device if optimizer.defaults["fused"] else "cpu"  # of a count of steps
        for name, value in saved.tensors.items():
            if name.startswith(prefix):
                like = (
                    torch.empty_like(p)
                    if value.shape == p.shape and value.ndim
                    else torch.empty_like(value, device=device)
                )
                optimizer.state[p][name.removeprefix(prefix)] = like.copy_(value)


def _optimizer(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """A few kernels for all parameters where torch has it right: its fused steps walk memory, and
    mix up a tensor with gaps."""
    # None: torch's second best
    fused = all(torch.empty_like(p).stride() == p.stride() for p in parameters) or None
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused
        )
    optimizer = torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=fused,
    )
    if fused and recipe.momentum:
        # Left to itself it makes them at the first step, and fails at a parameter whose first
        # gradient comes later.
        for p in parameters:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer
