"""One row per setting: means over seeds with their 95 % t-interval, and the rank of the defense.

Failures are counted and never averaged. The rule of the ranks is in :mod:`kdbench.report.ranking`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench._intervals import wilson
from kdbench.report.columns import Row, conclusive_removed, hits_of
from kdbench.report.confinement import confinement_of
from kdbench.report.noise import t_interval
from kdbench.report.paired import GROUP, by_seed, grouped
from kdbench.report.ranking import CONCLUSIVE, assign_ranks, seeds_needed, why_unranked, worst_cases
from kdbench.report.read import CELL
from kdbench.report.settings import DIGESTS, SHARED, changes, changes_text
from kdbench.report.tables import DECIMALS, write_csv
from kdbench.report.words import shown_verdict

#: The names of a cell without its seed.
_NAMES = CELL[:-1]
#: The rows that have the same values in these columns are averaged: names and numbers.
SETTING = ("schema", *_NAMES, "setting_digest", *DIGESTS)
MEASURES = (
    "teacher_acc",
    "teacher_asr",
    "student_acc",
    "student_asr",
    "c3_asr",
    "c1_asr",
    "transferred",
    "removed",
)
#: Verdicts that are equally frequent are named in this order.
_VERDICTS = (*CONCLUSIVE, "undefended", "inconclusive")
#: Points. Equal seeds may differ by less than this, from rounding in floating point.
_NO_SPREAD = 1e-6
#: What is ranked together over all attacks.
_PAIR = ("schema", *SHARED, "shared_digest")
_RANK = ("rank", "rank_low", "rank_high", "acc_lost", "rank_reason")
_COLUMNS = [
    "schema",
    *_NAMES,
    "changed",
    *_RANK,
    "verdict",
    "n_seeds",
    "n_failed",
    *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")),
    "n_removed",
    "confinement",
    "setting_digest",
    *DIGESTS,
]
_OVERALL = [
    "schema",
    *SHARED,
    "defense",
    "changed",
    "rank",
    "worst_attack",
    "student_asr",
    "rank_low",
    "rank_high",
    "acc_lost",
    "rank_reason",
    "verdict",
    "n_seeds",
    "n_attacks",
    "attacks",
    "missing_attacks",
    "confinement",
    "shared_digest",
    "defense_digest",
]


def leaderboard(rows: list[Row]) -> pd.DataFrame:
    """Summarise the rows of results.csv, one row per setting. The defenses of each (dataset,
    attack, distiller, pair) are ranked.

    n_seeds: number of rows of status ok. These are averaged.
    n_failed: number of the other rows.
    X, X_low, X_high: mean of X, and the interval of the spread between seeds, over the seeds that
        have X.
    n_removed: number of conclusive rows. Only these count for ``removed``, since a share of next
        to nothing can be any number.
    confinement: what kept the defender's jobs of these rows from the attacker's.
    rank: see kdbench.report.ranking.
    rank_reason: why there is no rank. The setting was not measured, or at one seed only, or every
        seed is inconclusive, or a seed is missing at which another defense was measured.
    rank_low, rank_high: the interval of student_asr alone, for reading. Ties are decided by paired
        differences, which may tell two defenses apart whose intervals overlap. It is Student's
        interval. Where the seeds do not vary it is Wilson's of one seed, since no spread is not
        certainty.
    acc_lost: mean over the seeds of the undefended minus the defended student's ACC, points.

    Sorted by dataset, attack, pair, distiller, then rank, then student_asr, lowest first. Settings
    without a rank come last.
    """
    return _table(_ranked(rows), _COLUMNS)


def _ranked(rows: list[Row]) -> list[Row]:
    """A record per setting, with its measured rows by seed as ``rows``."""
    records = []
    for group in grouped(rows, GROUP).values():
        by_setting = grouped(group, SETTING)
        needed = seeds_needed(by_setting.values())
        ranked = []
        for key, members in by_setting.items():
            record = _summary(key, members)
            record |= {"rank_reason": why_unranked(members, needed), "rows": by_seed(members)}
            if not record["rank_reason"]:
                record["rank_low"], record["rank_high"] = _interval(record)
            ranked.append(record)
        assign_ranks(ranked)
        records += ranked
    return records


def overall(rows: list[Row]) -> pd.DataFrame:
    """Each defense by its worst attack, the one with the highest mean student_asr. One row per
    dataset, distiller, pair and defense.

    An attack counts for a defense that has a rank against it. A defense for which fewer attacks
    count than for others has no rank.

    student_asr, rank_low, rank_high, verdict: those of ``worst_attack``.
    acc_lost: the largest over the attacks that count.
    n_seeds: the smallest over these attacks.
    n_attacks, attacks: how many attacks count, and their names.
    missing_attacks: the others, against which any defense was measured.
    confinement: over these attacks.
    """
    cases = []
    for key, group in grouped(_ranked(rows), _PAIR).items():
        cases += [dict(zip(_PAIR, key, strict=True)) | record for record in worst_cases(group)]
    return _table(cases, _OVERALL)


def _summary(key: tuple[Any, ...], members: list[Row]) -> Row:
    """Counts, means and intervals of one setting."""
    good = [row for row in members if row.get("status") == "ok"]
    record: Row = dict(zip(SETTING, key, strict=True))
    record |= {
        "changed": changes_text(changes(members[0])),
        "verdict": verdict_shares(good),
        "n_seeds": len(good),
        "n_failed": len(members) - len(good),
        "confinement": confinement_of(good),
    }
    for name in MEASURES:
        record[name], record[f"{name}_low"], record[f"{name}_high"] = t_interval(
            _values(good, name)
        )
    record["n_removed"] = len(_values(good, "removed"))
    both = [(row.get("c3_acc"), row.get("student_acc")) for row in good]
    lost = t_interval(
        [before - after for before, after in both if before is not None and after is not None]
    )[0]
    # Rounded as results.csv is. A run's own leaderboard, and one made of its file, must agree on
    # who loses too much.
    return record | {"acc_lost": round(lost, DECIMALS)}


def _interval(record: Row) -> tuple[float, float]:
    """Of student_asr: the spread between seeds. Where the seeds are equal: that of the test
    images."""
    low, high = record["student_asr_low"], record["student_asr_high"]
    if high - low > _NO_SPREAD:
        return low, high
    row = next(row for row in record["rows"].values() if row.get("student_asr") is not None)
    return wilson(hits_of(row, "student_asr"), row["n_asr"])


def _values(rows: list[Row], name: str) -> list[float]:
    values = [conclusive_removed(row) if name == "removed" else row.get(name) for row in rows]
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def verdict_shares(rows: list[Row], verdict_of: Callable[[Row], Any] = shown_verdict) -> str:
    """The verdict on which all seeds agree, or each with its share, most frequent first."""
    counts = Counter(filter(None, map(verdict_of, rows)))
    if len(counts) <= 1:
        return next(iter(counts), "")
    rank = {name: place for place, name in enumerate(_VERDICTS)}
    shares = sorted(counts.items(), key=lambda item: (-item[1], rank.get(item[0], len(rank))))
    return ", ".join(f"{name} {count}/{counts.total()}" for name, count in shares)


def _table(records: list[Row], columns: list[str]) -> pd.DataFrame:
    def order(record: Row) -> tuple[Any, ...]:
        names = ("dataset", "attack", "teacher", "student", "distiller", "preset")
        asr = record.get("student_asr")
        return (
            *(str(record.get(name)) for name in names),
            math.inf if record["rank"] is None else record["rank"],
            math.inf if asr is None or math.isnan(asr) else asr,
        )

    in_order = sorted(records, key=order)
    table = pd.DataFrame(in_order, columns=columns)
    return table.astype({"rank": "Int64"})  # whole numbers, some of them missing


def as_records(table: pd.DataFrame) -> list[Row]:
    """The rows of a table of this module, with None for what is missing."""
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in record.items()} for record in records]


def write_leaderboard(rows: list[Row], path: str | Path) -> None:
    """Write :func:`leaderboard` as CSV, as careful with text and numbers as results.csv."""
    write_csv(_COLUMNS, as_records(leaderboard(rows)), path)


def write_overall(rows: list[Row], path: str | Path) -> None:
    """Write :func:`overall` as CSV."""
    write_csv(_OVERALL, as_records(overall(rows)), path)
