"""What a run tells whoever watches it. The command line draws it; ``--json`` prints it; tests
record it."""

from __future__ import annotations

from typing import Any, Protocol


class Reporter(Protocol):
    """Told what happens. Several stages may be running at once; ``number`` says which one is meant.

    run_started: ``stages`` of the plan, of which ``to_run`` are not in the store; ``note``: what a
    reader of the results must know of the dataset, e.g. that it is a subset; often empty. step: see
    kdbench.training.Progress; some of the steps only.
    """

    def run_started(
        self, stages: int, to_run: int, cells: int, out: str, note: str = ""
    ) -> None: ...

    def step(
        self,
        number: int,
        *,
        epoch: int,
        epochs: int,
        done: int,
        total: int,
        loss: float | None,
        images: int,
    ) -> None: ...

    def stage_started(self, number: int, title: str) -> None: ...

    def stage_finished(
        self, number: int, title: str, seconds: float, facts: dict[str, Any]
    ) -> None: ...

    def stage_failed(self, number: int, title: str, reason: str) -> None: ...

    def cell_finished(self, row: dict[str, Any]) -> None: ...

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None: ...


class Quiet:
    """A reporter that says nothing; base of the others."""

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        return

    def step(
        self,
        number: int,
        *,
        epoch: int,
        epochs: int,
        done: int,
        total: int,
        loss: float | None,
        images: int,
    ) -> None:
        return

    def stage_started(self, number: int, title: str) -> None:
        return

    def stage_finished(
        self, number: int, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        return

    def stage_failed(self, number: int, title: str, reason: str) -> None:
        return

    def cell_finished(self, row: dict[str, Any]) -> None:
        return

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        return
