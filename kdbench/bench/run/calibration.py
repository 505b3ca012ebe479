"""How fast this machine trains, tried out for a second or two where nothing was computed here yet.

A few steps of the real loop are timed in a walled process of their own. So no random state, no
cache and no memory of the command changes, and no result either.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kdbench.bench.plan.plan import Stage
from kdbench.bench.run.work import network_bytes, work
from kdbench.untrusted.box import temporary_folder
from kdbench.untrusted.processes.client import wait
from kdbench.untrusted.processes.environment import temporary_environment
from kdbench.untrusted.processes.order import View
from kdbench.untrusted.processes.search import SearchPath
from kdbench.untrusted.wall.paths import importable

if TYPE_CHECKING:
    from kdbench.numerics import Numerics
    from kdbench.untrusted.processes.client import Walled, Zygote

_ENTRY = "kdbench.bench.run.calibration:serve"
#: Seconds of timed steps, all in all, and of one network.
BUDGET_S, _ONE_S = 2.0, 0.5
#: Seconds besides: a GPU is initialised, or the machine is busy.
_PATIENCE_S = 15.0
#: Seconds besides for a further answer, once there is one.
_LAST_S = 1.0
#: Steps that are timed at most, after one that warms up.
_MOST_STEPS = 50
#: Networks that are tried at most.
_MOST_TRIALS = 6
#: Seconds that a stage takes besides its training, where nothing better is known, and the bounds of
#: what a trial may say of that.
_START_S, _LEAST_START_S = 1.0, 0.2
#: Operations a second that every machine has. Less arithmetic than some seconds of it is not tried.
_SLOW, _TRIFLE = 2e9, 1e10


@dataclass(frozen=True)
class Trial:
    """What is trained for a moment."""

    network: str
    """Its name. It is kdbench's own, or a library's."""
    num_classes: int
    image_size: int
    batch_size: int
    """Images a step."""

    @property
    def work(self) -> float:
        """Operations for one image of its training."""
        return work("recipe", (self.network,), self.num_classes, self.image_size) or 0.0


@dataclass(frozen=True)
class Pace:
    """How fast a network was trained here."""

    trial: Trial
    """What was trained."""
    seconds: float
    """For one step."""

    @property
    def speed(self) -> float:
        """Operations a second."""
        return self.trial.work * self.trial.batch_size / self.seconds


@dataclass(frozen=True)
class Untimed:
    """A network that was to be tried, and has no pace."""

    trial: Trial
    why: str


@dataclass(frozen=True)
class Calibration:
    """What is known of this machine's speed."""

    paces: tuple[Pace, ...] = ()
    """Of each network that was tried. None: every machine is fast enough."""
    start_s: float = _START_S
    """Seconds that a stage takes besides its training."""
    untimed: tuple[Untimed, ...] = ()
    """The networks that were not timed, each with the reason."""

    def seconds(self, stage: Stage) -> float | None:
        """About how long a stage takes. None: nobody can know what it computes."""
        if stage.kind.training == "none":
            return self.start_s
        operations = _operations(stage)
        if operations is None:
            return None
        return self.start_s + operations / self._speed(operations / stage.images)

    def bytes(self, stage: Stage) -> float:
        """About how much a stage leaves in the store."""
        if stage.shape is None or stage.kind.training == "none":
            return 0.0
        return network_bytes(stage.networks[0], *stage.shape)

    def _speed(self, an_image: float) -> float:
        """Operations a second of a network with so many for an image: as that which is most like
        it."""
        near = min(
            self.paces, key=lambda pace: abs(math.log(pace.trial.work / an_image)), default=None
        )
        return _SLOW if near is None else near.speed


def _operations(stage: Stage) -> float | None:
    """All that a stage's training by recipe computes."""
    if stage.shape is None or not stage.images:
        return None
    an_image = work(stage.kind.training, stage.networks, *stage.shape)
    return None if an_image is None else an_image * stage.images


def calibrate(
    stages: Sequence[Stage],
    numerics: Numerics,
    zygote: Zygote,
    trials: Sequence[Trial] = (),
    budget_s: float = BUDGET_S,
    announce: Callable[[], None] = lambda: None,
) -> Calibration | None:
    """Try how fast this machine is. None: it cannot be tried, or would help no stage.

    Args:
        stages: those of which nothing is known.
        numerics: of the run.
        zygote: forks the process that tries.
        trials: what is tried besides the networks of the stages.
        budget_s: seconds of timed steps.
        announce: is called before it takes time.
    """
    operations = [count for stage in stages if (count := _operations(stage)) is not None]
    if not operations and not trials:
        return None
    if sum(operations) < _TRIFLE and not trials:
        return Calibration()
    announce()
    return _ask(choose([*trials, *trials_of(stages)]), numerics, zygote, budget_s)


def trials_of(stages: Iterable[Stage]) -> Iterator[Trial]:
    """The network that each stage trains by recipe."""
    for stage in stages:
        if stage.shape is not None and _operations(stage) is not None:
            yield Trial(stage.networks[0], *stage.shape, stage.values["recipe"]["batch_size"])


def choose(trials: Iterable[Trial]) -> list[Trial]:
    """What to try, the least arithmetic first, so that the budget gives the most answers."""
    known = sorted(set(trials), key=lambda trial: trial.work * trial.batch_size)
    if len(known) <= _MOST_TRIALS:
        return known
    # The least, the most, and what lies evenly between them.
    places = (len(known) - 1) / (_MOST_TRIALS - 1)
    return [known[round(at * places)] for at in range(_MOST_TRIALS)]


