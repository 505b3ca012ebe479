"""Reads results.csv back, strictly.

What :mod:`kdbench.report.tables` wrote comes back as it was: empty cells as None, numbers as
numbers, text without the ``'`` that keeps a spreadsheet from taking it for a formula. A file of an
older schema comes back under today's names, with None in the columns that it does not have.
Anything else is refused. A row that was cut off, or edited by hand into something that cannot be,
must not get into a ranking.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import ConfigError
from kdbench.report.column import Column
from kdbench.report.columns import COLUMNS, MOST_WHOLE, SCHEMA, Row, columns_in
from kdbench.report.consistency import UNCHANGED, check_row
from kdbench.report.edited import (
    edited_fields,
    edited_header,
    edited_names,
    edited_value,
    other_table,
)
from kdbench.report.settings import DIGESTS
from kdbench.report.tables import text_of
from kdbench.untrusted.files import read_regular
from kdbench.untrusted.recognised import decoded

#: The names of a cell. The seed is last.
CELL = tuple(name for name, column in COLUMNS.items() if column.role == "name")
#: These differ between two measurements of one cell, even where every number that counts is the
#: same.
UNSTEADY = ("wall_s", "peak_mem_mb", "confinement", "preset_remark")
#: Never empty in a row that is ok.
_MEASURED = ("teacher_acc", "student_acc")
#: Never empty in a row with a verdict.
_JUDGED = (
    "student_asr",
    "c3_acc",
    "c3_asr",
    "c1_asr",
    "transferred",
    "transferred_low",
    "transferred_high",
)
#: Never empty where the verdict is conclusive.
_CONCLUSIVE = ("removed", "removed_low", "removed_high")
#: Never empty in a file that has them. Without them a row would pass for one of an older schema, or
#: of another machine, which nothing can be compared with.
_NUMBERS = ("config_digest", "dataset_digest", "setting_digest", *DIGESTS)
#: kdbench writes at most 25 characters, and never a capital E. A spreadsheet writes one, and has
#: then rounded.
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?(e[+-]?[0-9]{1,9})?")
_WHOLE = re.compile(r"[0-9]{1,19}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Columns that a message names.
_NAMED = 5
#: A file of 100,000 rows has about 100 MiB.
_MOST_BYTES = 1 << 28
_WANTED = "name a results.csv or a run's folder"


@dataclass(frozen=True)
class ResultsFile:
    """The rows of one results.csv."""

    path: Path
    rows: list[Row]
    #: The line of the file, from 1, on which each row starts.
    lines: list[int]


def cell_key(row: Row) -> tuple[Any, ...]:
    """The values of :data:`CELL`."""
    return tuple(row[name] for name in CELL)


def in_words(cell: Sequence[Any]) -> str:
    """A cell's key for people."""
    return " / ".join([*map(str, cell[:-1]), f"seed {cell[-1]}"])


def read_results(path: str | Path) -> ResultsFile:
    """Read a results.csv, or the one in a run's folder.

    Raises:
        ConfigError: there is no such file, it is no results.csv, it is of a newer schema than
            :data:`kdbench.report.columns.SCHEMA`, or a row is not one that kdbench writes. The
            message names the file and, where there is one, the line.
    """
    path = _find(Path(path))
    text = _text(path)
    records = _records(path, text)
    if not records:
        raise ConfigError(f"{path} is empty; name the results of a run that finished a cell")
    (line, header), *records = records
    if table := other_table(header):
        raise ConfigError(
            f"{path}, line {line}: it is {table}, which is made of results.csv; {_WANTED}"
        )
    if words := edited_names(header):
        raise ConfigError(f"{path}, line {line}: {words}; {UNCHANGED}")
    if "schema" not in header:
        raise ConfigError(
            f"{path}, line {line}: no column 'schema', so this is no results.csv; {_WANTED}"
        )
    if not records:
        raise ConfigError(f"{path} holds no row; name the results of a run that finished a cell")
    columns: dict[str, Column] = {}
    rows: list[Row] = []
    seen: dict[tuple[Any, ...], int] = {}
    for line, fields in records:
        where = f"{path}, line {line}"
        is_cut = line == records[-1][0] and not text.endswith("\n")
        if words := edited_fields(fields, header, is_cut):
            raise ConfigError(f"{where}: {words}; {UNCHANGED}")
        cells = dict(zip(header, fields, strict=True))
        # The schema comes first: a file of another schema has other columns.
        schema = _schema(where, cells["schema"], rows)
        if not rows:
            columns = columns_in(schema)
            _check_header(path, header, schema, columns)
        try:
            row = _row(where, [(columns[name], value) for name, value in cells.items()])
        except ConfigError as error:
            if not is_cut:
                raise
            raise ConfigError(
                f"{where}: the file ends in this line, which is not whole: it was cut; {UNCHANGED}"
            ) from error
        first = seen.setdefault(cell_key(row), line)
        if first != line:
            raise ConfigError(
                f"{where}: {in_words(cell_key(row))} is on line {first} already; remove one of the "
                "two rows"
            )
        rows.append(row)
    return ResultsFile(path, rows, [line for line, _ in records])


