"""What a run reports while it goes on. The command line draws it, and ``--json`` prints it."""

from __future__ import annotations

from typing import Any, Protocol

from kdbench._progress import Step
from kdbench.bench.kinds import Kind


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

    def step(self, number: int, step: Step) -> None:
        """A step of a training. Only some steps are reported."""
        ...

    def stage_started(self, number: int, kind: Kind, title: str) -> None: ...

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

    def step(self, number: int, step: Step) -> None:
        return

    def stage_started(self, number: int, kind: Kind, title: str) -> None:
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
