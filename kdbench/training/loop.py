"""The only optimisation loop. Attacks, distillers and defenses say what it minimises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench._progress import Progress, Step
from kdbench.data.base import Augmentation, Batch, ImageSet
from kdbench.errors import ConfigError, ContractError, DivergedError
from kdbench.numerics import Numerics
from kdbench.training.checkpoint import Checkpoint, Checkpoints, NoCheckpoints
from kdbench.training.profiling import loop, span
from kdbench.training.random_states import RandomStates, random_state, restore_random_state
from kdbench.training.recipe import Recipe
from kdbench.training.state import (
    Optimised,
    Trained,
    make_optimizer,
    parameters_of,
    parts_of,
    restore,
    state_of,
)

#: A batch on the device -> named scalar losses. Their sum is minimised.
LossFunction = Callable[[Batch], dict[str, Tensor]]


def cross_entropy(model: Callable[[Tensor], Tensor]) -> LossFunction:
    """The loss of plain training: float images -> logits (N, K) against the labels."""
    return lambda batch: {
        "ce": nn.functional.cross_entropy(model(batch.images).float(), batch.labels)
    }


@dataclass(frozen=True)
class Player:
    """One of several that take turns on a batch, each with a loss and an optimiser of its own."""

    #: As for :class:`Fit`. No other player has any of these parts.
    trained: Trained
    #: As for :class:`Fit`. It may run the parts of other players, which it does not train.
    loss: LossFunction
    #: How fast it is trained. All players have the same epochs, steps and batch size.
    recipe: Recipe
    #: Called after each of its own steps.
    after_step: Callable[[], None] | None = None


@dataclass(frozen=True)
class Fit:
    """The optimisation loop bound to a device, ready to be handed to plugins."""

    #: Device and arithmetic.
    numerics: Numerics
    #: Is called after each step.
    progress: Progress
    #: Steps between two looks at the loss.
    check_every: int = 20
    #: The mean loss of the last epoch of every call so far.
    losses: list[float] = field(default_factory=list, compare=False)
    #: A killed stage that is run again goes on at its last checkpoint. On a CPU it ends in the same
    #: bits.
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints, compare=False)
    # Counts the calls: a stage that is run again makes the same calls in the same order.
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
            trained: a module, a tensor, or several of them, already on the device. All parameters
                of the modules, and the tensors, are optimised. Put modules into the mode you want
                before the call. Pass every module whose buffers the loss changes, such as batch
                norms. A checkpoint keeps the parameters, buffers and extra state of these modules.
                Whatever else lives between two steps is lost when a run is resumed.
            loss: batch -> named scalars. Runs under the run's autocast.
            images: the training images.
            recipe: how long and how fast to train.
            generator: CPU generator from which order and augmentation are drawn.
            augmentation: None: train on the images as they are.
            after_step: called after each optimiser step, for example to clamp a trigger.

        Raises:
            DivergedError: the loss became NaN or infinite. This is checked every ``check_every``
                steps and at the end of each epoch.
        """
        player = Player(trained, loss, recipe, after_step)
        return self.players([player], images, generator=generator, augmentation=augmentation)

    def players(
        self,
        players: Sequence[Player],
        images: ImageSet,
        *,
        generator: torch.Generator,
        augmentation: Augmentation | None = None,
    ) -> list[float]:
        """Let several take turns on each batch, in their order, such as a network and a trigger.

        A player's loss is computed after the players before it have made their step. Its gradients
        at the parts of others are dropped. They share one checkpoint.

        Args:
            players: at least one.
            images: the training images.
            generator: as for a call.
            augmentation: as for a call.

        Returns:
            The mean of each epoch of what all their losses sum up to.

        Raises:
            ConfigError: their recipes differ in epochs, steps or batch size.
            ContractError: two players have a parameter in common.
            DivergedError: a loss became NaN or infinite.
        """
        first, *others = players
        trainee = Trainee(
            self,
            first.trained,
            lambda batch, _: first.loss(batch),
            first.recipe,
            len(images),
            first.after_step,
            others=others,
        )
        train_together([trainee], images, generator=generator, augmentation=augmentation)
        if trainee.error is not None:
            raise trainee.error
        return trainee.history


