"""Defenses against each other, seed by seed.

The defenses of one group (dataset, attack, distiller, pair, preset) share their teacher, first
weights and batches at equal seeds. What makes a seed easy or hard for both falls out of their
difference, so the difference is known better than either mean. ``kdbench compare`` and the ranks
use the same :func:`kdbench.report.noise.over_seeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from kdbench.report.column import Column
from kdbench.report.columns import COLUMNS as RESULTS
from kdbench.report.columns import RATES, Row, hits_of
from kdbench.report.noise import LEVEL, Difference, Estimate, holm, over_seeds, rate, with_interval
from kdbench.report.settings import TASK, changes, changes_text, defense_label
from kdbench.report.tables import write_csv

#: Rows that are equal in these columns are ranked and compared together: all but the defense.
GROUP = ("schema", *TASK, "shared_digest", "attack_digest")
#: One defense of a group: its name, and its numbers.
DEFENSE = ("defense", "defense_digest")
METRICS = ("student_asr", "student_acc")
#: The student of the clean teacher (C1), compared like a defense. A defense that ties with it took
#: away all that the backdoor added.
CONTROL = "C1"
_C1 = (CONTROL, None)
#: Picks the two defenses of each comparison from all those of a group.
_Choose = Callable[[Iterable[Any]], Iterable[tuple[Any, Any]]]
_TABLE = (
    *(RESULTS[name] for name in GROUP),
    Column("changed", "text", "numbers of this group that its names do not promise", since=5),
    Column(
        "defense_a",
        "text",
        "one defense, the first of the two by name; C1 is the student of the clean teacher, the "
        "same trigger shown",
    ),
    Column("changed_a", "text", "its numbers that its name does not promise", since=5),
    Column("defense_b", "text", "the other"),
    Column("changed_b", "text", "its numbers that its name does not promise", since=5),
    Column("metric", "text", "student_asr or student_acc"),
    Column("n_seeds", "whole", "the seeds at which both were measured, at least two"),
    Column(
        "same_teachers",
        "text",
        "whether both met the same backdoored teacher at every one of these seeds",
    ),
    Column("a", "number", "mean of defense_a over these seeds", "%"),
    Column("b", "number", "mean of defense_b", "%"),
    Column("difference", "number", "mean of b - a", "points"),
    Column("low", "number", "lower end of its 95 % interval, alone", "points"),
    Column("high", "number", "upper end", "points"),
    Column("p", "number", "error probability of the difference, alone"),
    Column(
        "p_holm",
        "number",
        "corrected for all comparisons of this metric in its group; those with C1 are corrected "
        "apart",
    ),
    Column(
        "finding", "text", "tie; or, where p_holm is at most 0.05, defense_b and lower or higher"
    ),
)
COLUMNS: dict[str, Column] = {column.name: column for column in _TABLE}


def by_seed(rows: Iterable[Row]) -> dict[Any, Row]:
    """The rows of one setting that were measured, by their seed."""
    return {row.get("seed"): row for row in rows if row.get("status") == "ok"}


def common(a: Mapping[Any, Row], b: Mapping[Any, Row], metric: str) -> list[tuple[Row, Row]]:
    """The two rows of every seed at which both settings have ``metric``, see :func:`by_seed`."""
    pairs = [(row, b[seed]) for seed, row in a.items() if seed in b]
    return [pair for pair in pairs if all(row.get(metric) is not None for row in pair)]


def estimate(row: Row, metric: str) -> Estimate:
    """A number of one row, in % or points. A rate has the interval of its count, transferred and
    removed have their bootstrap intervals."""
    if metric in RATES:
        return rate(hits_of(row, metric), row[RATES[metric]])
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return with_interval(
        row[metric], row[metric] if low is None else low, row[metric] if high is None else high
    )


def paired_difference(pairs: Sequence[tuple[Row, Row]], metric: str) -> Difference:
    """b - a over the pairs of rows (a, b) of equal seeds, points.

    Raises:
        ValueError: there are fewer than two.
    """
    return over_seeds([(estimate(a, metric), estimate(b, metric)) for a, b in pairs])


def grouped(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows by their values of ``names``, in the order in which these values first appear."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return groups


def comparisons(rows: list[Row]) -> list[Row]:
    """Every two defenses of every group by their student_asr and student_acc, with
    :data:`COLUMNS`.

    Two defenses are compared over the seeds at which both were measured, if these are at least two.
    Whether a verdict was conclusive does not matter for a difference. Sorted by group, then
    defenses, then metric.
    """
    return _compared(rows, lambda defenses: combinations(sorted(defenses, key=_in_order), 2))


def against_control(rows: list[Row]) -> list[Row]:
    """C1, as ``defense_a``, against every defense. A defense that ties with it took away all that
    the backdoor had added."""
    return _compared(
        rows, lambda defenses: ((_C1, defense) for defense in sorted(defenses, key=_in_order))
    )


def _in_order(defense: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(map(str, defense))


def _compared(rows: list[Row], choose: _Choose) -> list[Row]:
    """A record for every two defenses of a group that ``choose`` picks, and for each metric."""
    records: list[Row] = []
    for key, group in sorted(
        grouped(rows, GROUP).items(), key=lambda item: tuple(map(str, item[0]))
    ):
        shared = dict(zip(GROUP, key, strict=True))
        shared["changed"] = changes_text(changes(group[0], "shared", "attack"))
        records += [shared | record for record in _compared_in_group(group, choose)]
    return records


def _compared_in_group(group: list[Row], choose: _Choose) -> list[Row]:
    seeds = {defense: by_seed(members) for defense, members in grouped(group, DEFENSE).items()}
    chosen = list(choose(seeds))
    seeds[_C1] = {row["seed"]: _as_defense(row) for row in group if row.get("c1_asr") is not None}
    both = [(metric, common(seeds[a], seeds[b], metric)) for a, b in chosen for metric in METRICS]
    records = [_comparison(metric, pairs) for metric, pairs in both if len(pairs) > 1]
    _correct(records)
    return records


def _as_defense(row: Row) -> Row:
    """The row with control C1 in the place of the student, as if a defense had handed on a clean
    teacher."""
    numbers = {
        f"student_{name}": row[f"c1_{name}"] for name in ("asr", "asr_hits", "acc", "acc_hits")
    }
    return {**row, **numbers, "defense": CONTROL, "changed": None}


def _comparison(metric: str, pairs: Sequence[tuple[Row, Row]]) -> Row:
    difference = paired_difference(pairs, metric)
    teachers = [(a.get("teacher_sha256"), b.get("teacher_sha256")) for a, b in pairs]
    sides = {
        f"{name}_{side}": value
        for side, row in zip("ab", pairs[0], strict=True)
        for name, value in (
            ("defense", row["defense"]),
            ("changed", changes_text(changes(row, "defense"))),
        )
    }
    return {
        **sides,
        "metric": metric,
        "n_seeds": len(pairs),
        # A teacher that is not known is not known to be the same.
        "same_teachers": all(a is not None and a == b for a, b in teachers),
        "a": sum(a[metric] for a, _ in pairs) / len(pairs),
        "b": sum(b[metric] for _, b in pairs) / len(pairs),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p,
    }


def _correct(records: Sequence[Row]) -> None:
    """Set ``p_holm`` and ``finding`` of one group's records. A finding does not depend on other
    groups in the table."""
    for metric in METRICS:
        tested = [record for record in records if record["metric"] == metric]
        for record, p in zip(tested, holm([record["p"] for record in tested]), strict=True):
            record["p_holm"], record["finding"] = p, _finding(record, p)


def side_label(record: Row, side: str) -> str:
    """The defense of one side of a comparison, ``a`` or ``b``, with the numbers that its name does
    not promise."""
    return defense_label(
        {"defense": record[f"defense_{side}"], "changed": record[f"changed_{side}"]}
    )


def _finding(record: Row, p_holm: float) -> str:
    if p_holm > LEVEL:
        return "tie"
    return f"{side_label(record, 'b')} {'lower' if record['difference'] < 0 else 'higher'}"


def write_paired(compared: Iterable[Row], path: str | Path) -> None:
    """Write :func:`comparisons` as CSV. Without comparisons it is the header only.

    Raises:
        OSError: it cannot be written.
    """
    # Four decimals would make nothing of the smallest error probabilities.
    digits = [
        record | {name: f"{record[name]:.3g}" for name in ("p", "p_holm")} for record in compared
    ]
    write_csv(list(COLUMNS), digits, path)
