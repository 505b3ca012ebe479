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

#: What the loop, the metrics and the stage around them do; ``other`` is what is left: a method's
#: own business.
PARTS = ("batch", "teacher", "forward", "backward", "optimizer", "other", "files")

#: Of each loop the trace leaves out the first steps, in which memory is reserved and kernels are
#: made, and shows the next few.
_SKIPPED, _SHOWN = 3, 3
#: Loops of one stage that are traced; a trace of a deep pair takes some 10 MB.
_MOST_TRACES = 8

_T = TypeVar("_T")
_R = TypeVar("_R")
_P = ParamSpec("_P")
_active: Profile | None = None


class Profile:
    """The seconds of each part, and traces of the first steps of each loop in ``folder``.

    On a GPU the device is waited for at the boundaries of the parts: the shares are right, and the
    whole is a little slower.

    Attributes:
        seconds: of each part, its inner parts left out. steps: optimiser steps, or batches
            measured.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps = 0
        self._folder, self._device, self._traces = folder, device, 0
        self._stack = ["other"]
        self._since = time.perf_counter()

    def facts(self, among: int = 1) -> dict[str, float]:
        """``steps`` and, for each part, ``PART_s``, the seconds divided among as many as shared the
        process."""
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
        """Count what has passed to the innermost part."""
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
        self._since = time.perf_counter()  # starting and stopping a trace is no part of the stage
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
    """Take a profile of what happens inside; one at a time in a process."""
    global _active
    _active = Profile(folder, device)
    try:
        yield _active
    finally:
        _active = None


def span(name: str) -> AbstractContextManager[None]:
    """What happens inside is ``name``, one of :data:`PARTS`."""
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
    """The same batches, each counted as a step. ``trace``: the first few are to be seen in a trace
    of their own."""
    return batches if _active is None else _active.loop(batches, trace)
