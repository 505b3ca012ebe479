"""The boundary between planning and computing: jobs go in, outcomes come out.

A job says everything that its process may know, and names files in one folder. It holds no objects,
so that it can be sent to another process or another machine.
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

    #: Key of the stage.
    key: str
    #: Kind of the stage.
    kind: Kind
    #: For people. The process does not get it, since it names the attack.
    title: str
    #: ``in/`` holds its inputs, and ``out/`` will hold its files. No other job uses the folder.
    folder: Path
    #: All that the process is told, in strict JSON.
    task: dict[str, Any]
    #: Files and folders outside ``folder`` that it may open.
    reads: tuple[Path, ...] = ()
    #: Jobs computed in the same process, from one pass of the teacher that they share.
    beside: tuple[Job, ...] = ()

    @property
    def side(self) -> Side:
        """On whose side it runs. The two never share a process."""
        return Kind.named(self.kind).side


Status = Literal["ok", "failed", "diverged", "crashed", "timeout", "out of memory"]


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: Status
    #: Why the status is not ok.
    reason: str = ""
    #: Time that the stage took.
    seconds: float = 0.0
    #: Largest memory of its process, MiB.
    peak_mb: float = 0.0
    #: Numbers for the record, strict JSON.
    facts: dict[str, Any] = field(default_factory=dict)
    #: Names in ``out/``.
    files: tuple[str, ...] = ()
    #: What the process printed.
    log: str = ""


@dataclass(frozen=True)
class Progressed:
    """A job, or a job beside it, took a step of a training. Only some steps are reported."""

    #: Key of the stage.
    key: str
    step: Step


@dataclass(frozen=True)
class Done:
    """A job ended."""

    #: Key of the stage.
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
        """Compute up to ``jobs`` jobs at once, on these devices in turn.

        Without devices each job runs on the device that its task names.
        """
        ...

    def warm_up(self) -> None:
        """Prepare for the first job now, while the caller does something else."""
        ...

    def free(self) -> int:
        """How many more jobs can be started now."""
        ...

    def start(self, job: Job) -> None:
        """Start a job. Returns at once, or when the job is done."""
        ...

    def wait(self, timeout: float) -> list[Progressed | Done]:
        """What has happened since the last call. Waits up to ``timeout`` seconds for something.

        Each job, and each job beside it, ends in exactly one Done.
        """
        ...

    def close(self) -> None:
        """Stop everything and kill what runs. Called once."""
        ...
