"""Writes the tables of the pages anew from the results: ``python benchmarks/render.py``.

A page asks for a table by two comments. This script writes everything between them::

    <!-- table: results/gtsrb-controls rows=pair,attack,defense columns=c1_asr,student_asr -->
    <!-- end -->

``results/NAME`` may be named several times. ``rows`` has the names that tell the lines apart, and
they come first in a line. With ``seed`` among them there is a line for each seed, and no means.
``columns`` has what is shown, see :data:`COLUMNS`. Every other ``name=value,value`` keeps the rows
with one of these values, in this order. A comment that begins with ``agreement=`` asks for a table
of :mod:`agreement_tables`, and one with ``costs=`` for a table of :mod:`costs_tables`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement_tables import ASKS, agreement_table
from costs_tables import ASKS as ASKS_COSTS
from costs_tables import costs_table
from pipe_tables import pipe_table

from kdbench.report.columns import Row, conclusive_removed
from kdbench.report.noise import t_interval
from kdbench.report.paired import by_seed, grouped
from kdbench.report.read import read_results

BENCHMARKS = Path(__file__).resolve().parent
#: Has tables, too, and stands with the pages on methods.
COSTS_PAGE = BENCHMARKS.parent / "docs" / "costs.md"
#: The names that may tell one line from another.
LABELS = ("results", "pair", "attack", "distiller", "defense")
HEADINGS = {"pair": "teacher-student"}


@dataclass(frozen=True)
class Column:
    """A number that a table can show."""

    #: The heading, with the unit.
    heading: str
    #: The number of one row. None where it was not measured.
    value: Callable[[Row], float | None]
    #: Decimals.
    digits: int = 1


def _measured(heading: str, name: str) -> Column:
    return Column(heading, lambda row: row[name])


def _ratio(heading: str, name: str) -> Column:
    """The backdoored teacher's variance over that of the clean teacher of the same seed."""
    return Column(heading, lambda row: row[f"teacher_{name}"] / row[f"clean_{name}"], 2)


def _removed(row: Row) -> float | None:
    """What a defense took away, %. None where there is no defense."""
    return None if row["defense"] == "none" else conclusive_removed(row)


def _lost(row: Row) -> float | None:
    """What a defense costs, points. None where there is no defense."""
    if row["defense"] == "none" or row["c3_acc"] is None:
        return None
    return float(row["c3_acc"] - row["student_acc"])


COLUMNS = {
    "clean_acc": _measured("clean teacher ACC, %", "clean_acc"),
    "clean_asr": _measured("clean teacher ASR, %", "clean_asr"),
    "teacher_acc": _measured("teacher ACC, %", "teacher_acc"),
    "teacher_asr": _measured("teacher ASR, %", "teacher_asr"),
    "cleansed_acc": _measured("teacher handed on: ACC, %", "cleansed_acc"),
    "cleansed_asr": _measured("teacher handed on: ASR, %", "cleansed_asr"),
    "c1_acc": _measured("C1 ACC, %", "c1_acc"),
    "c1_asr": _measured("C1 ASR, %", "c1_asr"),
    "c2_acc": _measured("C2 ACC, %", "c2_acc"),
    "c3_acc": _measured("C3 ACC, %", "c3_acc"),
    "c3_asr": _measured("C3 ASR, %", "c3_asr"),
    "student_acc": _measured("student ACC, %", "student_acc"),
    "student_asr": _measured("student ASR, %", "student_asr"),
    "transferred": _measured("transferred, points", "transferred"),
    "gain": _measured("gain, points", "gain"),
    "universal": _measured("clean teacher, attacker's images, %", "universal"),
    "removed": Column("removed, %", _removed, 0),
    "acc_lost": Column("ACC lost, points", _lost),
    "clean_variance": _measured("clean teacher's variance", "clean_variance"),
    "teacher_variance": _measured("teacher's variance", "teacher_variance"),
    "cleansed_variance": Column(
        "teacher handed on: variance", lambda row: row["cleansed_variance"], 2
    ),
    "variance_ratio": _ratio("variance, untriggered", "variance"),
    "variance_ratio_triggered": _ratio("variance, triggered", "variance_triggered"),
}


@dataclass(frozen=True)
class Request:
    """What a page asks for."""

    #: Names under ``results/``.
    folders: list[str]
    #: Names of :data:`LABELS`, or seed, that come first in a line.
    rows: list[str]
    #: Names of :data:`COLUMNS`.
    columns: list[str]
    #: For a name of :data:`LABELS`, or seed, its values in the rows that are kept.
    filters: dict[str, list[str]]


_TABLE = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(page: str) -> str:
    """The page with its tables written anew.

    Raises:
        ValueError: a table asks for something that is not there.
    """
    return _TABLE.sub(lambda match: match[1] + _table(match[2]) + match[3], page)


def _table(marker: str) -> str:
    if marker.startswith(ASKS):
        return agreement_table(marker)
    return costs_table(marker) if marker.startswith(ASKS_COSTS) else _body(parse(marker))


