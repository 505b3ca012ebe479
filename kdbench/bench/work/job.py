"""The boundary between planning and computing: jobs go in, outcomes come out.

A job says everything that its processes may know, and names files in one folder. It holds no
objects, so that it can be sent to another process or another machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kdbench._progress import Step
from kdbench.bench.kinds import Kind, Side

if TYPE_CHECKING:
    from kdbench.bench.work.executors.slots import Slots
    from kdbench.numerics import Numerics

#: What lies in a job's folder: its inputs, one-off plugins, and the only folder that its process
#: may write.
IN, PLUGINS, BOX = "in", "plugins", "box"
#: The file beside them that takes what the job's process prints. Each companion has its own.
LOG = "log.txt"
#: What lies in the box: results, checkpoints, the traces of a profile, temporary files.
OUT, CHECKPOINTS, TRACES, TEMPORARY = "out", "checkpoints", "traces", "tmp"
#: What a file of a checkpoint and of a trace is called. Others are left alone.
CHECKPOINT_NAME = re.compile(r"fit-[0-9]{1,6}\.safetensors")
TRACE_NAME = re.compile(r"[0-9]{1,6}\.json")
#: Bytes of all of them of a stage that are taken over.
MOST_CHECKPOINT_BYTES, MOST_TRACE_BYTES = 8 << 30, 512 << 20


@dataclass(frozen=True)
class Companion:
    """A further process of a job. It runs a plugin's code that may not see what the job sees.

    The two talk over a socket, and over nothing else. The companion ends with its job.
    """

    #: By this name the process of the job finds the socket, in ``links``.
    name: str
    #: What the process calls, as ``module:function(channel, order, links)``. The job's end of the
    #: socket is ``links["job"]``. The channel leads to the coordinator, which drops what comes.
    entry: str
    #: All that the process is told, in strict JSON.
    order: dict[str, Any]
    #: Files and folders that it may open. Nothing of the job's folder is open unless named here.
    reads: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Job:
    """One stage to compute."""

    #: Key of the stage.
    key: str
    #: Kind of the stage.
    kind: Kind
    #: For people. The process does not get it, since it names the attack.
    title: str
    #: ``in/`` holds its inputs and ``plugins/`` one-off plugins. ``box/`` is all that it may write,
    #: and ``box/out/`` will hold its files. No other job uses the folder.
    folder: Path
    #: All that the process is told, in strict JSON.
    task: dict[str, Any]
    #: Files and folders outside ``folder`` that it may open.
    reads: tuple[Path, ...] = ()
    #: Further processes that work for this job.
    companions: tuple[Companion, ...] = ()
    #: Most bytes of one file of its result.
    limit_bytes: int = 16 << 30
    #: Jobs computed in the same process, from one pass of the teacher that they share.
    beside: tuple[Job, ...] = ()

    @property
    def side(self) -> Side:
        """On whose side it runs. The two never share a process."""
        return Kind.named(self.kind).side


Status = Literal["ok", "failed", "diverged", "not learned", "crashed", "timeout", "out of memory"]


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: Status
    #: Why the status is not ok.
    reason: str = ""
    #: Time that the stage took, by the coordinator's clock.
    seconds: float = 0.0
    #: Largest memory of its processes, MiB.
    peak_mb: float = 0.0
    #: Numbers for the record, strict JSON.
    facts: dict[str, Any] = field(default_factory=dict)
    #: What the processes printed.
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

    @property
    def here(self) -> bool:
        """Whether it computes on this machine."""
        ...

    def share(self, jobs: int | None, numerics: Numerics) -> Slots:
        """How what computes is divided among up to ``jobs`` jobs.

        Args:
            jobs: None: as many as it takes by itself.
            numerics: of the run.

        Raises:
            UsageError: it can never compute so many.
        """
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
