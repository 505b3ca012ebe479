"""A job whose process is played by a list of lines."""

from __future__ import annotations

from kdbench.bench.work.executors.running import RunningJob
from kdbench.bench.work.job import Done, Job, Progressed
from kdbench.untrusted.processes.order import Exit, WallReport

HELLO = b'{"hello": "cpu"}'


class Played:
    """Says lines, and has ended."""

    silent, overlong, reported_at = True, False, 0.0

    def __init__(self, lines: list[bytes], code: int | None = 0) -> None:
        self.lines, self.exit, self.report = lines, Exit(code, 1.0), WallReport("a wall")
        self.killed = False

    def look(self) -> None:
        return

    def hear(self) -> list[bytes]:
        lines, self.lines = self.lines, []
        return lines

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        self.killed, self.exit = True, self.exit or Exit(None)


def events_of(job: Job, lines: list[bytes], code: int | None = 0) -> list[Progressed | Done]:
    """What the coordinator makes of a process that said these lines."""
    running = RunningJob(job, 0, [Played(lines, code)])
    events: list[Progressed | Done] = [*running.look()]
    assert running.done
    outcomes = running.outcomes()
    running.close()
    return events + [Done(j.key, o) for j, o in zip(running.jobs, outcomes, strict=True)]
