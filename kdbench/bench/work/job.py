"""The boundary between planning and computing: jobs go in, outcomes come out. Behind it are local
processes, or a cluster.

A job says everything that its process may know, and names files in one folder. It holds no object,
so that it can be sent anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from kdbench._progress import Step
from kdbench.bench.kinds import Kind, Side

#: Names of the files by which a job and its process talk, and of the folder of its profile.
TASK, OUTCOME, LOG, TRACES = "task.json", "outcome.json", "log.txt", "traces"


@dataclass(frozen=True)
class Job:
    """One stage to compute."""

    #: The stage's.
    key: str
    #: For whoever watches.
    kind: Kind
    #: For whoever watches. The process is not told it, since it names the attack.
    title: str
    #: The job's own: ``in/`` holds its inputs, ``out/`` will hold its files.
    folder: Path
    #: Strict JSON: what the process is told.
    task: dict[str, Any]
    #: Files and folders outside ``folder`` that it may open.
    reads: tuple[Path, ...] = ()
    #: Jobs computed in the same process, from one pass of the teacher that they share.
    beside: tuple[Job, ...] = ()

    @property
    def side(self) -> Side:
        """On whose side it runs. The two never share a process."""
        return Kind(self.kind).side


Status = Literal["ok", "failed", "diverged", "crashed", "timeout", "out of memory"]


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: Status
    #: Why the status is not ok.
    reason: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    #: Names in ``out/``.
    files: tuple[str, ...] = ()
    #: What the process printed.
    log: str = ""


@dataclass(frozen=True)
class Progressed:
    """A job, or one beside it, took a step of a training. Only some steps are told."""

    key: str
    step: Step


@dataclass(frozen=True)
class Done:
    """A job ended."""

    key: str
    outcome: Outcome


class Executor(Protocol):
    """Computes jobs, several at a time."""

    @property
    def jobs(self) -> int:
        """How many at once, at most."""
        ...

    @property
    def apart(self) -> bool:
        """Whether each job has a process of its own, so that the two sides cannot meet."""
        ...

    def use(self, jobs: int, devices: tuple[str, ...] = ()) -> None:
        """Compute so many at once, on these devices in turn; none named: on those that each job
        says."""
        ...

    def warm_up(self) -> None:
        """Prepare for the first job now, while the caller does something else."""
        ...

    def free(self) -> int:
        """How many more jobs can be started now."""
        ...

    def start(self, job: Job) -> None:
        """Start a job; returns at once, or when it is done."""
        ...

    def wait(self, timeout: float) -> list[Progressed | Done]:
        """What has happened since the last call; waits up to ``timeout`` seconds for something.
        Each job, and each beside it, ends in one Done."""
        ...

    def close(self) -> None:
        """Stop everything, kill what runs. Called once."""
        ...
