"""The boundary between planning and computing: jobs go in, outcomes come out. Behind it are local
processes, or a cluster.

A job says everything that its process may know, and names files in one folder. It holds no object,
so that it can be sent anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

#: Names of the files by which a job and its process talk, and of the folder of its profile.
TASK, OUTCOME, LOG, TRACES = "task.json", "outcome.json", "log.txt", "traces"

Side = Literal["attacker", "defender"]

#: Kinds of stage on the defender's side of the threat model; the others are the attacker's, or
#: measure.
DEFENDER_KINDS = frozenset({"cleanse", "distill", "repair"})


def side_of(kind: str) -> Side:
    """On whose side a stage runs. The two never share a process."""
    return "defender" if kind in DEFENDER_KINDS else "attacker"


@dataclass(frozen=True)
class Job:
    """One stage to compute.

    key: the stage's. kind, title: for whoever watches; the process is not told the title, which
    names the attack.
    folder: the job's own; ``in/`` holds its inputs, ``out/`` will hold its files. task: strict
    JSON, what the process is told.
    reads: files and folders outside ``folder`` that it may open.
    beside: jobs that are computed in the same process, from one pass of the teacher that they
    share.
    """

    key: str
    kind: str
    title: str
    folder: Path
    task: dict[str, Any]
    reads: tuple[Path, ...] = ()
    beside: tuple[Job, ...] = ()

    @property
    def side(self) -> Side:
        return side_of(self.kind)


Status = Literal["ok", "failed", "diverged", "crashed", "timeout", "out of memory"]


@dataclass(frozen=True)
class Outcome:
    """How a job ended. status other than ok: reason says why. files: names in ``out/``. log: what
    the process printed."""

    status: Status
    reason: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    log: str = ""


@dataclass(frozen=True)
class Step:
    """Progress inside a job, or one beside it: the arguments of Progress.step."""

    key: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A job ended."""

    key: str
    outcome: Outcome


class Executor(Protocol):
    """Computes jobs, several at a time."""

    def free(self) -> int:
        """How many more jobs can be started now."""
        ...

    def start(self, job: Job) -> None:
        """Start a job; returns at once, or when it is done."""
        ...

    def wait(self, timeout: float) -> list[Step | Done]:
        """What has happened since the last call; waits up to ``timeout`` seconds for something.
        Each job, and each beside it, ends in one Done."""
        ...

    def close(self) -> None:
        """Stop everything, kill what runs. Called once."""
        ...
