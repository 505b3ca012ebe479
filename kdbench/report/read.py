"""Reads results.csv back, strictly, and merges the rows of several runs.

What :mod:`kdbench.report.tables` wrote comes back as it was: empty cells as None, numbers as
numbers, text without the ``'`` that keeps a spreadsheet from taking it for a formula. Anything else
is refused: a row that was cut off, or edited by hand into something that cannot be, must not end up
in a ranking.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, SCHEMA

#: What a cell is: its setting, then its seed.
CELL = ("dataset", "attack", "defense", "distiller", "teacher", "student", "preset", "seed")
VERDICTS = ("stopped", "partly", "not stopped", "inconclusive")
#: Differ between two measurements of one cell even where every number that counts is the same.
UNSTEADY = ("wall_s", "peak_mem_mb")
RATES = tuple(name.removesuffix("_hits") for name in COLUMNS if name.endswith("_hits"))
WHOLE = frozenset(
    {"schema", "seed", "n_test", "n_asr", "target_class", *(f"{name}_hits" for name in RATES)}
)
TEXT = frozenset(
    {
        "status",
        "reason",
        "verdict",
        "device",
        "numerics",
        "kdbench_version",
        "torch_version",
        "plugins",
        *CELL[:-1],
    }
    | {"teacher_sha256", "student_sha256", "dataset_digest", "config_digest"}
)
_TOGETHER = ("dataset", "attack", "distiller", "teacher", "student", "preset")
_MEASURED = ("teacher_acc", "student_acc")
_JUDGED = (
    "student_asr",
    "undefended_acc",
    "undefended_asr",
    "clean_teacher_asr",
    "transferred",
    "transferred_low",
    "transferred_high",
)
_CONCLUSIVE = ("removed", "removed_low", "removed_high")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[0-9]{1,18}")
_GUARDED = re.compile(r"'+[=+\-@\t\n]")
_ROUNDING = 1e-4  # of a percentage as it is written
_WANTED = "name a results.csv or a run's folder"
_UNCHANGED = "use the file as kdbench wrote it"


@dataclass(frozen=True)
class Results:
    """The rows of one results.csv. ``lines``: the line of the file, from 1, on which each row
    starts."""

    path: Path
    rows: list[dict[str, Any]]
    lines: list[int]


def total_of(rate: str) -> str:
    """The column that says what a rate's count is out of."""
    return "n_test" if rate.endswith("_acc") else "n_asr"


def cell_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of :data:`CELL`."""
    return tuple(row[name] for name in CELL)


def in_words(cell: Sequence[Any]) -> str:
    """A cell's key for people."""
    return " / ".join([*map(str, cell[:-1]), f"seed {cell[-1]}"])


