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
from kdbench.report.columns import COLUMNS, SCHEMA, Column, Row, columns_in
from kdbench.report.consistency import UNCHANGED, check_row
from kdbench.report.settings import DIGESTS
from kdbench.report.tables import text_of
from kdbench.untrusted.files import read_regular

#: The names of a cell. The seed is last.
CELL = ("dataset", "attack", "defense", "distiller", "teacher", "student", "preset", "seed")
#: These differ between two measurements of one cell, even where every number that counts is the
#: same.
UNSTEADY = ("wall_s", "peak_mem_mb", "confinement")
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
#: kdbench writes at most 25 characters.
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,9})?")
#: 18 digits fit into 64 bits. No count of kdbench is longer.
_WHOLE = re.compile(r"[0-9]{1,18}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Columns that a message names.
_NAMED = 5
#: A file of 100,000 rows has about 100 MiB.
_MOST_BYTES = 1 << 28
_WANTED = "name a results.csv or a run's folder"


@dataclass(frozen=True)
class Results:
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


def read_results(path: str | Path) -> Results:
    """Read a results.csv, or the one in a run's folder.

    Raises:
        ConfigError: there is no such file, it is no results.csv, it is of a newer schema than
            :data:`kdbench.report.columns.SCHEMA`, or a row is not one that kdbench writes. The
            message names the file and, where there is one, the line.
    """
    path = _find(Path(path))
    records = _records(path)
    if not records:
        raise ConfigError(f"{path} is empty; name the results of a run that finished a cell")
    (line, header), *records = records
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
        if len(fields) != len(header):
            raise ConfigError(
                f"{where}: {len(fields)} fields under a header of {len(header)}; {UNCHANGED}"
            )
        values = dict(zip(header, fields, strict=True))
        # The schema comes first: a file of another schema has other columns.
        schema = _schema(where, values["schema"], rows)
        if not rows:
            columns = columns_in(schema)
            _check_header(path, header, schema, columns)
        row = _row(where, [(columns[name], text) for name, text in values.items()])
        first = seen.setdefault(cell_key(row), line)
        if first != line:
            raise ConfigError(
                f"{where}: {in_words(cell_key(row))} is on line {first} already; remove one of the "
                "two rows"
            )
        rows.append(row)
    return Results(path, rows, [line for line, _ in records])


def _schema(where: str, text: str, before: Sequence[Row]) -> int:
    """The schema of a row, the same for all rows of a file."""
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
                raise ConfigError(
                    f"the folder {path} holds no results.csv; name the folder of a run that "
                    "finished a cell"
                )
            path /= "results.csv"
        elif not path.exists():
            raise ConfigError(f"{path} does not exist; {_WANTED}")
    except OSError as error:  # a folder without permission
        raise ConfigError(
            f"{path} cannot be read ({error.strerror or error}); {_WANTED}"
        ) from error
    return path


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """Every record with the line on which it starts."""
    try:
        # spreadsheets like to put a byte order mark there
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror or error}); {_WANTED}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is a binary file or not in UTF-8; {_WANTED}") from error
    if "\0" in text:
        raise ConfigError(f"{path} is a binary file; {_WANTED}")
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
        raise ConfigError(f"{path}, line {start}: {error}; {UNCHANGED}") from error
    finally:
        csv.field_size_limit(limit)
    return records


def _check_header(
    path: Path, header: list[str], schema: int, columns: Mapping[str, Column]
) -> None:
    times = Counter(header)
    missing = [name for name, column in columns.items() if not column.late and name not in times]
    unknown = [name for name in times if name not in columns]
    repeated = [name for name, count in times.items() if count > 1]
    for what, names in (("missing", missing), ("unknown", unknown), ("repeated", repeated)):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise ConfigError(
                f"{path}, line 1: {what} columns of schema {schema}: "
                f"{', '.join(map(short, names[:_NAMED]))}{more}; {UNCHANGED}"
            )


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
        raise _wrong(where, column, f"{text[:40]!r} is no number")
    if column.kind == "whole":
        if _WHOLE.fullmatch(text):
            return int(text)
        raise _wrong(where, column, f"{text[:40]!r} is no whole number")
    if column.kind == "word" and text not in column.words:
        raise ConfigError(
            f"{where}: unknown {column.name} {short(text)}; known: {', '.join(column.words)}; "
            f"{UNCHANGED}"
        )
    if column.kind == "digest" and not _DIGEST.fullmatch(text):
        raise _wrong(where, column, f"{text[:40]!r} is no SHA-256")
    return text_of(text)


def _wrong(where: str, column: Column, what: str) -> ConfigError:
    return ConfigError(f"{where}, column {column.name}: {what}; {UNCHANGED}")


def short(value: Any) -> str:
    """A value for a message, 80 characters at most."""
    text = str(value)
    return "empty" if value is None else text if len(text) <= 80 else f"{text[:77]}..."
