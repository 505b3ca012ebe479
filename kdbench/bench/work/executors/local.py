"""Jobs as processes of this machine, each confined to what it may know."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kdbench._progress import Step
from kdbench.bench.work.job import LOG, OUTCOME, TASK, Done, Job, Outcome, Progressed

_LIST = ("PATH", "LANG", "LANGUAGE", "TZ", "HOME", "VIRTUAL_ENV")
_PREFIXES = (
    "LC_",
    "LD_",
    "CUDA",
    "NVIDIA_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "ONEDNN_",
    "DNNL_",
    "PYTORCH_",
    "TORCH_",
    "HF_",
    "TIMM_",
)
_STATUSES = ("ok", "failed", "diverged", "out of memory")
_MOST = 8 << 20  # bytes of an outcome
_LARGEST = 2**53  # of a count; every float up to it is exact
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class JobLimits:
    """What one job may take; None is no limit."""

    #: Wall time.
    seconds: float | None = None
    #: Resident memory, MiB.
    memory_mb: float | None = None


@dataclass
class _Running:
    job: Job
    slot: int
    started: float
    pid: int = 0
    verdict: Outcome | None = None
    peak_mb: float = 0.0


@dataclass
class LocalExecutor:
    """``jobs`` processes side by side; on GPUs as many a card as there are jobs, evenly."""

    jobs: int = 1
    limits: JobLimits = JobLimits()
    #: Values for CUDA_VISIBLE_DEVICES, handed out in turn.
    devices: tuple[str, ...] = ()
    #: Whether each process gives up what it does not need; see kdbench.untrusted.confine.
    confined: bool = True
    _zygote: subprocess.Popen[bytes] | None = None
    _pending: bytes = b""
    _running: dict[str, _Running] = field(default_factory=dict)
    _next_look: float = 0.0

    @property
    def apart(self) -> bool:
        return True

    def use(self, jobs: int, devices: tuple[str, ...] = ()) -> None:
        self.jobs, self.devices = jobs, devices

    def free(self) -> int:
        return self.jobs - len(self._running)

    def warm_up(self) -> None:
        """Start importing now, while the caller does something else."""
        if self._zygote is None:
            self._pending = b""
            # -P: the current folder, where the results may lie, is no place to import from.
            self._zygote = subprocess.Popen(
                [sys.executable, "-P", "-m", "kdbench.bench.work.executors.zygote"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )

    def start(self, job: Job) -> None:
        self.warm_up()
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        token = secrets.token_hex(8)
        slot = min(set(range(self.jobs)) - {r.slot for r in self._running.values()})
        order: dict[str, Any] = {"token": token, "folder": str(job.folder)}
        if self.devices:
            order["device"] = self.devices[slot % len(self.devices)]
        message = {**job.task, "reads": [str(path) for path in job.reads], "confine": self.confined}
        message["beside"] = [other.task for other in job.beside]
        for name in (OUTCOME, LOG):
            (job.folder / name).unlink(missing_ok=True)
        (job.folder / TASK).write_text(json.dumps(message, allow_nan=False))
        self._running[token] = _Running(job, slot, time.monotonic())
        with contextlib.suppress(BrokenPipeError):  # its death is noticed in wait
            self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
            self._zygote.stdin.flush()

    def wait(self, timeout: float) -> list[Progressed | Done]:
        if self._zygote is None:
            return []
        assert self._zygote.stdout is not None
        self._enforce()
        handle = self._zygote.stdout.fileno()
        ready, _, _ = select.select(
            [handle], [], [], min(timeout, 0.25) if self._limited() else timeout
        )
        if not ready:
            return []
        data = os.read(handle, 1 << 20)
        if not data:
            return self._lost()
        *lines, self._pending = (self._pending + data).split(b"\n")
        events: list[Progressed | Done] = []
        for line in lines:
            with contextlib.suppress(*_NONSENSE):
                events += self._heard(json.loads(line))
        return events

    def close(self) -> None:
        idle = not self._running
        for running in self._running.values():
            _kill(running.pid)
        self._running.clear()
        if self._zygote is not None:
            with contextlib.suppress(OSError):
                self._zygote.stdin.close()  # type: ignore[union-attr]
            try:
                # Without a job it has nobody to take along, and may still be importing what nobody
                # needed.
                self._zygote.wait(0 if idle else 2)
            except subprocess.TimeoutExpired:
                self._zygote.kill()
                self._zygote.wait()
            self._zygote.stdout.close()  # type: ignore[union-attr]
            self._zygote = None

    # -- what the processes say ----------------------------------------------------------------

    def _heard(self, message: dict[str, Any]) -> list[Progressed | Done]:
        running = self._running.get(message.get("job", ""))
        if running is None:
            return []
        # A job's own process can write here, too: what it says must not name another process, or
        # fail whoever shows it.
        if "pid" in message and not running.pid:
            running.pid = int(message["pid"])
        elif "step" in message:
            whose = dict(enumerate((running.job, *running.job.beside)))[message["place"]]
            return [Progressed(whose.key, _step(message["step"]))]
        elif "exit" in message:
            del self._running[message["job"]]
            return _ends(running.job, self._outcomes(running, int(message["exit"])))
        return []

    def _lost(self) -> list[Progressed | Done]:
        """The process that forks is gone, and its children with it."""
        assert self._zygote is not None
        code = self._zygote.wait()
        self._zygote.stdout.close()  # type: ignore[union-attr]
        self._zygote = None
        events: list[Progressed | Done] = []
        for running in self._running.values():
            _kill(running.pid)
            events += _ends(
                running.job,
                [running.verdict or Outcome("crashed", f"the worker processes {_ending(code)}")],
            )
        self._running.clear()
        return events

    def _outcomes(self, running: _Running, code: int) -> list[Outcome]:
        """One for each job of the process; a single one where it is that of all."""
        _kill(running.pid)  # what it may have started
        seconds = time.monotonic() - running.started
        log = _tail(running.job.folder / LOG)
        if running.verdict is not None:
            verdict = running.verdict
            return [Outcome(verdict.status, verdict.reason, seconds, running.peak_mb, log=log)]
        if code != 0:
            return [
                Outcome(
                    "crashed", f"the process {_ending(code)}", seconds, running.peak_mb, log=log
                )
            ]
        try:
            with (running.job.folder / OUTCOME).open("rb") as file:
                reports = json.loads(file.read(_MOST))
            if len(reports) != 1 + len(running.job.beside):
                raise ValueError
            return [_outcome(report, log) for report in reports]
        except (OSError, *_NONSENSE):
            reason = "the process ended without an outcome (os._exit?)"
            return [Outcome("crashed", reason, seconds, running.peak_mb, log=log)]

    # -- limits --------------------------------------------------------------------------------

    def _limited(self) -> bool:
        return self.limits.seconds is not None or self.limits.memory_mb is not None

    def _enforce(self) -> None:
        now = time.monotonic()
        if not self._limited() or now < self._next_look:
            return
        self._next_look = now + 0.2
        used_mb = {} if self.limits.memory_mb is None else _groups_mb()
        for running in self._running.values():
            if running.verdict is not None or not running.pid:
                continue
            seconds, memory = self.limits.seconds, self.limits.memory_mb
            if seconds is not None and now - running.started > seconds:
                running.verdict = Outcome(
                    "timeout", f"it took longer than the limit of {seconds:g} s"
                )
            elif memory is not None:
                used = used_mb.get(running.pid, 0.0)
                running.peak_mb = max(running.peak_mb, used)
                if used > memory:
                    running.verdict = Outcome(
                        "out of memory", f"it used {used:.0f} MiB; the limit is {memory:.0f} MiB"
                    )
            if running.verdict is not None:
                _kill(running.pid)


def _step(record: dict[str, Any]) -> Step:
    """A step as a job's process tells it; an error where a value is none that a step can have."""
    values = {part.name: record[part.name] for part in fields(Step)}
    loss = values.pop("loss")
    if any(type(count) is not int or not 0 <= count <= _LARGEST for count in values.values()):
        raise ValueError
    return Step(**values, loss=None if loss is None else float(loss))