def read_results(path: str | Path) -> Results:
    """Read a results.csv, or the one in a run's folder.

    Raises:
        ConfigError: there is no such file, it is no results.csv, it is of another schema than
            :data:`kdbench.report.columns.SCHEMA`, or a row is not one that kdbench writes. Names
            the file and, where there is one, the line.
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
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], int] = {}
    for line, fields in records:
        where = f"{path}, line {line}"
        if len(fields) != len(header):
            raise ConfigError(
                f"{where}: {len(fields)} fields under a header of {len(header)}; {_UNCHANGED}"
            )
        values = dict(zip(header, fields, strict=True))
        if values["schema"] != str(SCHEMA):  # first: a file of another schema has other columns
            raise ConfigError(
                f"{where}: schema {values['schema']!r}, and this kdbench reads schema {SCHEMA}; "
                "run the cells again with this "
                "version, or use the version that wrote the file"
            )
        if not rows:
            _check_header(path, header)
        row = _row(where, values)
        first = seen.setdefault(cell_key(row), line)
        if first != line:
            raise ConfigError(
                f"{where}: {in_words(cell_key(row))} is on line {first} already; remove one of the "
                "two rows"
            )
        rows.append(row)
    return Results(path, rows, [line for line, _ in records])


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
        if not path.is_file():  # a pipe or a device may never end
            raise ConfigError(f"{path} is no regular file; {_WANTED}")
    except OSError as error:  # a folder without permission
        raise ConfigError(
            f"{path} cannot be read ({error.strerror or error}); {_WANTED}"
        ) from error
    return path


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """Every record with the line on which it starts."""
    try:
        # spreadsheets like to put a byte order mark there
        text = path.read_bytes().decode("utf-8-sig")
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
        raise ConfigError(f"{path}, line {start}: {error}; {_UNCHANGED}") from error
    finally:
        csv.field_size_limit(limit)
    return records


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    strange = [name for name in header if name not in COLUMNS]
    twice = sorted({name for name in header if header.count(name) > 1})
    for what, names in (("missing", missing), ("unknown", strange), ("repeated", twice)):
        if names:
            raise ConfigError(
                f"{path}, line 1: {what} columns of schema {SCHEMA}: {', '.join(names)}; "
                f"{_UNCHANGED}"
            )


def _row(where: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """One record as the runner made it, in the order of COLUMNS."""
    row = {name: _value(f"{where}, column {name}", name, fields[name]) for name in COLUMNS}
    if row["verdict"] not in (None, *VERDICTS):
        raise ConfigError(
            f"{where}: unknown verdict {_short(row['verdict'])}; known: {', '.join(VERDICTS)}; "
            f"{_UNCHANGED}"
        )
    needed = ["status", *CELL]
    if row["status"] == "ok":
        needed += _MEASURED
    if row["verdict"] is not None:
        needed += _JUDGED
    if row["verdict"] not in (None, "inconclusive"):
        needed += _CONCLUSIVE
    empty = [name for name in needed if row[name] is None]
    if empty:
        raise ConfigError(f"{where}: nothing in {', '.join(empty)}; {_UNCHANGED}")
    for rate in RATES:
        percent, hits, total = row[rate], row[f"{rate}_hits"], row[total_of(rate)]
        if percent is None and hits is None:
            continue
        if (
            percent is None
            or hits is None
            or not total
            or hits > total
            or abs(percent - 100 * hits / total) > _ROUNDING
        ):
            raise ConfigError(
                f"{where}: {rate} {percent} cannot be {hits} of {total} images; {_UNCHANGED}"
            )
    return row


def _value(where: str, name: str, text: str) -> Any:
    if text == "":
        return None
    if name in TEXT:
        return text[1:] if _GUARDED.match(text) else text
    if name in WHOLE:
        if not _WHOLE.fullmatch(text):
            raise ConfigError(f"{where}: {text[:40]!r} is no whole number; {_UNCHANGED}")
        return int(text)
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {text[:40]!r} is no number; {_UNCHANGED}")
    return number


def check_datasets(files: Iterable[Results]) -> None:
    """Refuse two datasets under one name.

    Raises:
        ConfigError: rows of one dataset name have two digests.
    """
    first: dict[Any, tuple[Any, Path]] = {}
    for file in files:
        for row in file.rows:
            digest, path = first.setdefault(row["dataset"], (row["dataset_digest"], file.path))
            if digest != row["dataset_digest"]:
                raise ConfigError(
                    f"dataset {row['dataset']!r} has other images in {path} ({str(digest)[:12]}) "
                    f"than in {file.path} "
                    f"({str(row['dataset_digest'])[:12]}), so their numbers are not comparable; "
                    "use runs with the same sizes "
                    "and --data-seed"
                )


def merge(files: Sequence[Results]) -> list[dict[str, Any]]:
    """The rows of several runs as those of one. A cell that several files hold with the same
    numbers counts once.

    Raises:
        ConfigError: the files mix presets, or datasets under one name, or target classes or the
            defender's share within what is ranked together, or two of them disagree about a cell,
            be it in a number or in the parameters; names the files.
    """
    check_datasets(files)
    presets: dict[Any, Path] = {}
    found: dict[tuple[Any, ...], tuple[dict[str, Any], str]] = {}
    conditions: dict[tuple[Any, ...], tuple[dict[str, Any], str]] = {}
    for file in files:
        for row, line in zip(file.rows, file.lines, strict=True):
            presets.setdefault(row["preset"], file.path)
            where = f"{file.path}, line {line}"
            first, there = found.setdefault(cell_key(row), (row, where))
            _check_same(first, row, there, where)
            first, there = conditions.setdefault(
                tuple(row[name] for name in _TOGETHER), (row, where)
            )
            _check_conditions(first, row, there, where)
    if len(presets) > 1:
        named = "; ".join(f"{preset!r} in {path}" for preset, path in presets.items())
        raise ConfigError(
            f"presets are never ranked together; asked for were {named}; rank the runs of one "
            "preset at a time"
        )
    return [row for row, _ in found.values()]


def _check_conditions(
    first: Mapping[str, Any], row: Mapping[str, Any], there: str, where: str
) -> None:
    for name in ("target_class", "clean_fraction"):
        if first[name] != row[name]:
            group = " / ".join(str(row[part]) for part in _TOGETHER)
            raise ConfigError(
                f"{group}: {name} is {first[name]} in {there}, and {row[name]} in {where}, so "
                "their tasks differed; "
                "rank the two apart"
            )


def _check_same(first: Mapping[str, Any], row: Mapping[str, Any], there: str, where: str) -> None:
    different = [name for name in COLUMNS if name not in UNSTEADY and first[name] != row[name]]
    if not different:
        return
    cell = in_words(cell_key(row))
    if "config_digest" in different:
        others = [
            name
            for name in different
            if name in TEXT and name not in ("config_digest", "reason", "verdict", "status")
        ]
        hint = f" (also different: {', '.join(others)})" if others else ""
        raise ConfigError(
            f"{cell}: other parameters, machine or software in {there}, than in {where}: "
            f"config_digest differs{hint}; "
            "leave one of the two files out"
        )
    name = different[0]
    more = f", and {len(different) - 1} more columns" if len(different) > 1 else ""
    values = f"{_short(first[name])} in {there}, and {_short(row[name])} in {where}"
    raise ConfigError(f"{cell}: {name} is {values}{more}; leave one of the two files out")


def _short(value: Any) -> str:
    text = str(value)
    return "empty" if value is None else text if len(text) <= 80 else f"{text[:77]}..."
