"""Jobs as processes of this machine, each confined to what it may know."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.bench.work.executors.running import RunningJob
from kdbench.bench.work.job import (
    BOX,
    IN,
    LOG,
    PLUGINS,
    TEMPORARY,
    Companion,
    Done,
    Job,
    Outcome,
    Progressed,
)
from kdbench.untrusted.processes.client import Walled, Zygote, wait
from kdbench.untrusted.processes.environment import temporary_environment
from kdbench.untrusted.processes.order import View

if TYPE_CHECKING:
    from kdbench.bench.work.executors.slots import Slots
    from kdbench.numerics import Numerics

#: What the processes of jobs have imported when they begin. The first optimiser of a process
#: imports torch._dynamo, which takes a second.
IMPORTS = ("torch._dynamo", "kdbench.bench.work.executors.child")
_ENTRY = "kdbench.bench.work.executors.child:run"
#: Limits that no honest job comes near: processes and threads, and MiB of one file.
_MOST_PROCESSES, _MOST_FILE_MB = 4096, 16 << 10
#: Seconds between two looks at what the limits are about.
_LOOK_EVERY_S = 0.2
#: Seconds to wait for a job that has to be looked at although nothing comes from it.
_SHORT_S = 0.1


@dataclass(frozen=True)
class JobLimits:
    """What one job may take; None is no limit."""

    #: Wall time.
    seconds: float | None = None
    #: Resident memory of its processes, MiB.
    memory_mb: float | None = None
    #: Time without a step and (almost) without processor time.
    stall_s: float | None = None


@dataclass
class LocalExecutor:
    """``jobs`` jobs side by side; on GPUs as many a card as there are jobs, evenly."""

    jobs: int = 1
    limits: JobLimits = JobLimits()
    #: Values for CUDA_VISIBLE_DEVICES, handed out in turn.
    devices: tuple[str, ...] = ()
    #: Whether each process gives up what it does not need; see kdbench.untrusted.wall.
    confined: bool = True
    #: Layers of the wall that are left out, see View. For tests.
    without: tuple[str, ...] = ()
    #: Seconds that a process may go on after it said all that it had to say.
    grace_s: float = 10.0
    #: Forks the processes. None: one of its own, which ends with it.
    zygote: Zygote | None = None
    _own: Zygote | None = None
    _running: list[RunningJob] = field(default_factory=list)
    _refused: list[Done] = field(default_factory=list)
    _next_look: float = 0.0

    @property
    def apart(self) -> bool:
        return True

    @property
    def here(self) -> bool:
        return True

    def share(self, jobs: int | None, numerics: Numerics) -> Slots:
        # It imports torch, which the processes do meanwhile.
        from kdbench.bench.work.executors.slots import share_machine

        return share_machine(jobs or 1, numerics)

    def use(self, jobs: int, devices: tuple[str, ...] = ()) -> None:
        self.jobs, self.devices = jobs, devices

    def free(self) -> int:
        return self.jobs - len(self._running)

    def warm_up(self) -> None:
        """Start importing now, while the caller does something else."""
        self.processes()

    def start(self, job: Job) -> None:
        try:
            self._running.append(self._start(job))
        # No descriptors, no place for a log, or a plugin's parameter that JSON cannot hold.
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            outcome = Outcome("failed", f"cannot be started: {reason}")
            self._refused += [Done(each.key, outcome) for each in (job, *job.beside)]

    def wait(self, timeout: float) -> list[Progressed | Done]:
        self._enforce()
        events = self._look()
        if not events:
            self._sleep(timeout)
            events = self._look()
        return events

    def close(self) -> None:
        for running in self._running:
            running.end("crashed", "the run has ended")
        if self._own is not None:
            self._own.close()
            self._own = None
        for running in self._running:
            running.close()
        self._running.clear()

    # -- starting ------------------------------------------------------------------------------

    def processes(self) -> Zygote:
        """What forks the jobs' processes. It begins when it is first asked for."""
        if self.zygote is not None:
            return self.zygote
        if self._own is None:
            self._own = Zygote(IMPORTS)
        return self._own

    def _start(self, job: Job) -> RunningJob:
        slot = min(set(range(self.jobs)) - {running.slot for running in self._running})
        running = RunningJob(job, slot, grace_s=self.grace_s)
        near: dict[str, int] = {}
        with contextlib.ExitStack() as ours:
            try:
                for companion in job.companions:
                    end, far = socket.socketpair()
                    ours.enter_context(end)
                    ours.enter_context(far)
                    near[companion.name] = end.fileno()
                    log = self._log(running, f"{companion.name}-{LOG}", ours)
                    process = self._accompany(running, companion, log, far.fileno())
                    running.processes.append(process)
                log = self._log(running, LOG, ours)
                running.processes.append(self._compute(running, log, near))
            except BaseException:
                running.close()
                raise
        return running

    def _log(self, running: RunningJob, name: str, ours: contextlib.ExitStack) -> int:
        """A descriptor to which one process prints; ``ours`` closes it.

        No two processes share it: its place and the size of its file would be a way to talk.
        """
        log, reader = _open_log(running.job.folder / name)
        ours.callback(os.close, log)
        running.logs.append(reader)
        return log

    def _compute(self, running: RunningJob, log: int, links: Mapping[str, int]) -> Walled:
        """The process that computes a job."""
        jobs, folder = running.jobs, running.job.folder
        inside = [each.folder / name for each in jobs for name in (IN, PLUGINS)]
        return self.processes().start(
            _ENTRY,
            {"tasks": [each.task for each in jobs]},
            self._view(
                running,
                (*inside, *(path for each in jobs for path in each.reads)),
                tuple(each.folder / BOX for each in jobs),
            ),
            log=log,
            environment=self._environment(running, folder / BOX / TEMPORARY),
            links=links,
        )

    def _accompany(self, running: RunningJob, companion: Companion, log: int, job: int) -> Walled:
        """The process of a companion. Its temporary files are no other process's."""
        temporary = running.job.folder / f"{TEMPORARY}-{companion.name}"
        temporary.mkdir(exist_ok=True, mode=0o700)
        return self.processes().start(
            companion.entry,
            companion.order,
            self._view(running, companion.reads, (temporary,)),
            log=log,
            environment=self._environment(running, temporary),
            links={"job": job},
        )

    def _view(self, running: RunningJob, read: tuple[Path, ...], write: tuple[Path, ...]) -> View:
        memory_mb = self.limits.memory_mb
        return View(
            read,
            write,
            devices=running.on_gpu,
            confined=self.confined,
            without=self.without,
            # What lies there is memory, although no process may have it mapped.
            shm_mb=None if memory_mb is None else int(memory_mb),
            processes=_MOST_PROCESSES,
            file_mb=_MOST_FILE_MB,
        )

    def _environment(self, running: RunningJob, temporary: Path) -> dict[str, str]:
        environment = temporary_environment(temporary)
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[running.slot % len(self.devices)]
        return environment

    # -- what happens --------------------------------------------------------------------------

    def _look(self) -> list[Progressed | Done]:
        events: list[Progressed | Done] = [*self._refused]
        self._refused.clear()
        for running in list(self._running):
            events += running.look()
            if running.done:
                self._running.remove(running)
                outcomes = running.outcomes()
                running.close()
                events += [
                    Done(job.key, outcome)
                    for job, outcome in zip(running.jobs, outcomes, strict=True)
                ]
        return events

    def _sleep(self, timeout: float) -> None:
        """Until something comes from a process, or something else has to be done."""
        if any(running.waits for running in self._running):
            timeout = min(timeout, _SHORT_S)
        elif self._running and self._limited():
            timeout = min(timeout, _LOOK_EVERY_S)
        wait((process for running in self._running for process in running.processes), timeout)

    # -- limits --------------------------------------------------------------------------------

    def _limited(self) -> bool:
        return self.limits != JobLimits()

    def _enforce(self) -> None:
        now = time.monotonic()
        if not self._limited() or now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY_S
        seconds, memory_mb = self.limits.seconds, self.limits.memory_mb
        stall_s = self.limits.stall_s
        for running in self._running:
            if seconds is not None and now - running.since > seconds:
                running.end("timeout", f"it took longer than the limit of {seconds:g} s")
            elif stall_s is not None and running.watchdog.stalled(stall_s, now):
                running.end(
                    "timeout",
                    f"for {stall_s:g} s it reported no step and used no processor time "
                    "(--stall-limit)",
                )
            elif memory_mb is not None and (used := running.memory_mb()) > memory_mb:
                running.end(
                    "out of memory", f"it used {used:.0f} MiB; the limit is {memory_mb:.0f} MiB"
                )


def _open_log(path: Path) -> tuple[int, int]:
    """(a descriptor to which a process prints, another to read it).

    It lies where none of them may write, and nobody opens it again.
    """
    flags = os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(path, flags | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        return log, os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        os.close(log)
        raise
