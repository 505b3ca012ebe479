"""Where the time of a stage goes. Outside a profile every call here costs next to nothing."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

#: The parts of a stage. ``other`` is everything outside of them, such as the work of a method.
PARTS = ("batch", "teacher", "forward", "backward", "optimizer", "other", "files")

#: A trace leaves out the first steps of a loop, which reserve memory and build kernels. It shows
#: the next few.
_SKIPPED, _SHOWN = 3, 3
#: Loops of one stage that are traced. A trace of a deep pair takes some 10 MB.
_MOST_TRACES = 8

_T = TypeVar("_T")
_R = TypeVar("_R")
_P = ParamSpec("_P")
_active: Profile | None = None


class Profile:
    """The seconds of each part, and traces of the first steps of each loop in ``folder``.

    On a GPU the profile waits for the device at the boundaries of the parts. So the shares are
    right, and the whole takes a little longer.

    Attributes:
        seconds: of each part, without the parts inside it.
        steps: optimiser steps, or batches measured.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps = 0
        self._folder, self._device, self._traces = folder, device, 0
        self._stack = ["other"]
        self._since = time.perf_counter()

    def facts(self, among: int = 1) -> dict[str, float]:
        """``steps``, and ``PART_s`` for each part.

        Args:
            among: how many tasks shared the process. Each gets an equal part of the seconds.
        """
        self._note()
        return {
            "steps": self.steps,
            **{f"{name}_s": round(self.seconds[name] / among, 4) for name in PARTS},
        }

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        self._note()
        self._stack.append(name)
        try:
            with record_function(f"kdbench: {name}"):
                yield
        finally:
            self._note()
            self._stack.pop()

    def _note(self) -> None:
        """Add the time since the last call to the innermost part."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def loop(self, batches: Iterable[_T], trace: bool) -> Iterator[_T]:
        tracer = None
        source = iter(batches)
        step = 0
        try:
            while True:
                if trace and step == _SKIPPED and self._traces < _MOST_TRACES:
                    tracer = self._start()
                if step == _SKIPPED + _SHOWN and tracer is not None:
                    self._stop(tracer)
                    tracer = None
                with self.span("batch"):
                    batch = next(source, None)
                if batch is None:
                    return
                yield batch
                step += 1
                self.steps += 1
        finally:
            if tracer is not None:
                self._stop(tracer)

    def _start(self) -> profile:
        self._note()
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (
            self._device.type == "cuda"
        )
        tracer = profile(activities=activities)
        tracer.start()
        # Starting and stopping a trace takes time that is no part of the stage.
        self._since = time.perf_counter()
        return tracer

    def _stop(self, tracer: profile) -> None:
        self._note()
        tracer.stop()
        self._folder.mkdir(exist_ok=True)
        self._traces += 1
        tracer.export_chrome_trace(str(self._folder / f"{self._traces}.json"))
        self._since = time.perf_counter()


@contextmanager
def profiled(folder: Path, device: torch.device) -> Iterator[Profile]:
    """Take a profile of what happens inside. A process takes one at a time."""
    global _active
    _active = Profile(folder, device)
    try:
        yield _active
    finally:
        _active = None


def span(name: str) -> AbstractContextManager[None]:
    """Count the time inside as ``name``, one of :data:`PARTS`."""
    return nullcontext() if _active is None else _active.span(name)


def spanned(name: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """:func:`span` around a whole function."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def inside(*arguments: _P.args, **options: _P.kwargs) -> _R:
            with span(name):
                return function(*arguments, **options)

        return inside

    return decorate


def loop(batches: Iterable[_T], trace: bool = True) -> Iterable[_T]:
    """The same batches, each counted as a step. ``trace``: write a trace of the first few."""
    return batches if _active is None else _active.loop(batches, trace)
