"""What changed between two results.csv, and whether it is more than noise.

Single cells: the noise is that of the test images, see :mod:`kdbench.report.noise`. It follows
from the counts, for transferred and removed from their bootstrap intervals. It says nothing about
another training seed.

Over seeds: settings that have at least two seeds in both files. The interval is a paired t interval
of the differences seed by seed. Equal seeds mean equal first weights and batches.

Many differences are tested, and one in twenty would look like more than noise by chance alone.
Holm's correction keeps the probability of any false alarm at 5 %. Single cells and means over seeds
are corrected apart. The intervals are 95 % each and not corrected. ``p_holm`` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, RATES, Row, conclusive_removed
from kdbench.report.compared import Change, Comparison, Family
from kdbench.report.leaderboard import verdict_shares
from kdbench.report.merge import check_datasets, located
from kdbench.report.noise import LEVEL, Difference, difference, holm
from kdbench.report.paired import estimate, paired_difference
from kdbench.report.read import CELL, ResultsFile, cell_key
from kdbench.report.settings import DIGESTS, check_numbers

MEASURED = ("teacher_asr", "teacher_acc", "student_acc", "student_asr", "transferred", "removed")
_FIRST = ("setting_digest", "changed", "config_digest")
#: What may explain a change: all by which a row was made, and with which numbers. The digests of
#: the parts of the numbers say no more than ``setting_digest``.
CAUSES = (
    *_FIRST,
    *(
        name
        for name, column in COLUMNS.items()
        if column.role in ("origin", "number", "images") and name not in (*_FIRST, *DIGESTS)
    ),
    "confinement",
    "teacher_sha256",
)
#: What else is measured. It is not tested, and no change in it goes unsaid.
OTHERS = tuple(
    name
    for name, column in COLUMNS.items()
    if column.role == "result"
    and name not in (*MEASURED, *CAUSES, "status", "verdict")
    # The count and the interval of a rate change with it.
    and not any(name == f"{rate}{end}" for rate in RATES for end in ("_low", "_high", "_hits"))
)

#: Values that a message names.
_NAMED = 5
#: The rows of one cell in both files.
Pair = tuple[Row, Row]


def compare(a: ResultsFile, b: ResultsFile, split: bool = False) -> Comparison:
    """Compare the cells that two files share.

    A file of an older schema did not record its numbers. Without ``split`` it is compared all the
    same, and ``setting_digest`` is among the causes.

    Args:
        split: take a cell that was made with other numbers in the other file for another cell,
            instead of refusing it.

    Raises:
        ConfigError: a dataset has other images in the two files, or a setting other numbers.
    """
    check_datasets([a, b], split)
    if not split:
        check_numbers(where for where in located([a, b]) if where[0]["setting_digest"])
    in_a, in_b = ({_key(row, split): row for row in file.rows} for file in (a, b))
    pairs = [(row, in_b[key]) for key, row in in_a.items() if key in in_b]
    by_setting: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in pairs:
        names, numbers = cell_key(pair[0])[:-1], pair[0]["setting_digest"] if split else None
        by_setting.setdefault((*names, numbers), []).append(pair)
    return Comparison(
        a=str(a.path),
        b=str(b.path),
        shared=len(pairs),
        only_in_a=[_cell(row) for key, row in in_a.items() if key not in in_b],
        only_in_b=[_cell(row) for key, row in in_b.items() if key not in in_a],
        cells=_family([change for pair in pairs for change in _cell_changes(*pair)]),
        over_seeds=_family(
            [change for seeds in by_setting.values() for change in _mean_changes(seeds)]
        ),
        causes=_causes(pairs),
        others=_others(pairs),
    )


def check_shared(comparison: Comparison, a: ResultsFile, b: ResultsFile) -> None:
    """Raise ConfigError where two files share no cell, whatever numbers it was made with."""
    if not comparison.shared and (why := nothing_shared(a, b)):
        raise ConfigError(
            f"nothing to compare: {a.path} and {b.path} share no cell: {why}; name two runs of the "
            "same cells"
        )


def nothing_shared(a: ResultsFile, b: ResultsFile) -> str:
    """Why two files share no cell, whatever numbers it was made with. Empty: they share one."""
    if {cell_key(row) for row in a.rows} & {cell_key(row) for row in b.rows}:
        return ""
    for name in CELL:
        in_a, in_b = (list(dict.fromkeys(str(row[name]) for row in file.rows)) for file in (a, b))
        if not set(in_a) & set(in_b):
            return f"{name} is {_some(in_a)} in A, and {_some(in_b)} in B"
    return "no name of theirs alone tells them apart"


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:_NAMED]) + (", ..." if len(values) > _NAMED else "")


def _key(row: Row, split: bool) -> tuple[Any, ...]:
    return (*cell_key(row), row["setting_digest"] if split else None)


def _cell(row: Row, *without: str) -> Row:
    """The names of a cell, and the numbers that they do not promise."""
    names = {name: row[name] for name in CELL if name not in without}
    return names | ({"changed": row["changed"]} if row["changed"] else {})


def _family(changes: list[Change]) -> Family:
    """Correct all that were tested together, and keep what changed."""
    tested = [change for change in changes if change.p is not None]
    corrected = holm([change.p for change in tested if change.p is not None])
    p_holm = {id(change): p for change, p in zip(tested, corrected, strict=True)}
    judged = [
        replace(change, p_holm=p_holm[id(change)], more_than_noise=p_holm[id(change)] <= LEVEL)
        if id(change) in p_holm
        else change
        for change in changes
    ]
    return Family(len(tested), [change for change in judged if change.a != change.b])


def _cell_changes(a: Row, b: Row) -> list[Change]:
    """All columns of one cell, unchanged ones too."""
    cell = _cell(a)
    changes = [Change(cell, name, a[name], b[name]) for name in ("status", "verdict")]
    for name in MEASURED:
        value_a, value_b = _value(a, name), _value(b, name)
        if value_a is None or value_b is None:
            changes.append(Change(cell, name, value_a, value_b))
        else:
            between = difference(estimate(a, name), estimate(b, name))
            changes.append(_tested(cell, name, value_a, value_b, between))
    return changes


def _mean_changes(pairs: Sequence[Pair]) -> list[Change]:
    """All columns of one setting that at least two seeds have in both files."""
    changes = []
    names = _cell(pairs[0][0], "seed")
    good = [pair for pair in pairs if all(row["status"] == "ok" for row in pair)]
    if len(good) > 1:
        verdict_a, verdict_b = (
            verdict_shares([pair[side] for pair in good], itemgetter("verdict")) or None
            for side in (0, 1)
        )
        changes.append(Change(_over_seeds(names, good), "verdict", verdict_a, verdict_b))
    for name in MEASURED:
        both = [
            (a, b) for a, b in good if _value(a, name) is not None and _value(b, name) is not None
        ]
        if len(both) > 1:
            mean_a, mean_b = (
                sum(_value(pair[side], name) for pair in both) / len(both) for side in (0, 1)
            )
            between = paired_difference(both, name)
            changes.append(_tested(_over_seeds(names, both), name, mean_a, mean_b, between))
    return changes


def _over_seeds(names: Row, pairs: Sequence[Pair]) -> Row:
    return names | {"seeds": [a["seed"] for a, _ in pairs]}


def _tested(cell: Row, name: str, a: float, b: float, between: Difference) -> Change:
    return Change(cell, name, a, b, between.value, between.low, between.high, between.p)


def _value(row: Row, name: str) -> Any:
    return conclusive_removed(row) if name == "removed" else row[name]


def _causes(pairs: Sequence[Pair]) -> list[Row]:
    """What else differs in the shared cells."""
    causes = []
    for name in CAUSES:
        values = Counter(
            (_cause(a, b, name), _cause(b, a, name)) for a, b in pairs if a[name] != b[name]
        )
        causes += [
            {"column": name, "a": a, "b": b, "cells": count} for (a, b), count in values.items()
        ]
    return causes


def _others(pairs: Sequence[Pair]) -> list[Row]:
    counts = {
        name: sum(a[name] != b[name] for a, b in pairs if _recorded(name, a, b)) for name in OTHERS
    }
    return [{"column": name, "cells": count} for name, count in counts.items() if count]


def _recorded(name: str, *rows: Row) -> bool:
    return all(COLUMNS[name].since <= row["schema"] for row in rows)


def _cause(row: Row, other: Row, name: str) -> Any:
    """A value that may explain a change. Of a digest it only matters that it differs."""
    column = COLUMNS[name]
    if column.since > row["schema"]:
        return "not recorded"
    if column.kind == "digest":
        return "recorded" if column.since > other["schema"] else None
    return row[name]
