"""A job that runs: its processes, what they said, and what becomes of that.

The coordinator believes a job's process as little as it can. Its supervisor and the clock say how
it is confined, how long it took and how it ended. The rest has a schema: kdbench.bench.work.report.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field

from kdbench.bench.kinds import Kind
from kdbench.bench.work.executors.stall import Watchdog
from kdbench.bench.work.job import Job, Outcome, Progressed, Status
from kdbench.bench.work.report import (
    HelloReport,
    NonsenseError,
    OutcomeReport,
    OutcomesReport,
    StepReport,
    check_facts,
    known_facts,
    parse,
)
from kdbench.untrusted.processes.client import Walled
from kdbench.untrusted.processes.order import signal_name
from kdbench.untrusted.text import strip_control

#: Lines of one look that are read: the first, which may be the greeting, and the last ones. A job
#: that says more says nothing that anybody could follow.
MOST_LINES = 32
#: Seconds that a process may take to build its wall, on a machine that is busy.
_BEGIN_S = 60.0
#: Seconds after its end in which a channel is read that somebody else keeps open.
_LAST_S = 1.0
#: Seconds after which a job is done that could not be ended.
_KILL_S = 20.0
#: Bytes at the end of what a process printed.
_LOG_BYTES = 20_000
#: Lines of it, and characters of each, that a reason quotes.
_LOG_LINES, _LOG_LINE = 3, 160


@dataclass
class RunningJob:
    """A job that was started."""

    job: Job
    #: Its place among those that run at once.
    slot: int
    #: Its companions, and, as the last, the process that computes it.
    processes: list[Walled] = field(default_factory=list)
    #: Descriptors from which what each of them prints can be read.
    logs: list[int] = field(default_factory=list)
    #: Seconds that the process may go on after it said all that it had to say.
    grace_s: float = 10.0
    #: Most memory of all processes that was seen, MiB.
    peak_mb: float = 0.0
    #: Why the coordinator ended it.
    verdict: tuple[Status, str] | None = None
    started: float = field(default_factory=time.monotonic)
    watchdog: Watchdog = field(init=False)
    _device: str | None = None
    _reports: list[OutcomeReport] | None = None
    #: When the process said the last that it could say.
    _mute_since: float | None = None
    _killed_at: float | None = None
    _ended_at: float | None = None

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self._processor_s)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The job and those beside it, in the order of its tasks."""
        return (self.job, *self.job.beside)

    @property
    def main(self) -> Walled:
        """The process that computes it."""
        return self.processes[-1]

    @property
    def on_gpu(self) -> bool:
        return not str(self.job.task.get("device", "cpu")).startswith("cpu")

    @property
    def since(self) -> float:
        """When its time began: with its wall, before anything of a plugin."""
        # How long it takes to begin is not the job's doing. But it must not take for ever.
        begun = self.main.reported_at
        return self.started + _BEGIN_S if begun is None else begun

    def look(self) -> list[Progressed]:
        """Take in what its processes said. Never waits, never raises."""
        for process in self.processes:
            process.look()
        for companion in self.processes[:-1]:
            companion.hear()  # nothing that anybody asked for
        steps = self._hear()
        now = time.monotonic()
        if self.main.exit is None:
            self._check_mute(now)
        elif self._ended_at is None:
            # The others end with it, in whatever way it ended.
            self._ended_at, self._killed_at = now, self._killed_at or now
            for process in self.processes:
                process.kill()
        if self._killed_at is not None and now - self._killed_at > _KILL_S:
            for process in self.processes:
                process.close()
        return steps

    def end(self, status: Status, reason: str) -> None:
        """End it. The first reason counts."""
        if self.verdict is None and self.main.exit is None:
            self.verdict = status, reason
        if self._killed_at is None:
            self._killed_at = time.monotonic()
        for process in self.processes:
            process.kill()

    @property
    def done(self) -> bool:
        """Whether every process has ended, and all that they said was heard."""
        if self._ended_at is None or any(process.exit is None for process in self.processes):
            return False
        return self.main.silent or time.monotonic() - self._ended_at > _LAST_S

    @property
    def waits(self) -> bool:
        """Whether something may have to be done although no process has news."""
        return any(at is not None for at in (self._mute_since, self._killed_at, self._ended_at))

    def memory_mb(self) -> float:
        """Resident memory of all its processes."""
        used = sum(process.memory_mb() for process in self.processes)
        self.peak_mb = max(self.peak_mb, used)
        return used

    def _processor_s(self) -> float | None:
        used = [process.processor_s() for process in self.processes]
        return None if None in used else sum(filter(None, used))

    def outcomes(self) -> list[Outcome]:
        """One for each of its jobs, once it is done."""
        log = "\n".join(filter(None, map(_tail, self.logs)))
        ended = time.monotonic() if self._ended_at is None else self._ended_at
        seconds = max(0.0, ended - self.since) / len(self.jobs)
        code, peak_mb = None, self.peak_mb
        if self.main.exit is not None:
            code, peak_mb = self.main.exit.code, max(peak_mb, self.main.exit.peak_mb)
        wall = self.main.report
        reports = self._reports
        failure = self.verdict or self._failure(code)
        if failure is not None or reports is None or wall is None:
            status, reason = failure or ("crashed", "it was never confined")
            reason += _last_lines(log)
            facts = {} if wall is None else {"confinement": wall.text}
            return [Outcome(status, reason, seconds, peak_mb, facts, log) for _ in self.jobs]
        known = known_facts(self._device or "", wall.text, len(self.jobs))
        outcomes = []
        for report in reports:
            peak = (self.on_gpu and report.device_peak_mb) or peak_mb
            outcomes.append(report.outcome(seconds, peak, known, log))
        return outcomes

    def close(self) -> None:
        """End and forget what is left of it."""
        for process in self.processes:
            process.close()
        while self.logs:
            os.close(self.logs.pop())

    # -- what it says --------------------------------------------------------------------------

    def _hear(self) -> list[Progressed]:
        lines = self.main.hear()
        first = 1 if self._device is None else 0
        if len(lines) > first + MOST_LINES:
            lines = [*lines[:first], *lines[-MOST_LINES:]]
        steps: list[Progressed] = []
        if self.main.overlong:
            self._nonsense("a line is too long")
        for line in lines:
            if self.verdict is not None:
                break
            try:
                steps += self._take(line)
            except NonsenseError as error:
                self._nonsense(str(error))
        return steps

    def _take(self, line: bytes) -> list[Progressed]:
        report = parse(line, len(self.jobs))
        if self._reports is not None:
            raise NonsenseError("something after its outcome")
        if isinstance(report, HelloReport) != (self._device is None):
            raise NonsenseError("it has to greet, once and first")
        if isinstance(report, StepReport):
            self.watchdog.stepped()
            return [Progressed(self.jobs[report.place].key, report.step())]
        if isinstance(report, HelloReport):
            self._device = report.hello
        elif isinstance(report, OutcomesReport):
            for job, outcome in zip(self.jobs, report.outcomes, strict=True):
                if outcome.status == "ok":
                    check_facts(job.kind, job.task.get("inputs", ()), outcome.facts)
                if outcome.status == "not learned" and job.kind is not Kind.CHECK:
                    raise NonsenseError("only the check of a teacher can say that it did not learn")
            self._reports = report.outcomes
        return []

    def _nonsense(self, what: str) -> None:
        self.verdict = self.verdict or ("crashed", f"it reported nonsense ({what})")
        self.end(*self.verdict)

    def _check_mute(self, now: float) -> None:
        """End a process that goes on although it can say nothing any more."""
        if not self.main.silent and self._reports is None:
            return
        if self._mute_since is None:
            self._mute_since = now
        elif now - self._mute_since > self.grace_s:
            said = "reported its outcome" if self._reports is not None else "closed its channel"
            self.end("crashed", f"the process {said} and went on")

    def _failure(self, code: int | None) -> tuple[Status, str] | None:
        """Why a process that ended by itself has failed."""
        if self.main.exit is not None and self.main.exit.refusal:
            return "failed", self.main.exit.refusal
        if code is None:
            return "crashed", "its processes were ended from outside"
        if code != 0:
            where = "" if self.main.report is not None else " before it was confined"
            return "crashed", f"the process {_ending(code)}{where}"
        if self._reports is None:
            return "crashed", "the process ended without an outcome (os._exit?)"
        return None


def _tail(log: int) -> str:
    """The end of what a process printed."""
    try:
        size = os.fstat(log).st_size
        return os.pread(log, _LOG_BYTES, max(0, size - _LOG_BYTES)).decode(errors="replace")
    except OSError:
        return ""


def _last_lines(log: str) -> str:
    """The end of a log, for a reason: the only thing that a process left which said no reason."""
    lines = [strip_control(line).strip()[:_LOG_LINE] for line in log.splitlines() if line.strip()]
    return f"; its log ends: {' | '.join(lines[-_LOG_LINES:])}" if lines else ""


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    hint = " (by the kernel, if memory ran out)" if code == -signal.SIGKILL else ""
    return f"was killed by {signal_name(code)}{hint}"