class _Turn:
    """What one player does on a batch."""

    def __init__(
        self,
        trained: Trained,
        loss: Callable[[Batch, Any], dict[str, Tensor]],
        recipe: Recipe,
        after_step: Callable[[], None] | None,
    ) -> None:
        self.loss, self.recipe, self.after_step = loss, recipe, after_step
        self.parts = parts_of(trained)
        self.parameters = parameters_of(self.parts)
        self.rate = recipe.lr
        self.optimizer = make_optimizer(self.parameters, recipe)

    def set_rate(self, done: int, steps: int) -> None:
        """Set the learning rate of the step after ``done`` of ``steps``."""
        rate = self.recipe.rate(done, steps)
        if self.recipe.schedule == "steps" and rate != self.rate:
            # Momentum starts anew at each drop of the rate, as in Heo et al.
            self.optimizer = make_optimizer(self.parameters, self.recipe)
        self.rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(
        self, batch: Batch, shared: Any, numerics: Numerics
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step. (the sum of the losses before it, the losses)."""
        with span("forward"), numerics.autocast():
            terms = self.loss(batch, shared)
        with span("backward"):
            value = torch.stack([term.float() for term in terms.values()]).sum()
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
        with span("optimizer"):
            self.optimizer.step()
            if self.after_step is not None:
                self.after_step()
        return value.detach(), terms


class Trainee:
    """One of several that :func:`train_together` trains, and how far its training is.

    Args:
        fit: the loop of its stage, with checkpoints and progress.
        trained: as for :class:`Fit`.
        loss: (batch, result of ``share``) -> named scalars.
        recipe: how long and how fast to train.
        count: number of training images.
        after_step: as for :class:`Fit`.
        states: random states for this one alone, if others train beside it. None: it uses those of
            the process.
        others: players that take their turn after it on each batch.

    Attributes:
        history: the mean loss of each epoch, summed over the players.
        error: what ended the training too early.

    Raises:
        ConfigError: the players' recipes differ in epochs, steps or batch size.
        ContractError: two players have a parameter in common.
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
        others: Sequence[Player] = (),
    ) -> None:
        self.fit, self.recipe, self.states = fit, recipe, states
        self._turns = [_Turn(trained, loss, recipe, after_step), *map(_turn_of, others)]
        _check_apart(self._turns)
        self.batch_size = min(recipe.batch_size, count)
        self.per_epoch = max(1, count // self.batch_size)
        self.epochs = recipe.passes(count)
        self.history: list[float] = []
        self.error: Exception | None = None
        self._steps = self.epochs * self.per_epoch
        self._call = next(fit._calls)
        self._total = torch.zeros((), device=fit.numerics.device)
        self._done = 0

    @property
    def progress(self) -> float:
        """Share of the steps that are done, in [0, 1]."""
        return self._done / max(1, self._steps)

    def restore(self, generator: torch.Generator) -> None:
        """Go on at the last checkpoint, if there is one of a training of as many steps."""
        saved = self.fit.checkpoints.load(self._call)
        if saved is not None and saved.record["steps"] == self._steps:
            restore(saved, *self._state())
            with self._random_states():
                restore_random_state(saved, generator)
            self.history = list(saved.record["history"])
            for turn, rate in zip(self._turns, saved.record["rates"], strict=True):
                turn.rate = rate
        self._done = len(self.history) * self.per_epoch

    def step(self, batch: Batch, shared: Any) -> None:
        """One optimiser step of each player. Raises whatever a loss raises, and DivergedError."""
        terms: dict[str, Tensor] = {}
        values: list[Tensor] = []
        with self._random_states():
            for i, turn in enumerate(self._turns):
                turn.set_rate(self._done, self._steps)
                loss, named = turn.step(batch, shared, self.fit.numerics)
                values.append(loss)
                terms |= named if not i else {f"{i + 1}.{name}": v for name, v in named.items()}
        value = values[0] if len(values) == 1 else torch.stack(values).sum()
        self._total += value
        self._done += 1
        shown = self._look_at(value, terms)
        self.fit.progress.step(
            Step(
                epoch=len(self.history) + 1,
                epochs=self.epochs,
                done=self._done,
                total=self._steps,
                loss=shown,
                images=len(batch.labels),
            )
        )

    def _look_at(self, value: Tensor, terms: dict[str, Tensor]) -> float | None:
        """The loss every few steps, else None. Raises DivergedError if it is not finite."""
        # On a GPU each look waits for all work that is under way, so it is not done at each step.
        if self._done % self.fit.check_every and self._done % self.per_epoch:
            return None
        shown = float(value)
        if not math.isfinite(shown):
            named = ", ".join(f"{k}={float(v.detach()):g}" for k, v in terms.items())
            raise DivergedError(
                f"loss is not finite at step {self._done} of {self._steps} ({named}); try a "
                "smaller lr"
            )
        return shown

    def end_epoch(self, generator: torch.Generator) -> None:
        """Record the epoch's mean loss, and save a checkpoint if one is due."""
        self.history.append(float(self._total) / self.per_epoch)
        self._total = torch.zeros_like(self._total)
        if self.fit.checkpoints.due():
            state = state_of(*self._state())
            with self._random_states():
                drawn = random_state(generator)
            record = {
                **state.record,
                **drawn.record,
                "steps": self._steps,
                "history": self.history,
                "rates": [turn.rate for turn in self._turns],
            }
            self.fit.checkpoints.save(self._call, Checkpoint(state.tensors | drawn.tensors, record))

    def _state(self) -> tuple[list[nn.Module | Tensor], list[Optimised]]:
        """All that the next step depends on, besides random states."""
        parts = [part for turn in self._turns for part in turn.parts]
        return parts, [(p, turn.optimizer) for turn in self._turns for p in turn.parameters]

    def _random_states(self) -> AbstractContextManager[object]:
        return nullcontext() if self.states is None else self.states


def _turn_of(player: Player) -> _Turn:
    return _Turn(
        player.trained, lambda batch, _: player.loss(batch), player.recipe, player.after_step
    )


def _check_apart(turns: list[_Turn]) -> None:
    """Refuse players that cannot share batches, or that train the same thing."""
    lengths = {(t.recipe.epochs, t.recipe.min_steps, t.recipe.batch_size) for t in turns}
    if len(lengths) > 1:
        raise ConfigError(
            "players that take turns have recipes of different length (epochs, min_steps, "
            f"batch_size): {sorted(lengths)}; give all the same"
        )
    parameters = [id(p) for turn in turns for p in turn.parameters]
    if len(set(parameters)) < len(parameters):
        raise ContractError("two players train the same parameter; give it to one of them")


class DifferentEpochsError(Exception):
    """Trainees cannot share batches because their checkpoints are of different epochs."""


def train_together(
    trainees: Sequence[Trainee],
    images: ImageSet,
    *,
    generator: torch.Generator,
    augmentation: Augmentation | None = None,
    share: Callable[[Batch], Any] = lambda batch: None,
) -> None:
    """Train several on the same batches in the same order. Each ends as if trained alone.

    Args:
        trainees: of one recipe and one set of images. One that raises stops with its ``error``,
            and the others go on.
        images: the training images.
        generator: as for :class:`Fit`.
        augmentation: as for :class:`Fit`.
        share: batch -> what the loss of every trainee gets. Computed once a batch.

    Raises:
        DifferentEpochsError: their checkpoints are of different epochs. Train them one by one.
    """
    first = trainees[0]
    # Nobody else draws random numbers here, so its states are put in place once, not at each step.
    if len(trainees) == 1 and first.states is not None:
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
        for plain in loop(batches, trace=epoch == begin):
            batch = replace(plain, progress=left[0].progress)
            shared = share(batch)
            for trainee in list(left):
                try:
                    trainee.step(batch, shared)
                except Exception as error:  # one that fails must not stop the others
                    trainee.error = error
                    left.remove(trainee)
            if not left:
                return
        for trainee in left:
            trainee.end_epoch(generator)
    for trainee in left:
        trainee.fit.losses.extend(trainee.history[-1:])