def _schema(where: str, text: str, before: Sequence[Row]) -> int:
    """The schema of a row, the same for all rows of a file."""
    if words := edited_value(COLUMNS["schema"], text):
        raise ConfigError(
            f"{where}: schema {short(text)!r} is no whole number ({words}); {UNCHANGED}"
        )
    if text == "schema":
        raise ConfigError(
            f"{where}: the names of the columns again, so tables were put together; name each "
            "table by itself (leaderboard takes several)"
        )
    schema = int(text) if _WHOLE.fullmatch(text) else 0
    if not 1 <= schema <= SCHEMA:
        todo = "install a newer kdbench" if schema > SCHEMA else UNCHANGED
        raise ConfigError(
            f"{where}: schema {short(text)!r}, and this kdbench reads schemas 1 to {SCHEMA}; {todo}"
        )
    if before and before[0]["schema"] != schema:
        raise ConfigError(
            f"{where}: schema {schema} in a file of schema {before[0]['schema']}; {UNCHANGED}"
        )
    return schema


def _find(path: Path) -> Path:
    try:
        if path.is_dir():
            if not (path / "results.csv").exists():
                raise ConfigError(f"the folder {path} holds no results.csv; {_instead(path)}")
            path /= "results.csv"
        elif not path.exists():
            raise ConfigError(f"{path} does not exist; {_WANTED}")
    except OSError as error:  # a folder without permission
        raise ConfigError(
            f"{path} cannot be read ({error.strerror or error}); {_WANTED}"
        ) from error
    return path


def _instead(folder: Path) -> str:
    """What to name in the place of a folder without results."""
    runs = sorted(inner.parent for inner in folder.glob("*/results.csv"))
    if not runs:
        return "name the folder of a run that finished a cell"
    more = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
    return f"it holds folders of runs, so name these: {', '.join(map(str, runs[:_NAMED]))}{more}"


def _text(path: Path) -> str:
    """The text of the file, with line ends as it has them."""
    try:
        return decoded(read_regular(path, _MOST_BYTES))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror or error}); {_WANTED}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}, {error}; {UNCHANGED}") from error


def _records(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Every record with the line on which it starts."""
    if words := edited_header(text.lstrip("\r\n").partition("\n")[0]):
        raise ConfigError(f"{path}, line 1: {words}; {UNCHANGED}")
    records = []
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    # a plugin's message may be longer than the usual 131072
    limit = csv.field_size_limit(len(text) + 1)
    start = 1
    try:
        for fields in reader:
            if fields:
                records.append((start, fields))
            start = reader.line_num + 1
    except csv.Error as error:
        cut = "the file ends within a text in quotes, so it was cut"
        words = cut if "end of data" in str(error) else str(error)
        raise ConfigError(f"{path}, line {start}: {words}; {UNCHANGED}") from error
    finally:
        csv.field_size_limit(limit)
    return records


def _check_header(
    path: Path, header: list[str], schema: int, columns: Mapping[str, Column]
) -> None:
    times = Counter(header)
    wrong = {
        "missing": [n for n, column in columns.items() if not column.late and n not in times],
        "unknown": [name for name in times if name not in columns],
        "repeated": [name for name, count in times.items() if count > 1],
    }
    problems = [
        f"{what} columns of schema {schema}: {_listed(names)}"
        for what, names in wrong.items()
        if names
    ]
    if problems:
        raise ConfigError(f"{path}, line 1: {'; '.join(problems)}; {UNCHANGED}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(map(short, names[:_NAMED]))}{more}"


def _row(where: str, fields: Sequence[tuple[Column, str]]) -> Row:
    """One record as the runner made it, in the order of COLUMNS."""
    row: Row = dict.fromkeys(COLUMNS)
    for column, text in fields:
        value = _value(where, column, text)
        if column.until is None:
            row[column.name] = value
    there = {column.name for column, _ in fields if column.until is None}
    needed = ["status", *CELL, *(name for name in _NUMBERS if name in there)]
    if row["status"] == "ok":
        needed += _MEASURED
    if row["verdict"] is not None:
        needed += _JUDGED
    if row["verdict"] not in (None, "inconclusive"):
        needed += _CONCLUSIVE
    empty = [name for name in needed if row[name] is None]
    if empty:
        raise ConfigError(f"{where}: nothing in {', '.join(empty)}; {UNCHANGED}")
    check_row(where, row, there)
    return row


def _value(where: str, column: Column, text: str) -> Any:
    """The value that a text stands for, by the kind of its column."""
    if text == "":
        return None
    if column.kind == "number":
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
        if math.isfinite(number):
            return number
        raise _wrong(where, column, text, "no number")
    if column.kind == "whole":
        if _WHOLE.fullmatch(text) and int(text) <= MOST_WHOLE:
            return int(text)
        raise _wrong(where, column, text, "no whole number")
    if column.kind == "word" and text not in column.words:
        why = _in_brackets(edited_value(column, text))
        raise ConfigError(
            f"{where}: unknown {column.name} {short(text)}{why}; known: {', '.join(column.words)}; "
            f"{UNCHANGED}"
        )
    if column.kind == "digest" and not _DIGEST.fullmatch(text):
        raise _wrong(where, column, text, "no SHA-256")
    if column.kind == "text" and edited_value(column, text):
        raise _wrong(where, column, text, "no such name")
    return text_of(text)


def _wrong(where: str, column: Column, text: str, what: str) -> ConfigError:
    why = _in_brackets(edited_value(column, text))
    return ConfigError(f"{where}, column {column.name}: {text[:40]!r} is {what}{why}; {UNCHANGED}")


def _in_brackets(words: str) -> str:
    return f" ({words})" if words else ""


def short(value: Any) -> str:
    """A value for a message, 80 characters at most."""
    text = str(value)
    return "empty" if value is None else text if len(text) <= 80 else f"{text[:77]}..."
