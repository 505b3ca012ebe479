"""What changed between two results.csv, and whether it is more than noise.

Single cells: the noise is that of the test sample, told by counts (:mod:`kdbench.report.noise`;
transferred and removed by their bootstrap intervals). It says nothing about another training seed.
Over seeds, where a setting has at least two seeds in both files: a paired t interval of the
differences seed by seed, since equal seeds mean equal first weights and batches.

Many differences are looked at, and one in twenty would look like more than noise by chance alone.
Holm's correction over all that are compared, single cells and means over seeds each for themselves,
keeps the probability of any false alarm at 5 %. The intervals are 95 % each, uncorrected;
``p_holm`` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kdbench.report.columns import COLUMNS, conclusive_removed
from kdbench.report.leaderboard import verdict_shares
from kdbench.report.merge import check_datasets, located
from kdbench.report.noise import LEVEL, Difference, difference, holm
from kdbench.report.paired import estimate, paired_difference
from kdbench.report.read import CELL, Results, cell_key
from kdbench.report.settings import check_numbers

MEASURED = ("teacher_asr", "teacher_acc", "student_acc", "student_asr", "transferred", "removed")
#: What may explain a change; of the digests it only matters that they differ.
CAUSES = (
    *(
        "setting_digest",
        "changed",
        "config_digest",
        "dataset_digest",
        "kdbench_version",
        "torch_version",
        "plugins",
        "device",
        "numerics",
        "target_class",
        "clean_fraction",
    ),
    "teacher_sha256",
)


@dataclass(frozen=True)
class Change:
    """One column that differs.

    cell: the setting and its seed, or its ``seeds``. a, b: the two values, None where not measured.
    difference: b - a with its 95 % interval, points; None, with all that follows, for words and
    where a value is missing. p, p_holm: error
    probability, alone and corrected. more_than_noise: p_holm is at most 5 %.
    """

    cell: dict[str, Any]
    column: str
    a: Any
    b: Any
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    more_than_noise: bool | None = None


@dataclass
class Family:
    """What is corrected together. ``compared``: how many differences were tested, changed or
    not."""

    compared: int = 0
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """Everything that ``kdbench compare`` says. ``causes``: each with ``column``, ``a``, ``b`` and
    the number of ``cells``."""

    shared: int
    only_in_a: list[dict[str, Any]]
    only_in_b: list[dict[str, Any]]
    cells: Family
    over_seeds: Family
    causes: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {"level": LEVEL, "correction": "holm", **asdict(self)}


def compare(a: Results, b: Results, split: bool = False) -> Comparison:
    """Compare the cells that two files share.

    A file of an older schema did not record its numbers. Without ``split`` it is compared all the
    same, and ``setting_digest`` is among the causes.

    Args:
        split: a cell that was made with other numbers in the other file is another cell, and no
            reason to refuse.

    Raises:
        ConfigError: a dataset that both name has not the same images in both, or a setting not the
            same numbers.
    """
    check_datasets([a, b], split)
    if not split:
        check_numbers(where for where in located([a, b]) if where[0]["setting_digest"])
    in_a, in_b = ({_key(row, split): row for row in file.rows} for file in (a, b))
    pairs = [(row, in_b[key]) for key, row in in_a.items() if key in in_b]
    settings: dict[tuple[Any, ...], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for pair in pairs:
        settings.setdefault(cell_key(pair[0])[:-1], []).append(pair)
    return Comparison(
        shared=len(pairs),
        only_in_a=[_cell(row) for key, row in in_a.items() if key not in in_b],
        only_in_b=[_cell(row) for key, row in in_b.items() if key not in in_a],
        cells=_family([change for pair in pairs for change in _cell_changes(*pair)]),
        over_seeds=_family(
            [change for of_setting in settings.values() for change in _mean_changes(of_setting)]
        ),
        causes=_causes(pairs),
    )


def _key(row: Mapping[str, Any], split: bool) -> tuple[Any, ...]:
    return (*cell_key(row), row["setting_digest"] if split else None)


def _cell(row: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """What names a cell, and what its names do not promise."""
    names = {name: row[name] for name in CELL if name not in without}
    return names | ({"changed": row["changed"]} if row["changed"] else {})


def _family(changes: list[Change]) -> Family:
    """Correct all that were tested together; keep what changed."""
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


def _cell_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """All columns of one cell, unchanged ones too."""
    cell = _cell(a)
    changes = [Change(cell, name, a[name], b[name]) for name in ("status", "verdict")]
    for name in MEASURED:
        values = _value(a, name), _value(b, name)
        if None in values:
            changes.append(Change(cell, name, *values))
        else:
            changes.append(
                _tested(cell, name, *values, difference(estimate(a, name), estimate(b, name)))
            )
    return changes


def _mean_changes(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[Change]:
    """All columns of one setting over the seeds that have them in both files, where these are at
    least two."""
    changes = []
    setting = _cell(pairs[0][0], "seed")
    good = [pair for pair in pairs if all(row["status"] == "ok" for row in pair)]
    if len(good) > 1:
        cell = setting | {"seeds": [a["seed"] for a, _ in good]}
        changes.append(
            Change(
                cell,
                "verdict",
                *(verdict_shares([pair[side] for pair in good]) or None for side in (0, 1)),
            )
        )
    for name in MEASURED:
        both = [
            (a, b) for a, b in good if _value(a, name) is not None and _value(b, name) is not None
        ]
        if len(both) > 1:
            cell = setting | {"seeds": [a["seed"] for a, _ in both]}
            mean_a, mean_b = (
                sum(_value(pair[side], name) for pair in both) / len(both) for side in (0, 1)
            )
            changes.append(_tested(cell, name, mean_a, mean_b, paired_difference(both, name)))
    return changes


def _tested(cell: dict[str, Any], name: str, a: float, b: float, difference: Difference) -> Change:
    return Change(cell, name, a, b, difference.value, difference.low, difference.high, difference.p)


def _value(row: Mapping[str, Any], name: str) -> Any:
    return conclusive_removed(row) if name == "removed" else row[name]


def _causes(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """What else differs in the shared cells."""
    causes = []
    for name in CAUSES:
        values = Counter((_cause(a, name), _cause(b, name)) for a, b in pairs if a[name] != b[name])
        causes += [
            {"column": name, "a": a, "b": b, "cells": count} for (a, b), count in values.items()
        ]
    return causes


def _cause(row: Mapping[str, Any], name: str) -> Any:
    """A value that may explain a change; of a digest it only matters that it differs."""
    if COLUMNS[name].since > row["schema"]:
        return "not recorded"
    return None if COLUMNS[name].kind == "digest" else row[name]