def parse(marker: str) -> Request:
    """The request between ``<!-- table:`` and ``-->``."""
    words = marker.split()
    options = dict(word.split("=", 1) for word in words if "=" in word)
    lists = {name: value.split(",") for name, value in options.items()}
    request = Request(
        folders=[word.removeprefix("results/") for word in words if "=" not in word],
        rows=lists.pop("rows", list(LABELS[1:])),
        columns=lists.pop("columns", ["c1_asr", "c3_asr", "student_acc", "student_asr", "removed"]),
        filters=lists,
    )
    _known(request.rows, (*LABELS, "seed"), "rows")
    _known(request.columns, COLUMNS, "columns")
    _known(request.filters, (*LABELS, "seed"), "filters")
    return request


def _known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    strange = sorted(set(names) - set(known))
    if strange:
        raise ValueError(f"no {what} {', '.join(strange)}; there are: {', '.join(known)}")


def results(folder: str) -> list[Row]:
    """The measured rows of a folder under ``results/``, with the pair and the folder's name."""
    rows = read_results(BENCHMARKS / "results" / folder).rows
    return [
        {**row, "results": folder, "pair": f"{row['teacher']}-{row['student']}"}
        for row in rows
        if row["status"] == "ok"
    ]


def selected_rows(request: Request) -> list[Row]:
    """The rows of a table, in its order."""
    rows = [row for folder in request.folders for row in results(folder)]
    for name, values in request.filters.items():
        rows = [row for row in rows if str(row[name]) in values]
        if missing := [v for v in values if v not in {str(row[name]) for row in rows}]:
            raise ValueError(f"no row has {name} {', '.join(missing)} in {request.folders}")

    def place(row: Row) -> tuple[Any, ...]:
        order = {"results": request.folders, "defense": ["none"], **request.filters}
        return tuple(
            _place(row[name], order.get(name, [])) for name in (*request.rows, *LABELS, "seed")
        )

    return sorted(rows, key=place)


def _place(value: Any, order: Sequence[str]) -> tuple[int, str]:
    text = str(value)
    return (order.index(text) if text in order else len(order), text)


def _body(request: Request) -> str:
    rows = selected_rows(request)
    # Rows of the same names that were made with other numbers are never averaged.
    groups = grouped(rows, (*LABELS, "setting_digest")).values()
    names = [name for name in request.rows if name != "seed"]
    if len({tuple(members[0][name] for name in names) for members in groups}) < len(groups):
        raise ValueError(f"rows={','.join(names)} does not tell all {len(groups)} settings apart")
    labels = request.rows if "seed" in request.rows else [*names, "seed"]
    seeds = _markdown(labels, request.columns, _by_seed(labels, request.columns, rows))
    if "seed" in request.rows or all(len(members) == 1 for members in groups):
        return seeds
    means = _markdown([*names, "seeds"], request.columns, _means(request, groups))
    return f"{means}\n<details><summary>Seed by seed</summary>\n\n{seeds}\n</details>\n"


def _means(request: Request, groups: Iterable[list[Row]]) -> Iterator[list[str]]:
    for members in groups:
        cells = [mean(members, COLUMNS[name]) for name in request.columns]
        yield [*(members[0][name] for name in request.rows), str(len(members)), *cells]


def mean(members: Sequence[Row], column: Column) -> str:
    """The mean with half of Student's 95 % interval over the seeds that have the number."""
    values = [v for row in by_seed(members).values() if (v := column.value(row)) is not None]
    if not values:
        return "-"
    middle, low, high = t_interval(values)
    text = f"{middle:z.{column.digits}f}"
    if len(values) > 1:
        text += f" ± {(high - low) / 2:.{column.digits}f}"
    return text if len(values) == len(members) else f"{text} ({len(values)} of {len(members)})"


def _by_seed(
    names: Sequence[str], columns: Sequence[str], rows: Iterable[Row]
) -> Iterator[list[str]]:
    for row in rows:
        numbers = [_number(COLUMNS[name], row) for name in columns]
        yield [*(str(row[name]) for name in names), *numbers]


def _number(column: Column, row: Row) -> str:
    value = column.value(row)
    return "-" if value is None else f"{value:z.{column.digits}f}"


def _markdown(names: Sequence[str], columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    labels = [HEADINGS.get(name, name) for name in names]
    words = [label for label in labels if label not in ("seed", "seeds")]
    return pipe_table([*labels, *(COLUMNS[name].heading for name in columns)], lines, words)


def main() -> None:
    """Write every page whose tables have changed."""
    for path in [*sorted(BENCHMARKS.rglob("*.md")), COSTS_PAGE]:
        before = path.read_text()
        after = render(before)
        if after != before:
            path.write_text(after)
            print(f"written: {path.relative_to(BENCHMARKS.parent)}")


if __name__ == "__main__":
    main()
