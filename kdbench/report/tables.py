"""Writes results.csv: fixed columns, numbers as numbers, text that no spreadsheet takes for a
formula."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kdbench._files import write_atomically
from kdbench.report.columns import COLUMNS

_FORMULA = ("=", "+", "-", "@", "\t", "\n")
DECIMALS = 4


def cell(value: Any) -> str | int | float:
    """One value as it is written: None, NaN and infinities empty, floats rounded, ``'`` before text
    like a formula (and before such a ``'``, so that it can be taken off again)."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | Integral):
        return int(value)
    if isinstance(value, float | Real):
        number = float(value)
        # + 0.0 turns -0.0 into 0.0
        return round(number, DECIMALS) + 0.0 if math.isfinite(number) else ""
    # a lone one is not quoted, and starts a row in a spreadsheet
    text = str(value).replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write the named columns of the rows; keys that are no column are left out."""

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([cell(row.get(name)) for name in columns] for row in rows)

    write_atomically(path, write)


def write_results(rows: list[dict[str, Any]], path: str | Path) -> None:
    """Write one row per cell with exactly :data:`kdbench.report.columns.COLUMNS`, in their
    order."""
    write_csv(list(COLUMNS), rows, path)
