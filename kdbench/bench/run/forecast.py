"""What a run would do and cost: for every stage whether it is in the store, will run, or is not
needed, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdbench.bench.plan.plan import Plan, Stage
from kdbench.bench.run.calibration import Calibration
from kdbench.bench.run.schedule import wanted
from kdbench.bench.run.timings import Cost, Timings
from kdbench.bench.store.artefacts import Store

#: Tries how fast this machine is, for stages of which nothing is known. None: it cannot be tried.
Calibrate = Callable[[Sequence[Stage]], Calibration | None]


@dataclass(frozen=True)
class Forecast:
    """state: ``cached``, ``run`` or ``not needed`` (only a measurement of it is, and that is
    cached). why: of a run. cost: None where nothing comparable was computed or tried here."""

    stage: Stage
    state: str
    why: str = ""
    cost: Cost | None = None


def forecast(
    plan: Plan, store: Store, calibrate: Calibrate | None = None, explain: bool = True
) -> tuple[list[Forecast], int]:
    """(every stage of a plan, how many cells have their row already).

    Args:
        calibrate: is called where stages have no cost.
        explain: say why a stage has to run. That reads a manifest for each stage that was ever
            computed under the same title, which takes seconds for ten thousand cells.
    """
    schedule, rows = wanted(plan, store.find)
    timings = Timings(store.vault)
    to_run = set(schedule.to_run())
    forecasts = []
    for key, stage in plan.stages.items():
        if key in to_run:
            why = _why(stage, store, timings) if explain else ""
            forecasts.append(Forecast(stage, "run", why, timings.cost(stage)))
        elif key in schedule.kept or store.find(key) is not None:
            forecasts.append(Forecast(stage, "cached"))
        else:
            forecasts.append(Forecast(stage, "not needed"))
    if calibrate is not None:
        forecasts = _calibrated(forecasts, calibrate)
    return forecasts, len(rows)


def _calibrated(forecasts: list[Forecast], calibrate: Calibrate) -> list[Forecast]:
    """The forecasts, with costs by a trial where nothing was computed here."""
    unknown = [f.stage for f in forecasts if f.state == "run" and f.cost is None]
    calibration = calibrate(unknown) if unknown else None
    if calibration is None:
        return forecasts

    def cost(f: Forecast) -> Cost | None:
        if f.state != "run" or f.cost is not None:
            return f.cost
        seconds = calibration.seconds(f.stage)
        if seconds is None:
            return None
        return Cost(seconds, calibration.bytes(f.stage), exact=False, tried=True)

    return [replace(f, cost=cost(f)) for f in forecasts]


def _why(stage: Stage, store: Store, timings: Timings) -> str:
    other = timings.namesake(stage)
    known = None if other is None else store.find(other)
    if known is None:
        return "new" if other is None else "no longer in the store"
    changes = list(_differences("", known.ingredients, _plain(stage.ingredients())))
    own = [change for change in changes if not change.startswith("inputs.")]
    more = f"; {len(own) - 3} more" if len(own) > 3 else ""
    return f"changed: {'; '.join(own[:3] or ['what it rests on'])}{more}"


def _plain(value: Any) -> Any:
    """As it would come back from JSON."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(
                f"{path}.{name}" if path else name, old.get(name), new.get(name)
            )
    elif old != new:
        long = any(len(str(value)) > 24 for value in (old, new))
        yield path.removeprefix("values.").removeprefix("context.") + (
            "" if long else f" {old} -> {new}"
        )