def _outcome(report: dict[str, Any], log: str) -> Outcome:
    """What a process says of one job, which a plugin may have written."""
    if report["status"] not in _STATUSES or not isinstance(report["facts"], dict):
        raise ValueError
    seconds, peak = float(report["seconds"]), float(report["peak_mb"])
    return Outcome(report["status"], str(report["reason"]), seconds, peak, report["facts"], log)


def _ends(job: Job, outcomes: list[Outcome]) -> list[Progressed | Done]:
    jobs = (job, *job.beside)
    return [
        Done(one.key, outcome)
        for one, outcome in zip(
            jobs, outcomes * len(jobs) if len(outcomes) == 1 else outcomes, strict=True
        )
    ]


def _environment() -> dict[str, str]:
    """What a worker needs of the environment, and nothing that could say where a run's results or
    its store are."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _LIST or name.startswith(_PREFIXES)
    }
    inside = (sys.prefix, sys.base_prefix)
    entries = [
        entry
        for entry in sys.path
        if entry and os.path.isabs(entry) and not entry.startswith(inside)
    ]
    script = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else ""
    kept["PYTHONPATH"] = os.pathsep.join(
        entry for entry in entries if entry not in (os.getcwd(), script)
    )
    kept["OPENBLAS_NUM_THREADS"] = "1"  # numpy's threads would be lost in a fork
    kept.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    return kept


def _kill(pid: int) -> None:
    if pid:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    name = (
        signal.Signals(-code).name
        if -code in signal.Signals.__members__.values()
        else f"signal {-code}"
    )
    hint = " (by the kernel, if memory ran out)" if code == -signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _tail(path: Path, most: int = 20000) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most))
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""


def _groups_mb() -> dict[int, float]:
    """Resident memory of every process group, MiB, in one look; empty where /proc is missing."""
    page = os.sysconf("SC_PAGE_SIZE")
    groups: dict[int, float] = defaultdict(float)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            resident = int((entry / "statm").read_text().split()[1])
            groups[os.getpgid(int(entry.name))] += resident * page / 2**20
    return groups
