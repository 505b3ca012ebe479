"""What a request comes to: its stages with their states and costs, and the sum of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench._counted import counted
from kdbench.bench.run.forecast import Calibrate, Forecast, forecast
from kdbench.bench.session.execution import divide
from kdbench.bench.session.tell import Tell

if TYPE_CHECKING:
    import pandas as pd

    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.store.artefacts import Store


@dataclass(frozen=True, repr=False)
class Planned:
    """A prepared request, and what is known of its cost here."""

    prepared: Prepared
    forecasts: list[Forecast]
    #: Counts, and seconds and bytes of the stages whose like was computed here.
    summary: dict[str, Any]

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        store: Store,
        jobs: int,
        tell: Tell,
        calibrate: Calibrate | None = None,
        explain: bool = True,
    ) -> Planned:
        """Look into the store, and at what was computed here before.

        Args:
            jobs: workers to estimate the time for.
            calibrate: tries how fast this machine is, where nothing comparable was computed.
            explain: say of each stage why it has to run.
        """
        forecasts, rows = forecast(prepared.plan, store, calibrate, explain)
        slots = divide(jobs, prepared.numerics, tell)
        states = Counter(f.state for f in forecasts)
        run = [f for f in forecasts if f.state == "run"]
        known = [f.cost for f in run if f.cost is not None]
        summary = {
            "cells": len(prepared.plan.cells),
            "rows_cached": rows,
            "stages": len(forecasts),
            "cached": states["cached"],
            "to_run": states["run"],
            "not_needed": states["not needed"],
            "seconds": sum(cost.seconds for cost in known) / slots.pace,
            "bytes": sum(cost.bytes for cost in known),
            "jobs": slots.jobs,
            "without_estimate": len(run) - len(known),
            "tried": sum(cost.tried for cost in known),
        }
        return cls(prepared, forecasts, summary)

    @property
    def hours(self) -> float | None:
        """What the stages will take on this machine. None: nothing like one of them was computed
        here yet. ``summary["without_estimate"]`` counts the stages that it leaves out."""
        unknown = self.summary["to_run"] == self.summary["without_estimate"]
        return None if unknown and self.summary["to_run"] else self.summary["seconds"] / 3600

    def toml(self) -> str:
        """The request as a spec file, as ``kdbench plan --toml`` prints it."""
        from kdbench.bench.request.specfile import write_spec

        return write_spec(self.prepared.spec)

    @property
    def table(self) -> pd.DataFrame:
        """The stages, one a row: their state (cached, run, not needed), why, seconds, bytes."""
        import pandas as pd

        return pd.DataFrame(self.stages)

    def __repr__(self) -> str:
        s = self.summary
        return (
            f"<Planned: {counted(s['cells'], 'cell')}, {counted(s['stages'], 'stage')}: "
            f"{s['cached']} in the store, {s['to_run']} to run>"
        )

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The stages, as JSON can hold them."""
        return [
            {
                "number": f.stage.number,
                "kind": f.stage.kind,
                "title": f.stage.title,
                "seed": f.stage.seed,
                "key": f.stage.key,
                "state": f.state,
                "why": f.why,
                "seconds": None if f.cost is None else f.cost.seconds,
                "bytes": None if f.cost is None else f.cost.bytes,
            }
            for f in self.forecasts
        ]

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The names of every cell."""
        return [cell.names for cell in self.prepared.plan.cells]
