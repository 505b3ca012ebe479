"""Jobs in the coordinator's own process, one at a time: for tests and for a debugger.

The two sides share that process, and nothing confines it.
"""

from __future__ import annotations

import torch

from kdbench.bench.work.executors.child import compute
from kdbench.bench.work.job import Done, Job, Progressed
from kdbench.loading.registry import Registry
from kdbench.training import Step

#: What the facts of a stage say of its confinement.
CONFINEMENT = "none (inline: both sides in one process)"


class InlineExecutor:
    """Computes a job while it is started. A finished job counts as running until :meth:`wait`."""

    jobs = 1
    apart = False

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._events: list[Progressed | Done] = []

    def use(self, jobs: int, devices: tuple[str, ...] = ()) -> None:
        """Changes nothing: one job at a time, on the device that its task names."""

    def warm_up(self) -> None:
        """There is nothing to prepare."""

    def free(self) -> int:
        return 0 if any(isinstance(event, Done) for event in self._events) else 1

    def start(self, job: Job) -> None:
        jobs = (job, *job.beside)

        def progressed(place: int, step: Step) -> None:
            self._events.append(Progressed(jobs[place].key, step))

        # The task sets the threads of this process, which the caller goes on to use.
        threads = torch.get_num_threads()
        try:
            outcomes = compute(
                [each.task for each in jobs], lambda: self.registry, progressed, CONFINEMENT
            )
        finally:
            torch.set_num_threads(threads)
        self._events += [
            Done(each.key, outcome) for each, outcome in zip(jobs, outcomes, strict=True)
        ]

    def wait(self, timeout: float) -> list[Progressed | Done]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._events = []
