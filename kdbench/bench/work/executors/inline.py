"""Jobs in the coordinator's own process, one at a time: for tests and for a debugger.

The two sides share that process, and nothing confines it. The companions of a job are threads.
"""

from __future__ import annotations

import pkgutil
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from kdbench.bench.work.executors.child import compute
from kdbench.bench.work.executors.slots import Slots, share_machine
from kdbench.bench.work.job import Companion, Done, Job, Progressed
from kdbench.bench.work.report import known_facts
from kdbench.loading.registry import Registry
from kdbench.numerics import Numerics, device_name, peak_mib
from kdbench.training import Step

#: What the facts of a stage say of its confinement.
CONFINEMENT = "none (inline: both sides in one process)"


class InlineExecutor:
    """Computes a job while it is started. A finished job counts as running until :meth:`wait`."""

    jobs = 1
    apart = False
    here = True

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._events: list[Progressed | Done] = []

    def share(self, jobs: int | None, numerics: Numerics) -> Slots:
        return share_machine(jobs or 1, numerics)

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

        began = time.monotonic()
        # The task sets the threads of this process, which the caller goes on to use.
        threads = torch.get_num_threads()
        try:
            with _beside(job.companions) as links:
                tasks = [each.task for each in jobs]
                reports = compute(tasks, lambda: self.registry, progressed, links)
        finally:
            torch.set_num_threads(threads)
        seconds = (time.monotonic() - began) / len(jobs)
        device = torch.device(job.task["device"])
        known = known_facts(device_name(device), CONFINEMENT, len(jobs))
        self._events += [
            Done(each.key, report.outcome(seconds, peak_mib(device), known))
            for each, report in zip(jobs, reports, strict=True)
        ]

    def wait(self, timeout: float) -> list[Progressed | Done]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._events = []


@contextmanager
def _beside(companions: Sequence[Companion]) -> Iterator[Mapping[str, int]]:
    """Let companions run as threads. Gives the descriptors that lead to them.

    A companion ends when its job has closed the socket between them. It is waited for, since the
    process goes on.
    """
    ends = {companion.name: socket.socketpair() for companion in companions}
    threads = [
        threading.Thread(target=_accompany, args=(companion, ends[companion.name][1]), daemon=True)
        for companion in companions
    ]
    for thread in threads:
        thread.start()
    try:
        yield {name: near.fileno() for name, (near, _) in ends.items()}
    finally:
        for near, _ in ends.values():
            # Works on copies of the descriptor, too, which the job may have made and kept.
            near.shutdown(socket.SHUT_RDWR)
            near.close()
        for thread in threads:
            thread.join()


def _accompany(companion: Companion, far: socket.socket) -> None:
    """The body of a companion's thread. What it raises shows in its job as a closed socket."""
    channel, unread = socket.socketpair()
    try:
        pkgutil.resolve_name(companion.entry)(channel, companion.order, {"job": far.fileno()})
    except (Exception, SystemExit):
        traceback.print_exc()
    finally:
        for end in (far, channel, unread):
            end.close()
