"""The tables of a page on agreement: what shorter trainings say, beside longer ones.

A page asks for one by a comment::

    <!-- table: agreement=summary quick=results/A,results/B standard=results/C -->
    <!-- end -->

``agreement`` names an entry of :data:`TABLES`. Every other word is a set of runs: its name, and
folders or files relative to ``benchmarks/``. The set with the shortest trainings comes first.
:mod:`kdbench.report.agreement` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pipe_tables import pipe_table

from kdbench.report.agreement import (
    MIN_DEFENSES,
    TASK,
    UNDEFENDED,
    VERDICTS,
    Agreement,
    Cell,
    RowSet,
    Share,
    Summary,
    agreements,
    removed_by_both,
    row_set,
    share_of,
    summaries,
)
from kdbench.report.columns import Row
from kdbench.report.read import read_results
from kdbench.report.settings import changes

BENCHMARKS = Path(__file__).resolve().parent
#: How the comment of such a table begins.
ASKS = "agreement="
_SIDES = ("shorter", "longer")
_TASK = ("dataset", "attack", "pair", "distiller")


def agreement_table(marker: str) -> str:
    """The table that a comment asks for.

    Raises:
        ValueError: it asks for something that is not there.
        ConfigError: a run cannot be read, or the runs of a set cannot be merged.
    """
    first, *named = marker.split()
    kind = first.removeprefix(ASKS)
    if kind not in TABLES:
        raise ValueError(f"no table {kind} of an agreement; there are: {', '.join(TABLES)}")
    sets = [read_set(word) for word in named]
    if len(sets) < 2:
        raise ValueError("an agreement needs two sets of runs, the shorter first: NAME=RUN,RUN")
    return TABLES[kind](sets)


def read_set(words: str) -> RowSet:
    """The set of ``NAME=RUN,RUN``."""
    name, _, runs = words.partition("=")
    if not name or not runs:
        raise ValueError(f"{words} is no set of runs; write NAME=RUN,RUN")
    return row_set(name, [read_results(BENCHMARKS / run) for run in runs.split(",")])


def _summary(sets: Sequence[RowSet]) -> str:
    headings = [*_SIDES, "a reader of the shorter may conclude", "it misleads about"]
    return pipe_table(
        [*headings, "same verdicts", "Kendall's tau, mean", "lowest", "tasks"],
        (
            [
                *_pair(both),
                both.conclusion(),
                ", ".join(both.misleads()) or "-",
                _of(both.share),
                _mean(both.taus),
                _number(min(both.taus, default=None), 2),
                str(len(both.taus)),
            ]
            for both in agreements(sets)
        ),
        headings,
    )


def _verdicts(sets: Sequence[RowSet]) -> str:
    headings = [*_SIDES, "verdict of the shorter"]
    return pipe_table(
        [*headings, *(f"longer: {word}" for word in VERDICTS)],
        (
            [*_pair(both), word, *(str(counts[word, other]) for other in VERDICTS)]
            for both in agreements(sets)
            for counts in [both.confusion()]
            for word in VERDICTS
            if any(counts[word, other] for other in VERDICTS)
        ),
        headings,
    )


def _defenses(sets: Sequence[RowSet]) -> str:
    headings = [*_SIDES, "defense"]
    return pipe_table(
        [*headings, "same verdicts", "removed by the shorter, %", "by the longer, %", "by cell"],
        (
            [*_pair(both), name, _of(share_of(cells)), *_both_removed(cells)]
            for both in agreements(sets)
            for name, cells in both.by_defense().items()
        ),
        headings,
    )


def _both_removed(cells: Iterable[Cell]) -> Iterator[str]:
    """The means over the cells that have both numbers, and the differences."""
    both = removed_by_both(cells)
    yield _mean([short for short, _ in both], 0)
    yield _mean([long for _, long in both], 0)
    yield ", ".join(f"{long - short:+.0f}" for short, long in both) or "-"


def _orders(sets: Sequence[RowSet]) -> str:
    headings = [*_SIDES, *_TASK, "lowest ASR first: shorter", "longer"]
    return pipe_table(
        [*headings, "seeds", "Kendall's tau", "p"],
        (
            [
                *_pair(both),
                *_task(order.task),
                ", ".join(order.short) or "-",
                ", ".join(order.long) or "-",
                f"{order.short_seeds}, {order.long_seeds}",
                _number(order.tau, 2),
                _number(order.p, 3),
            ]
            for both in agreements(sets)
            for order in both.orders
            if order.defenses >= MIN_DEFENSES
        ),
        headings,
    )


def _cells(sets: Sequence[RowSet]) -> str:
    by_set = [summaries(each) for each in sets]
    headings = [*_TASK, "defense", *(f"{each.name}: verdict" for each in sets)]
    numbers = [f"{each.name}: {what}" for what in ("ASR, %", "removed, %") for each in sets]
    return pipe_table(
        [*headings, *numbers],
        (
            [*_task(task), defense, *_of_sets(defense, values)]
            for (task, defense), values in _beside(by_set)
            if sum(value is not None for value in values) > 1
        ),
        headings,
    )


def _of_sets(defense: str, cells: Sequence[Summary | None]) -> Iterator[str]:
    for cell in cells:
        yield f"{cell.verdict} {cell.votes}/{cell.judged}" if cell and cell.judged else "-"
    for cell in cells:
        yield _number(cell.asr if cell else None, 1)
    for cell in cells:
        yield _number(cell.removed if cell and defense != UNDEFENDED else None, 0)


def _seeds(sets: Sequence[RowSet]) -> str:
    by_set = [summaries(each) for each in sets]
    headings = [*_TASK, "defense", *(f"{each.name}: student ASR by seed, %" for each in sets)]
    return pipe_table(
        headings,
        (
            [*_task(task), defense, *(_by_seed(value) if value else "-" for value in values)]
            for (task, defense), values in _beside(by_set)
        ),
        headings,
    )


def _by_seed(cell: Summary) -> str:
    return ", ".join(f"{seed}: {asr:.1f}" for seed, asr in sorted(cell.asr_by_seed.items()))


_Key = tuple[tuple[str, ...], str]


def _beside(
    by_set: Sequence[Mapping[_Key, Summary]],
) -> Iterator[tuple[_Key, list[Summary | None]]]:
    """Every cell of any set, with what each set says of it."""
    for key in sorted({key for of_set in by_set for key in of_set}):
        yield key, [of_set.get(key) for of_set in by_set]


def _sets(sets: Sequence[RowSet]) -> str:
    headings = ["set", "preset", "datasets", "device", "other numbers than the names promise"]
    return pipe_table(
        [*headings, "seeds", "rows"], (list(_described(each)) for each in sets), headings
    )


def _described(each: RowSet) -> Iterator[str]:
    yield each.name
    for name in ("preset", "dataset", "device"):
        yield _listed(each.rows, name)
    yield ", ".join(dict.fromkeys(_changes(each.rows))) or "-"
    yield _listed(each.rows, "seed")
    yield str(len(each.rows))


def _changes(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if row["setting_digest"] is None:
            yield "not recorded"
        yield from (f"`{entry}`" for entry in changes(row))


def _listed(rows: Iterable[Row], name: str) -> str:
    return ", ".join(map(str, sorted({row[name] for row in rows if row[name] is not None})))


def _pair(both: Agreement) -> list[str]:
    return [both.short, both.long]


def _task(task: Sequence[str]) -> list[str]:
    names = dict(zip(TASK, task, strict=True))
    names["pair"] = f"{names['teacher']}-{names['student']}"
    return [names[name] for name in _TASK]


def _of(share: Share) -> str:
    undecided = f" ({share.undecided} undecided)" if share.undecided else ""
    return f"{share.same} of {share.compared}{undecided}"


def _mean(values: Sequence[float], digits: int = 2) -> str:
    return _number(fmean(values) if values else None, digits)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:z.{digits}f}"


TABLES: dict[str, Callable[[Sequence[RowSet]], str]] = {
    "sets": _sets,
    "summary": _summary,
    "verdicts": _verdicts,
    "defenses": _defenses,
    "orders": _orders,
    "cells": _cells,
    "seeds": _seeds,
}
