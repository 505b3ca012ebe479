"""From a request to its rows: what ``kdbench run``, ``kdbench reproduce`` and
:func:`kdbench.api.run` share. It prints nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.bench.session.folders import check_out
from kdbench.bench.session.networks import tell_notes
from kdbench.bench.session.numbers import LEAST, check_least
from kdbench.bench.session.tell import Tell
from kdbench.bench.work.executors.make import (
    EXECUTORS,
    ExecutorName,
    JobLimits,
    cluster_address,
    make_executor,
)
from kdbench.errors import UsageError
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.run.events import Reporter
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.work.executors.slots import Slots
    from kdbench.bench.work.job import Executor
    from kdbench.loading.answers import Answers
    from kdbench.numerics import Numerics

#: Differences that a message names.
_NAMED = 8
#: What the executor inline cannot do.
_NOT_INLINE = ("jobs", "on", "time_limit", "stall_limit", "memory_limit", "reporter")


@dataclass(frozen=True)
class Execution:
    """How a request is carried out."""

    executor: ExecutorName = "local"
    #: On which machines: ``local``, ``ray``, or ``ray:HOST:PORT`` with the head of a cluster.
    on: str = "local"
    #: Stages side by side. None: 1 on this machine, and as many as fit on a cluster.
    jobs: int | None = None
    #: Whether machines of a cluster with another processor or card may take part.
    mixed: bool = False
    #: Whether machines of a cluster may take part whose wall leaves sockets open.
    sockets_open: bool = False
    #: Seconds for one stage.
    time_limit: float = 86400.0
    #: Seconds in which a stage may do nothing. 0: no limit.
    stall_limit: float = 600.0
    #: GiB for one stage. None: no limit.
    memory_limit: float | None = None
    #: Seconds between two checkpoints.
    checkpoint_every: float = 60.0
    #: Students that are trained side by side, at most.
    cohort: int = 4
    #: Whether to write where the time went.
    profile: bool = False
    #: Whether to stop at the first stage that fails.
    fail_fast: bool = False
    #: Plugins whose reporters hear how the run goes on.
    reporter: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for what no command would take."""
        if self.executor not in EXECUTORS:
            names = " or ".join(EXECUTORS)
            raise UsageError(f"--executor: {names}; got {self.executor!r}")
        cluster_address(self.on)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None:
                check_least(name, value, least)

    def make_executor(self, processes: Processes) -> Executor:
        """A new executor, which the caller closes.

        Args:
            processes: those of the command.
        """
        memory = None if self.memory_limit is None else self.memory_limit * 1024
        limits = JobLimits(self.time_limit, memory, self.stall_limit or None)
        if self.on != "local":
            from kdbench.bench.work.executors.ray import RayExecutor

            return RayExecutor(
                cluster_address(self.on),
                limits,
                processes.digests,
                self.checkpoint_every,
                processes.tell,
                mixed=self.mixed,
                sockets_open=self.sockets_open,
            )
        return make_executor(self.executor, lambda: processes.registry, limits, processes.zygote)


def check_executor(executor: ExecutorName, options: Collection[str]) -> None:
    """Raise UsageError where the executor cannot honour one of these options, which somebody
    gave."""
    names = [f"--{name.replace('_', '-')}" for name in _NOT_INLINE if name in options]
    if executor != "local" and names:
        raise UsageError(
            "--executor inline computes one stage at a time in this process, which it cannot limit "
            "or wall in; "
            f"drop {' and '.join(names)}, or use --executor local"
        )


def check_own_store(executor: ExecutorName, named: bool) -> None:
    """Raise UsageError where what is computed without a wall would be kept in the common store."""
    if executor != "local" and not named:
        raise UsageError(
            "--executor inline confines nothing, and later runs take what it keeps; name a store "
            "of its own with --store FOLDER"
        )


def divide(jobs: int, numerics: Numerics, tell: Tell) -> Slots:
    """How this machine is divided for ``--jobs``. A message says so where fewer run side by
    side."""
    from kdbench.bench.work.executors.slots import share_machine

    slots = share_machine(jobs, numerics)
    if slots.note:
        tell(slots.note)
    return slots


