"""How many jobs this machine computes side by side, and on which device each."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from kdbench.numerics import Numerics


@dataclass(frozen=True)
class Slots:
    """jobs: how many at once. pace: how many times as quick as one after the other that is at best.
    devices: values for CUDA_VISIBLE_DEVICES, handed out in turn; empty for a CPU or one named card.
    note: why these are fewer than were asked for, and what to do; empty where they are not.
    """

    jobs: int
    pace: int
    devices: tuple[str, ...] = ()
    note: str = ""


def share_machine(jobs: int, numerics: Numerics) -> Slots:
    """Divide this machine among up to ``jobs`` jobs of the given arithmetic; each at least 1.

    On a CPU, jobs of several threads get a core for each. The threads of one convolution wait for
    one another without letting go of their cores, so that two jobs of two threads each on two cores
    took eight times as long as one (benchmarks/README.md). Jobs of one thread wait for nobody and
    may be more than there are cores.
    """
    if numerics.device.type == "cpu":
        cores, threads = _cores(), numerics.threads
        pace = min(jobs, max(1, cores // threads))
        most = jobs if threads == 1 else pace
        return Slots(most, pace, note="" if most == jobs else _fewer(jobs, most, threads, cores))
    if numerics.device.index is not None:
        return Slots(jobs, jobs)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = (
        visible.split(",")
        if visible
        else [str(number) for number in range(torch.cuda.device_count())]
    )
    return Slots(jobs, jobs, tuple(names[:jobs]))


def _fewer(jobs: int, most: int, threads: int, cores: int) -> str:
    several = "one stage runs at a time" if most == 1 else f"{most} stages run side by side"
    fitting = max(1, cores // jobs)
    return (
        f"--jobs {jobs}: stages of {threads} threads on {cores} cores, so {several}; more do with "
        f"--threads {fitting}, which, "
        "as any other number of threads, changes the last bits of results"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
