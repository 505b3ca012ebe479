"""What a run would do and cost: for every stage whether it is in the store, will run, or is not
needed, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdbench.bench.plan.plan import Plan, Stage
from kdbench.bench.run.schedule import wanted
from kdbench.bench.run.timings import Cost, Timings
from kdbench.bench.store.artefacts import Store


@dataclass(frozen=True)
class Forecast:
    """state: ``cached``, ``run`` or ``not needed`` (only a measurement of it is, and that is
    cached). why: of a run. cost: None where nothing comparable was computed here."""

    stage: Stage
    state: str
    why: str = ""
    cost: Cost | None = None


def forecast(plan: Plan, store: Store) -> tuple[list[Forecast], int]:
    """(every stage of a plan, how many cells have their row already)."""
    schedule, rows = wanted(plan, store.find)
    timings = Timings(store.vault)
    to_run = set(schedule.to_run())
    forecasts = []
    for key, stage in plan.stages.items():
        if key in to_run:
            forecasts.append(
                Forecast(stage, "run", _why(stage, store, timings, to_run), timings.cost(stage))
            )
        elif key in schedule.kept or store.find(key) is not None:
            forecasts.append(Forecast(stage, "cached"))
        else:
            forecasts.append(Forecast(stage, "not needed"))
    return forecasts, len(rows)


def _why(stage: Stage, store: Store, timings: Timings, to_run: set[str]) -> str:
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