def place(executor: Executor, jobs: int | None, numerics: Numerics, tell: Tell) -> None:
    """Divide what computes among an executor's jobs, and warn where it does not keep them apart.

    Raises:
        UsageError: a cluster can never compute so many.
    """
    slots = executor.share(jobs, numerics)
    if slots.note:
        tell(slots.note)
    executor.use(slots.jobs, slots.devices)
    if not executor.apart:
        tell(
            "--executor inline: attacker and defender share this process and nothing confines "
            "them; use it to debug, not for results"
        )


@dataclass(frozen=True)
class Executed:
    """A request that was carried out."""

    #: Of the results.
    folder: Path
    #: A row of each cell that was run.
    rows: list[dict[str, Any]]
    #: How many cells were not run, because a stage failed and ``fail_fast`` was wanted.
    left: int
    #: Which results could not be written, and why. Empty: all were.
    complaint: str

    @property
    def whole(self) -> bool:
        """Whether every cell was measured, and everything was written."""
        measured = all(row.get("status") == "ok" for row in self.rows)
        return measured and not self.left and not self.complaint


def prepare_run(
    spec: RunSpec,
    registry: Answers,
    folder: Path,
    store: Store,
    how: Execution,
    tell: Tell,
    *,
    fresh: bool,
) -> Prepared:
    """Take a folder for the results, and prepare a request.

    Args:
        folder: of the results. It is made.
        tell: takes what whoever asks should know before it is computed.
        fresh: the folder was made for this request. It is removed if the request is refused.

    Raises:
        UsageError: the folder cannot be taken, or the request is refused.
    """
    from kdbench.bench.plan.prepare import prepare
    from kdbench.bench.run.earlier import read_earlier
    from kdbench.bench.run.record import record_of

    check_out(folder, spec)
    earlier = read_earlier(folder)
    try:
        for name in how.reporter:
            registry.reporter(name)
        prepared = prepare(spec, registry, store)
    except BaseException:  # the request or one of its files was refused
        if fresh and not any(folder.iterdir()):
            folder.rmdir()
        raise
    if earlier:
        tell_differences(folder, earlier, record_of(prepared, registry), tell)
    tell_notes(prepared.notes, tell)
    return prepared


def tell_differences(
    folder: Path, earlier: dict[str, Any], now: dict[str, Any], tell: Tell
) -> None:
    """Tell what has changed since a folder got its results, which this run replaces."""
    from kdbench.bench.run.earlier import differences

    changed = differences(earlier, now)
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        tell(
            strip_control(
                f"{folder} holds results of the same request that were made otherwise, and this "
                f"run replaces them: {'; '.join(changed[:_NAMED])}{more}"
            )
        )


def carry_out(
    prepared: Prepared,
    registry: Answers,
    folder: Path,
    store: Store,
    executor: Executor,
    how: Execution,
    reporter: Reporter,
    tell: Tell,
) -> Executed:
    """Run a prepared request. An interrupt ends the jobs, and is raised again then.

    Args:
        executor: has been given its share of the machine (:func:`place`).
        reporter: is called as the run goes on, before the reporters of plugins.
    """
    from kdbench.bench.run import runner
    from kdbench.bench.run.events import Complaint, Several
    from kdbench.bench.run.tracker import tracking

    registry.close()  # The run needs no more than what was said.
    complaint = Complaint()
    with tracking(how.reporter, registry, prepared, folder, tell) as trackers:
        rows = runner.run(
            prepared,
            registry,
            folder,
            Several((complaint, reporter, *trackers)),
            store,
            executor,
            fail_fast=how.fail_fast,
            checkpoint_s=how.checkpoint_every,
            cohort=how.cohort,
            profile=how.profile,
        )
    left = len(prepared.plan.cells) - len(rows) if how.fail_fast else 0
    return Executed(folder, rows, left, complaint.text)
