"""What a run reports while it goes on. The command line draws it, and ``--json`` prints it."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from kdbench._progress import Step
from kdbench.bench.kinds import Kind

if TYPE_CHECKING:
    from kdbench.data.description import Description


class Reporter(Protocol):
    """Is called when something happens. Several stages may run at once: ``number`` tells them
    apart."""

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        """The run begins.

        Args:
            stages: how many the plan has.
            to_run: how many of them are not in the store.
            cells: how many rows there will be.
            out: folder of the results.
            note: what readers must know of the dataset, for example that it is a subset.
        """
        ...

    def dataset(self, description: Description) -> None:
        """What the run is trained on, right after its begin. It is called for each dataset."""
        ...

    def step(self, number: int, step: Step) -> None:
        """A step of a training. Only some steps are reported."""
        ...

    def stage_started(self, number: int, kind: Kind, title: str) -> None: ...

    def stage_waits(self, number: int, kind: Kind, title: str, why: str) -> None:
        """A stage could run, and does not. It is called once for each reason."""
        ...

    def stage_taken(self, number: int, kind: Kind, title: str) -> None:
        """A stage that waited needs not run: another run has computed it."""
        ...

    def stage_finished(
        self, number: int, kind: Kind, title: str, seconds: float, facts: dict[str, Any]
    ) -> None: ...

    def stage_failed(self, number: int, kind: Kind, title: str, reason: str) -> None: ...

    def cell_finished(self, row: dict[str, Any]) -> None: ...

    def not_written(self, complaint: str) -> None:
        """What of the results could not be written, before the run ends. Empty: nothing."""
        ...

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None: ...


class Quiet:
    """A reporter that says nothing. The others derive from it."""

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        return

    def dataset(self, description: Description) -> None:
        return

    def step(self, number: int, step: Step) -> None:
        return

    def stage_started(self, number: int, kind: Kind, title: str) -> None:
        return

    def stage_waits(self, number: int, kind: Kind, title: str, why: str) -> None:
        return

    def stage_taken(self, number: int, kind: Kind, title: str) -> None:
        return

    def stage_finished(
        self, number: int, kind: Kind, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        return

    def stage_failed(self, number: int, kind: Kind, title: str, reason: str) -> None:
        return

    def cell_finished(self, row: dict[str, Any]) -> None:
        return

    def not_written(self, complaint: str) -> None:
        return

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        return


#: Often enough to see that a stage goes on, and rare enough for a log.
PROGRESS_EVERY_S = 15.0


class Paced(Quiet):
    """Lets a step through about every 15 seconds of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[int, float] = {}

    def stage_started(self, number: int, kind: Kind, title: str) -> None:
        super().stage_started(number, kind, title)
        self._next[number] = time.monotonic() + PROGRESS_EVERY_S

    def due(self, number: int) -> bool:
        """Whether a step of a stage is let through now."""
        now = time.monotonic()
        if now < self._next.get(number, math.inf):
            return False
        self._next[number] = now + PROGRESS_EVERY_S
        return True


class AsEvents(Paced):
    """Everything that happens as a name and values that JSON can hold. In a stage there is a step
    about every 15 seconds."""

    @abstractmethod
    def event(self, event: str, **values: Any) -> None:
        """Something has happened."""

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        super().run_started(stages, to_run, cells, out, note)
        self.event("run_started", stages=stages, to_run=to_run, cells=cells, out=out, note=note)

    def dataset(self, description: Description) -> None:
        self.event("dataset", **description.as_dict())

    def step(self, number: int, step: Step) -> None:
        if self.due(number):
            self.event("step", number=number, **asdict(step))

    def stage_started(self, number: int, kind: Kind, title: str) -> None:
        super().stage_started(number, kind, title)
        self.event("stage_started", number=number, kind=kind, title=title)

    def stage_waits(self, number: int, kind: Kind, title: str, why: str) -> None:
        self.event("stage_waits", number=number, kind=kind, title=title, why=why)

    def stage_taken(self, number: int, kind: Kind, title: str) -> None:
        self.event("stage_taken", number=number, kind=kind, title=title)

    def stage_finished(
        self, number: int, kind: Kind, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        values = {"number": number, "kind": kind, "title": title, "facts": facts}
        self.event("stage_finished", **values, seconds=round(seconds, 3))

    def stage_failed(self, number: int, kind: Kind, title: str, reason: str) -> None:
        self.event("stage_failed", number=number, kind=kind, title=title, reason=reason)

    def cell_finished(self, row: dict[str, Any]) -> None:
        self.event("cell_finished", row=row)

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        ok = sum(row.get("status") == "ok" for row in rows)
        self.event("run_finished", cells=len(rows), ok=ok, out=out)


class Complaint(Quiet):
    """Remembers what of the results could not be written."""

    def __init__(self) -> None:
        #: Empty: nothing is lost.
        self.text = ""

    def not_written(self, complaint: str) -> None:
        self.text = complaint


class Several:
    """Calls several reporters, one after the other.

    Args:
        reporters: those that are called.
    """

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self.reporters = reporters

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        for reporter in self.reporters:
            reporter.run_started(stages, to_run, cells, out, note)

    def dataset(self, description: Description) -> None:
        for reporter in self.reporters:
            reporter.dataset(description)

    def step(self, number: int, step: Step) -> None:
        for reporter in self.reporters:
            reporter.step(number, step)

    def stage_started(self, number: int, kind: Kind, title: str) -> None:
        for reporter in self.reporters:
            reporter.stage_started(number, kind, title)

    def stage_waits(self, number: int, kind: Kind, title: str, why: str) -> None:
        for reporter in self.reporters:
            reporter.stage_waits(number, kind, title, why)

    def stage_taken(self, number: int, kind: Kind, title: str) -> None:
        for reporter in self.reporters:
            reporter.stage_taken(number, kind, title)

    def stage_finished(
        self, number: int, kind: Kind, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        for reporter in self.reporters:
            reporter.stage_finished(number, kind, title, seconds, facts)

    def stage_failed(self, number: int, kind: Kind, title: str, reason: str) -> None:
        for reporter in self.reporters:
            reporter.stage_failed(number, kind, title, reason)

    def cell_finished(self, row: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.cell_finished(row)

    def not_written(self, complaint: str) -> None:
        for reporter in self.reporters:
            reporter.not_written(complaint)

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        for reporter in self.reporters:
            reporter.run_finished(rows, out)