def _ask(
    trials: Sequence[Trial], numerics: Numerics, zygote: Zygote, budget_s: float
) -> Calibration | None:
    search = SearchPath.here()
    with temporary_folder("kdbench-calibration-") as box:
        order = {
            "search": search.as_json(),
            "device": str(numerics.device),
            "bf16": numerics.bf16,
            "threads": numerics.threads,
            "trials": [asdict(trial) for trial in trials],
            "budget_s": budget_s,
        }
        software, devices = importable(search.inside(())), numerics.device.type != "cpu"
        view = View(software.read, (box,), software.listed, devices=devices)
        walled = zygote.start(_ENTRY, order, view, environment=temporary_environment(box))
        try:
            return _answer(walled, trials, budget_s)
        finally:
            walled.close()


def _answer(walled: Walled, trials: Sequence[Trial], budget_s: float) -> Calibration | None:
    """What the process said until its end, or until it was too late."""
    begun = time.monotonic()
    until, start_s, paces = begun + budget_s + _PATIENCE_S, _START_S, []
    skipped: dict[int, str] = {}
    while walled.exit is None and (left := until - time.monotonic()) > 0:
        wait([walled], left)
        walled.look()
        for line in walled.hear():
            message = json.loads(line)
            if "begun" in message:
                # A stage starts its process in the same way.
                start_s = min(max(time.monotonic() - begun, _LEAST_START_S), _START_S)
            elif "ready" in message:
                begun = time.monotonic()
                until = begun + budget_s + _PATIENCE_S
            elif "end" in message:
                until = 0.0
            elif "left_out" in message:
                step = f"a step takes about {float(message['step_s']):.1f} s"
                skipped[message["left_out"]] = (
                    f"no time was left: {step}, and all networks have {budget_s:.0f} s"
                )
            else:
                paces.append(Pace(trials[message["trial"]], float(message["seconds"])))
                until = min(until, begun + budget_s + _LAST_S)
    # Its process was ended, or has ended by itself, in the middle of a trial.
    late = "it gave no answer in time" if walled.exit is None else "its process failed"
    timed = {pace.trial for pace in paces}
    untimed = tuple(
        Untimed(trial, skipped.get(number, late))
        for number, trial in enumerate(trials)
        if trial not in timed
    )
    return Calibration(tuple(paces), start_s, untimed) if paces else None


# -- inside the process ----------------------------------------------------------------------------


def serve(channel: socket.socket, order: Mapping[str, Any], links: Mapping[str, int]) -> None:
    """Try what an order names, and say how long a step of each took.

    Args:
        channel: a blocking stream.
        order: see :func:`calibrate`.
        links: none are needed.
    """

    def say(message: Mapping[str, Any]) -> None:
        channel.sendall(json.dumps(message).encode() + b"\n")

    say({"begun": True})
    import torch

    from kdbench.numerics import Numerics

    SearchPath.from_json(order["search"]).adopt()
    torch.set_num_threads(order["threads"])
    numerics = Numerics(torch.device(order["device"]), order["bf16"], order["threads"])
    # A stage's process has imported it when it begins. The first optimiser would import it here.
    importlib.import_module("torch._dynamo")
    say({"ready": True})
    left_s, speed = order["budget_s"], None
    for number, values in enumerate(order["trials"]):
        trial = Trial(**values)
        # A step that is not timed, and one that is. What takes longer than is left is not begun.
        step_s = 0.0 if speed is None else trial.work * trial.batch_size / speed
        if left_s <= 0 or 2 * step_s > left_s:
            say({"left_out": number, "step_s": step_s})
            continue
        begun = time.monotonic()
        seconds = step_seconds(trial, numerics, min(_ONE_S, left_s))
        left_s -= time.monotonic() - begun
        speed = Pace(trial, seconds).speed
        say({"trial": number, "seconds": seconds})
    say({"end": True})


def step_seconds(trial: Trial, numerics: Numerics, budget_s: float) -> float:
    """Seconds of a step of the real loop, on random images."""
    import torch

    from kdbench.data.base import Augmentation
    from kdbench.data.tensor import TensorImages
    from kdbench.models import create_model
    from kdbench.training import Fit
    from kdbench.training.loop import cross_entropy
    from kdbench.training.recipe import Recipe

    side, count = trial.image_size, trial.batch_size * 4
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, trial.num_classes, (count,), generator=generator)
    network = create_model(trial.network, trial.num_classes, image_size=side)
    network = numerics.place(network).train()
    watch = _Watch(budget_s)
    recipe = Recipe(epochs=_MOST_STEPS, batch_size=trial.batch_size, lr=1e-4)
    with contextlib.suppress(_Enough):
        Fit(numerics, watch)(
            network,
            cross_entropy(network),
            TensorImages(pixels, labels),
            recipe,
            generator=generator,
            augmentation=Augmentation(),
        )
    if numerics.device.type != "cpu":
        torch.cuda.synchronize(numerics.device)
    return watch.seconds(time.monotonic())


class _Enough(Exception):
    """The time is over."""


class _Watch:
    """Ends a training after some steps or seconds, and knows how long a step took.

    The first step does not count: libraries prepare themselves in it.
    """

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._since, self._steps = 0.0, 0

    def step(self, step: object) -> None:
        now = time.monotonic()
        self._steps += 1
        if self._steps == 1:
            self._since = now
        elif self._steps > _MOST_STEPS or now - self._since > self._budget_s:
            raise _Enough

    def seconds(self, now: float) -> float:
        """Of one step, when the last has ended."""
        return max(now - self._since, 1e-6) / max(1, self._steps - 1)
