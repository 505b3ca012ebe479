"""Jobs in this process, one at a time: for tests and for a debugger. The two sides are not kept
apart here."""

from __future__ import annotations

from typing import Any

from kdbench.bench.work.executors.child import attempt, make_task
from kdbench.bench.work.job import Done, Job, Step
from kdbench.loading.registry import Registry


class InlineExecutor:
    """Computes a job when it is started."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._events: list[Step | Done] = []

    def free(self) -> int:
        return 0 if any(isinstance(event, Done) for event in self._events) else 1

    def start(self, job: Job) -> None:
        events = self._events

        class Recorder:
            def __init__(self, key: str) -> None:
                self.key = key

            def step(self, **values: Any) -> None:
                events.append(Step(self.key, values))

        jobs = (job, *job.beside)
        outcomes = attempt(
            [make_task(one.task) for one in jobs],
            lambda: self.registry,
            [Recorder(one.key) for one in jobs],
        )
        events.extend(Done(one.key, outcome) for one, outcome in zip(jobs, outcomes, strict=True))

    def wait(self, timeout: float) -> list[Step | Done]:
        found, self._events = self._events, []
        return found

    def close(self) -> None:
        self._events = []
