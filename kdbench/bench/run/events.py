"""What a run tells whoever watches it. The command line draws it; ``--json`` prints it; tests
record it."""

from __future__ import annotations

from typing import Any, Protocol

from kdbench._progress import Step
from kdbench.bench.kinds import Kind


class Reporter(Protocol):
    """Hears what happens. Several stages may be running at once; ``number`` says which one is
    meant."""

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        """``stages``: of the plan. ``to_run``: those that are not in the store. ``note``: what a
        reader of the results must know of the dataset, e.g. that it is a subset."""
        ...

    def step(self, number: int, step: Step) -> None:
        """A step of a training; some of them only."""
        ...

    def stage_started(self, number: int, kind: Kind, title: str) -> None: ...

    def stage_finished(
        self, number: int, kind: Kind, title: str, seconds: float, facts: dict[str, Any]
    ) -> None: ...

    def stage_failed(self, number: int, kind: Kind, title: str, reason: str) -> None: ...

    def cell_finished(self, row: dict[str, Any]) -> None: ...

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None: ...


class Quiet:
    """A reporter that says nothing; base of the others."""

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

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        return
