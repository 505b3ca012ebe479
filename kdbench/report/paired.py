"""Defenses against each other, seed by seed.

The defenses of one group (dataset, attack, distiller, pair, preset) share their teacher, first
weights and batches at equal seeds, so their difference at each seed is known better than either
mean: what makes a seed easy or hard for both falls out. The mechanism is
:func:`kdbench.report.noise.over_seeds`, the one of ``kdbench compare`` and of the ranks too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from kdbench.report.columns import COLUMNS as RESULTS
from kdbench.report.columns import RATES, Column, hits_of
from kdbench.report.noise import LEVEL, Difference, Estimate, holm, over_seeds, rate, with_interval
from kdbench.report.settings import TASK, changes, changes_text, defense_label
from kdbench.report.tables import write_csv

#: What is ranked and compared together: everything of a setting but the defense.
GROUP = ("schema", *TASK, "shared_digest", "attack_digest")
#: One defense of a group: its name, and its numbers.
DEFENSE = ("defense", "defense_digest")
METRICS = ("student_asr", "student_acc")
#: The student of the clean teacher (C1), compared like a defense: one that ties with it took away
#: all that the backdoor added.
CONTROL = "C1"
_C1 = (CONTROL, None)
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


def by_seed(rows: Iterable[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """The rows of one setting that were measured, by their seed."""
    return {row.get("seed"): row for row in rows if row.get("status") == "ok"}


def common(
    a: Mapping[Any, dict[str, Any]], b: Mapping[Any, dict[str, Any]], metric: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The two rows of every seed at which both settings have ``metric``, see :func:`by_seed`."""
    both = [(row, b[seed]) for seed, row in a.items() if seed in b]
    return [
        (one, other)
        for one, other in both
        if one.get(metric) is not None and other.get(metric) is not None
    ]


def estimate(row: Mapping[str, Any], metric: str) -> Estimate:
    """A number of one row, in % or points: a rate by its count, transferred and removed by their
    bootstrap intervals."""
    if metric in RATES:
        return rate(hits_of(row, metric), row[RATES[metric]])
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return with_interval(
        row[metric], row[metric] if low is None else low, row[metric] if high is None else high
    )


def paired_difference(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], metric: str
) -> Difference:
    """b - a over the pairs of rows (a, b) of equal seeds, points.

    Raises:
        ValueError: there are fewer than two.
    """
    return over_seeds([(estimate(a, metric), estimate(b, metric)) for a, b in pairs])


def grouped(
    rows: Iterable[dict[str, Any]], names: Sequence[str]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The rows by their values of ``names``, in the order in which these come first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return groups


def comparisons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every two defenses of every group by their student_asr and student_acc, as :data:`COLUMNS`
    says; percent and points.

    Over the seeds at which both were measured; two of which fewer than two are, are not compared.
    Whether a verdict was conclusive does not matter: a difference is one all the same. Sorted by
    group, then defenses, then metric.
    """
    return _compared(rows, lambda defenses: combinations(sorted(defenses, key=_in_order), 2))


def against_control(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """C1, as ``defense_a``, against every defense: one that ties with it took away all that the
    backdoor had added."""
    return _compared(rows, lambda defenses: ((_C1, of) for of in sorted(defenses, key=_in_order)))


def _in_order(defense: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(map(str, defense))


def _compared(
    rows: list[dict[str, Any]], choose: Callable[[Iterable[Any]], Iterable[tuple[Any, Any]]]
) -> list[dict[str, Any]]:
    records = []
    for key, group in sorted(
        grouped(rows, GROUP).items(), key=lambda item: tuple(map(str, item[0]))
    ):
        known = {of: by_seed(members) for of, members in grouped(group, DEFENSE).items()}
        chosen = list(choose(known))
        known[_C1] = {
            row["seed"]: _as_defense(row) for row in group if row.get("c1_asr") is not None
        }
        both = [
            (metric, common(known[a], known[b], metric)) for a, b in chosen for metric in METRICS
        ]
        of_group = [_comparison(metric, pairs) for metric, pairs in both if len(pairs) > 1]
        _correct(of_group)
        shared = dict(zip(GROUP, key, strict=True))
        shared["changed"] = changes_text(changes(group[0], "shared", "attack"))
        records += [shared | record for record in of_group]
    return records


def _as_defense(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a defense that would hand on a clean teacher: control C1 in the place of the
    student."""
    taken = {
        f"student_{name}": row[f"c1_{name}"] for name in ("asr", "asr_hits", "acc", "acc_hits")
    }
    return {**row, **taken, "defense": CONTROL, "changed": None}


def _comparison(
    metric: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> dict[str, Any]:
    difference = paired_difference(pairs, metric)
    teachers = [(one.get("teacher_sha256"), other.get("teacher_sha256")) for one, other in pairs]
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
        # One that is not known is not known to be the same.
        "same_teachers": all(one is not None and one == other for one, other in teachers),
        "a": sum(one[metric] for one, _ in pairs) / len(pairs),
        "b": sum(other[metric] for _, other in pairs) / len(pairs),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p,
    }


def _correct(records: Sequence[dict[str, Any]]) -> None:
    """Set ``p_holm`` and ``finding``, within one group: a finding does not depend on what else is
    in the table."""
    for metric in METRICS:
        tested = [record for record in records if record["metric"] == metric]
        for record, p in zip(tested, holm([record["p"] for record in tested]), strict=True):
            record["p_holm"], record["finding"] = p, _finding(record, p)


def side_label(record: Mapping[str, Any], side: str) -> str:
    """The defense of one side of a comparison, ``a`` or ``b``, with what its name does not
    promise."""
    return defense_label(
        {"defense": record[f"defense_{side}"], "changed": record[f"changed_{side}"]}
    )


def _finding(record: Mapping[str, Any], p_holm: float) -> str:
    if p_holm > LEVEL:
        return "tie"
    return f"{side_label(record, 'b')} {'lower' if record['difference'] < 0 else 'higher'}"


def write_paired(compared: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write :func:`comparisons` as CSV; of no rows the header.

    Raises:
        OSError: it cannot be written.
    """
    # Four decimals would make nothing of the smallest error probabilities.
    digits = [
        record | {name: f"{record[name]:.3g}" for name in ("p", "p_holm")} for record in compared
    ]
    write_csv(list(COLUMNS), digits, path)
