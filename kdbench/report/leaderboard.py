"""One row per setting: means over seeds with their 95 % t-interval, failures counted and never averaged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from kdbench.report.columns import conclusive_removed
from kdbench.report.tables import write_csv

SETTING = ("schema", "dataset", "attack", "defense", "distiller", "teacher", "student", "preset")
MEASURES = (
    "teacher_acc",
    "teacher_asr",
    "student_acc",
    "student_asr",
    "undefended_asr",
    "clean_teacher_asr",
    "transferred",
    "removed",
)
_VERDICTS = ("stopped", "partly", "not stopped", "inconclusive")
_COLUMNS = [
    *SETTING,
    "verdict",
    "n_seeds",
    "n_failed",
    *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")),
    "n_removed",
]


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) with Student's 95 % interval, not clipped to 0-100; NaN where too few values are given."""
    n = len(values)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan, math.nan
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return mean, mean - half, mean + half


def leaderboard(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Summarise the rows of results.csv, one row per setting.

    n_seeds: rows of status ok, the ones averaged. n_failed: the others. ``X``, ``X_low``, ``X_high``: mean and interval
    over the seeds that have X; for ``removed`` the n_removed conclusive ones, since a share of next to nothing is any number.
    The interval speaks of the spread between seeds. Sorted by dataset, attack, pair, then student_asr, lowest first.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in SETTING), []).append(row)
    records = []
    for key, members in groups.items():
        good = [row for row in members if row.get("status") == "ok"]
        record: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        record |= {"verdict": _verdict(good), "n_seeds": len(good), "n_failed": len(members) - len(good)}
        for name in MEASURES:
            values = _values(good, name)
            record[name], record[f"{name}_low"], record[f"{name}_high"] = t_interval(values)
        record["n_removed"] = len(_values(good, "removed"))
        records.append(record)
    table = pd.DataFrame(records, columns=_COLUMNS)
    order = ["dataset", "attack", "teacher", "student", "student_asr"]
    return table.sort_values(order, kind="stable", na_position="last", ignore_index=True)


def _values(rows: list[dict[str, Any]], name: str) -> list[float]:
    found = [conclusive_removed(row) if name == "removed" else row.get(name) for row in rows]
    return [float(value) for value in found if value is not None and math.isfinite(value)]


def _verdict(rows: list[dict[str, Any]]) -> str:
    """The verdict all seeds agree on, else each with its share, most frequent first."""
    found = Counter(row["verdict"] for row in rows if row.get("verdict"))
    if len(found) <= 1:
        return next(iter(found), "")
    rank = {name: place for place, name in enumerate(_VERDICTS)}
    shares = sorted(found.items(), key=lambda item: (-item[1], rank.get(item[0], len(rank))))
    return ", ".join(f"{name} {count}/{found.total()}" for name, count in shares)


def write_leaderboard(rows: list[dict[str, Any]], path: str | Path) -> None:
    """Write :func:`leaderboard` as CSV, with the same care for text and numbers as results.csv."""
    write_csv(_COLUMNS, leaderboard(rows).to_dict("records"), path)
