"""Writes results.csv: fixed columns, numbers as numbers, and text that no spreadsheet takes for a
formula."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kdbench._files import write_atomically
from kdbench.report.columns import COLUMNS, Row

#: A spreadsheet takes text that starts like this for a formula, or for a new cell.
_FORMULA = ("=", "+", "-", "@", "\t", "\n")
#: Four decimals of a percentage tell one image of a million from none.
DECIMALS = 4


def cell(value: Any) -> str | int | float:
    """One value as it is written.

    None, NaN and infinities are empty, and floats are rounded. Text like a formula gets a ``'`` in
    front. So does text that has this ``'`` already, so that it can be taken off again.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | Integral):
        return int(value)
    if isinstance(value, float | Real):
        number = float(value)
        # Adding 0.0 turns -0.0 into 0.0.
        return round(number, DECIMALS) + 0.0 if math.isfinite(number) else ""
    # The csv module does not quote a lone \r, which starts a row in a spreadsheet.
    text = str(value).replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def write_csv(columns: Sequence[str], rows: Iterable[Row], path: str | Path) -> None:
    """Write the named columns of the rows. Keys that are no column are left out."""

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([cell(row.get(name)) for name in columns] for row in rows)

    write_atomically(path, write)


def write_results(rows: list[Row], path: str | Path) -> None:
    """Write one row per cell with exactly :data:`kdbench.report.columns.COLUMNS`, in their
    order."""
    write_csv(list(COLUMNS), rows, path)
