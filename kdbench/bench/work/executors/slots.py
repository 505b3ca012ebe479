"""How many jobs this machine computes side by side, and on which device each."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from kdbench._counted import counted
from kdbench.numerics import Numerics


@dataclass(frozen=True)
class Slots:
    """How a machine is divided among jobs."""

    jobs: int
    """How many run at once."""
    pace: int
    """How many times as fast as one after the other that is, at best."""
    devices: tuple[str, ...] = ()
    """Values for CUDA_VISIBLE_DEVICES, used in turn. Empty for a CPU and for one named card."""
    note: str = ""
    """Why there are fewer jobs than requested, and what to do. Empty if there are not fewer."""


def share_machine(jobs: int, numerics: Numerics) -> Slots:
    """Divide this machine among up to ``jobs`` jobs.

    On a CPU, jobs of several threads get a core for each thread. The threads of a convolution wait
    for one another and keep their cores meanwhile. So two jobs of two threads each took eight times
    as long on two cores as one such job (benchmarks/README.md). Jobs of one thread do not wait, and
    may be more than there are cores.
    """
    if numerics.device.type == "cpu":
        available, threads = cores(), numerics.threads
        pace = min(jobs, max(1, available // threads))
        most = jobs if threads == 1 else pace
        return Slots(
            most, pace, note="" if most == jobs else _fewer(jobs, most, threads, available)
        )
    # One card was named, so all jobs share it.
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
    several = (
        "one stage runs at a time" if most == 1 else f"{counted(most, 'stage')} run side by side"
    )
    fitting = max(1, cores // jobs)
    return (
        f"--jobs {jobs}: stages of {counted(threads, 'thread')} on {counted(cores, 'core')}, so "
        f"{several}; more do with --threads {fitting}, which, as any other number of threads, "
        "changes the last bits of results"
    )


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
