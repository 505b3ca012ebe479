"""Writes results.csv: fixed columns, numbers as numbers, and text that neither a terminal obeys nor
a spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kdbench._files import write_atomically
from kdbench.report.columns import COLUMNS, Row
from kdbench.untrusted.text import strip_control

#: A spreadsheet takes text that starts with one of these for a formula. Some know the wide signs,
#: too.
_SIGNS = "=+\\-@\u2212\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b"
#: Spaces and quotes before a sign do not always protect.
_BEFORE = "[ '\"]*"
#: Some split at a semicolon, a bar or a line's end, even where the text is quoted. So a formula may
#: start there.
_LATER = f"(?<=[;|\n])%s(?={_BEFORE}[{_SIGNS}])"
_UNGUARDED = re.compile(f"^(?={_BEFORE}[{_SIGNS}\n])|{_LATER % ''}")
#: With the tab, which was kept until schema 5.
_GUARDED = re.compile(f"^'(?={_BEFORE}[{_SIGNS}\t\n])|{_LATER % chr(39)}")
#: Four decimals of a percentage tell one image of a million from none.
DECIMALS = 4


def cell(value: Any, exact: bool = False) -> str | int | float:
    """One value as it is written.

    None, NaN and infinities are empty, and floats are rounded unless they are to be exact. Text has
    an escape for each character that a terminal could obey, except the ends of lines. Where it
    could be a formula it gets a ``'``. So does text that has this ``'`` already, so that it can be
    taken off again.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | Integral):
        return int(value)
    if isinstance(value, float | Real):
        number = float(value)
        if not math.isfinite(number):
            return ""
        # Adding 0.0 turns -0.0 into 0.0.
        return number if exact else round(number, DECIMALS) + 0.0
    return _UNGUARDED.sub("'", _printable(str(value)))


def text_of(written: str) -> str:
    """The text of which :func:`cell` made this."""
    return _GUARDED.sub("", written)


def _printable(text: str) -> str:
    """The text without what a terminal could obey. Its lines end with \\n."""
    if text.isprintable():
        return text
    # The csv module does not quote a lone \\r, which starts a row in a spreadsheet.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(map(strip_control, lines))


def written(name: str, value: Any) -> str | int | float:
    """One value as it is written in a column of results.csv."""
    column = COLUMNS.get(name)
    return cell(value, exact=column is not None and column.is_exact)


def write_csv(columns: Sequence[str], rows: Iterable[Row], path: str | Path) -> None:
    """Write the named columns of the rows. Keys that are no column are left out."""

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="") as file:
            file.writelines(table_lines(columns, rows))

    write_atomically(path, write)


def table_lines(columns: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    """The lines of :func:`write_csv`. A text may have more ends of lines in it."""
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\n")
    for values in _table(columns, rows):
        writer.writerow(values)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _table(columns: Sequence[str], rows: Iterable[Row]) -> Iterator[list[Any]]:
    yield list(map(cell, columns))
    for row in rows:
        yield [written(name, row.get(name)) for name in columns]


def write_results(rows: list[Row], path: str | Path) -> None:
    """Write one row per cell with exactly :data:`kdbench.report.columns.COLUMNS`, in their
    order."""
    write_csv(list(COLUMNS), rows, path)
