"""The tables of docs/costs.md: what each method costs, as multiples of plain training.

A page asks for one by a comment::

    <!-- table: costs=attack -->
    <!-- end -->

``costs`` names a kind of method. The numbers are those of ``speed/costs.csv``, which ``python
benchmarks/costs.py`` measures.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pipe_tables import pipe_table

FILE = Path(__file__).resolve().parent / "speed" / "costs.csv"
#: How the comment of such a table begins.
ASKS = "costs="
#: What is no method: the training that all others are compared with, as a stage of its own.
PLAIN = "plain training"
#: What a defense is compared with.
UNDEFENDED = "none"
#: The stages that a defense may have a part in, in their order.
DEFENDED = ("cleanse", "distill", "repair")


@dataclass(frozen=True)
class Cost:
    """What a stage costs. The unit is plain training on the stage's images, see costs.py.

    ``whole`` is ``shown`` times ``per_image``, and ``outside``.
    """

    kind: str
    """attack, distiller or defense."""
    method: str
    stage: str
    """Kind of the stage."""
    whole: float
    """Of the whole stage. Of several rounds it is the middle one, and so are the next three."""
    per_image: float
    """An image in a training loop, against one in plain training. 0: no loop has two steps."""
    shown: float
    """Images in training loops, each as often as it is seen, against those of the recipe."""
    outside: float
    """What no loop did: crafting, files. It may be a little under 0, since it is what is left."""
    low: float
    """``whole`` of the cheapest round."""
    high: float
    """``whole`` of the dearest round."""
    rounds: int
    date: str


def read_costs(path: Path = FILE) -> list[Cost]:
    """Every cost that was measured. None: the file is not there yet."""
    if not path.exists():
        return []
    types = {"kind": str, "method": str, "stage": str, "rounds": int, "date": str}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Cost(**{name: types.get(name, float)(text) for name, text in row.items()})
            for row in csv.DictReader(file)
        ]


def write_costs(costs: Sequence[Cost], path: Path = FILE) -> None:
    """Write costs, those of one method together."""
    names = [field.name for field in fields(Cost)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for cost in sorted(costs, key=_place):
            values = (getattr(cost, name) for name in names)
            writer.writerow(f"{v:.4g}" if isinstance(v, float) else v for v in values)


def _place(cost: Cost) -> tuple[object, ...]:
    first = cost.method not in (PLAIN, UNDEFENDED)
    return (
        cost.kind,
        first,
        cost.method,
        (*DEFENDED, "").index(cost.stage) if cost.kind == "defense" else 0,
    )


def replaced(costs: Sequence[Cost], new: Sequence[Cost]) -> list[Cost]:
    """The costs, with those of a method that was measured again as they are now."""
    again = {(cost.kind, cost.method) for cost in new}
    return [*(cost for cost in costs if (cost.kind, cost.method) not in again), *new]


def costs_table(marker: str, costs: Sequence[Cost] | None = None) -> str:
    """The table that a comment asks for.

    Args:
        costs: None: those of the file.

    Raises:
        ValueError: it asks for something that is not there.
    """
    kind = marker.strip().removeprefix(ASKS)
    own = [cost for cost in (read_costs() if costs is None else costs) if cost.kind == kind]
    if not own:
        raise ValueError(f"no costs of {kind!r} were measured")
    if kind == "defense":
        headings = (kind, *DEFENDED, "all together")
        return pipe_table(headings, _defenses(own), (kind,))
    relative = {"distiller": ("against KD",)}.get(kind, ())
    headings = (kind, "whole stage", *relative, "an image", "images", "outside")
    return pipe_table(headings, _methods(own, bool(relative)), (kind,))


def _methods(costs: Sequence[Cost], relative: bool) -> Iterator[list[str]]:
    kd = next((cost.whole for cost in costs if cost.method == "kd"), None)
    for cost in costs:
        spread = f" ({_times(cost.low)} to {_times(cost.high)})" if cost.rounds > 1 else ""
        against = [] if not relative else ["-" if kd is None else _times(cost.whole / kd)]
        numbers = [cost.per_image, cost.shown, cost.outside]
        yield [cost.method, _times(cost.whole) + spread, *against, *map(_times, numbers)]


def _defenses(costs: Sequence[Cost]) -> Iterator[list[str]]:
    """Each stage, and all that it takes to hand on a student, against an undefended distillation.

    A defense without a distillation of its own has the undefended one.
    """
    by_method: dict[str, dict[str, float]] = {}
    for cost in costs:
        by_method.setdefault(cost.method, {})[cost.stage] = cost.whole
    one = by_method[UNDEFENDED]["distill"]
    for method, own in by_method.items():
        stages = {"distill": one, **own}
        shown = [_times(stages[s] / one) if s in stages else "-" for s in DEFENDED]
        yield [method, *shown, _times(sum(stages.values()) / one)]


def _times(value: float) -> str:
    """With two digits behind the point, or with one from ten on."""
    return f"{value:z.2f}" if abs(value) < 9.995 else f"{value:.1f}"
