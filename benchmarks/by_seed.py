"""A table for README.md from a results.csv: ``python benchmarks/by_seed.py
benchmarks/results/gtsrb-controls``.

A row a pair, attack, distiller and defense; rates in %, by seed or their mean with half of
Student's 95 % interval over the seeds. ``-``: that seed is lacking, or too little transferred to
speak of a share.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kdbench.report.columns import conclusive_removed
from kdbench.report.noise import t_interval
from kdbench.report.paired import by_seed, grouped
from kdbench.report.read import read_results

COLUMNS = (
    "pair",
    "attack",
    "distiller, defense",
    "teacher ACC / ASR",
    "C1 by seed",
    "C3 by seed",
    "ACC",
    "ASR by seed",
    "ASR",
    "removed by seed",
)


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown."""
    ok = [dict(row) for row in rows if row["status"] == "ok"]
    seeds = sorted({row["seed"] for row in ok})
    yield _line(COLUMNS)
    yield _line("---" for _ in COLUMNS)
    groups = grouped(ok, ("teacher", "student", "attack", "distiller", "defense"))
    for (teacher, student, attack, distiller, defense), members in sorted(
        groups.items(), key=_order
    ):
        named = by_seed(members)
        of = [named.get(seed) for seed in seeds]
        yield _line(
            (
                f"{teacher}-{student}",
                attack,
                f"{distiller} {defense}",
                f"{_mean(members, 'teacher_acc')} / {_mean(members, 'teacher_asr')}",
                _each(of, lambda row: row["c1_asr"], 1),
                _each(of, lambda row: row["c3_asr"], 1),
                _mean(members, "student_acc"),
                _each(of, lambda row: row["student_asr"], 1),
                _mean(members, "student_asr"),
                "" if defense == "none" else _each(of, conclusive_removed, 0),
            )
        )


def _order(group: tuple[tuple[Any, ...], Any]) -> tuple[Any, ...]:
    *before, defense = group[0]
    return (*before, defense != "none", defense)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _each(rows: Sequence[Any], value: Callable[[Any], float | None], digits: int) -> str:
    found = [None if row is None else value(row) for row in rows]
    return " ".join("-" if number is None else f"{number:.{digits}f}" for number in found)


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    mean, low, high = t_interval([row[name] for row in rows])
    return f"{mean:.1f}" if len(rows) < 2 else f"{mean:.1f} ± {(high - low) / 2:.1f}"


if __name__ == "__main__":
    print("\n".join(table(read_results(sys.argv[1]).rows)))
