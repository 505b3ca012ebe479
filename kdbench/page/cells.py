"""The table of all cells, and the file of all columns that a page carries with it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kdbench.page.marks import MARKS, Mark, outcome
from kdbench.page.numbers import text
from kdbench.page.tasks import Setting, Task
from kdbench.report.columns import COLUMNS, Row, conclusive_removed
from kdbench.report.tables import table_lines, written

#: Cells that have a line each. Above it a setting has one.
MOST_LINES = 1500
#: Bytes of the file of all columns in a page. A larger one is left out.
_MOST_PAYLOAD = 2_500_000
#: Letters of a name in the table.
_MOST_NAME = 120
#: Columns of names that are shown only where they tell rows apart.
_NAMES = ("dataset", "attack", "defense", "distiller", "pair", "preset")
#: Columns of numbers, with their headings.
_NUMBERS: Mapping[str, str] = {
    "teacher_asr": "teacher ASR",
    "student_acc": "ACC",
    "student_asr": "ASR",
    "c1_asr": "C1 ASR",
    "c3_acc": "C3 ACC",
    "c3_asr": "C3 ASR",
    "transferred": "transferred",
    "removed": "removed",
}


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    setting: int
    """The number of its setting."""
    first: bool
    """Whether it is the first line of its setting."""
    mark: Mark
    word: str
    """The outcome as this line has it."""
    names: Sequence[str]
    seed: str
    numbers: Sequence[tuple[str, str]]
    """(the value as results.csv has it, as it is shown). Both empty: not measured."""

    @property
    def exact(self) -> str:
        """The seed and the numbers as results.csv has them, with a blank between two."""
        return " ".join([self.seed, *(value for value, _ in self.numbers)])


@dataclass(frozen=True)
class Cells:
    """The table of all cells."""

    common: Sequence[tuple[str, str]]
    """Names that are the same in every line: (column, value)."""
    names: Sequence[str]
    """Columns of names that are shown."""
    seed: str
    """The heading of the column of seeds."""
    headings: Sequence[tuple[str, str]]
    """(heading, meaning) of each column of numbers."""
    lines: Sequence[Line]
    per_setting: bool
    """A line is the mean of a setting, since there are too many cells."""
    total: int
    file: Markup
    """results.csv, gzipped, in base64. Empty: it is too large for a page."""
    columns: Markup
    """The meanings of its columns, in the same way."""


def cells_of(rows: Sequence[Row], tasks: Sequence[Task]) -> Cells:
    """The table of the rows of a page."""
    values = {name: dict.fromkeys(_name(row, name) for row in rows) for name in _NAMES}
    names = [name for name in _NAMES if len(values[name]) > 1]
    per_setting = len(rows) > MOST_LINES
    settings = [setting for task in tasks for setting in task.settings]
    lines = (
        [_mean_line(setting, names) for setting in settings[:MOST_LINES]]
        if per_setting
        else _cell_lines(rows, settings, names)
    )
    return Cells(
        [(name, next(iter(values[name]))) for name in _NAMES if len(values[name]) == 1],
        names,
        "seeds" if per_setting else "seed",
        [(heading, COLUMNS[name].about) for name, heading in _NUMBERS.items()],
        lines,
        per_setting,
        len(rows),
        _packed_rows(rows),
        _packed(json.dumps(_meanings(), ensure_ascii=False).encode()),
    )


def _cell_lines(
    rows: Sequence[Row], settings: Sequence[Setting], names: Sequence[str]
) -> list[Line]:
    of_row = {id(row): setting.number for setting in settings for row in setting.rows}
    return [
        Line(
            of_row[id(row)],
            row is settings[of_row[id(row)]].rows[0],
            MARKS[outcome(row)],
            _word(row),
            [_name(row, name) for name in names],
            str(row["seed"]),
            [_number(row, name) for name in _NUMBERS],
        )
        for row in rows
    ]


def _name(row: Row, name: str) -> str:
    text = f"{row['teacher']}-{row['student']}" if name == "pair" else str(row[name])
    return text[:_MOST_NAME]


def _word(row: Row) -> str:
    """The outcome of a cell. A cell that failed has its status."""
    status = row.get("status")
    return MARKS[outcome(row)].word if status == "ok" else str(status)


def _number(row: Row, name: str) -> tuple[str, str]:
    exact = written(name, row.get(name))
    shown = conclusive_removed(row) if name == "removed" else row.get(name)
    return str(exact), "" if exact == "" else text(shown)


def _mean_line(setting: Setting, names: Sequence[str]) -> Line:
    means = [setting.mean(name) for name in _NUMBERS]
    return Line(
        setting.number,
        True,
        MARKS[setting.outcome],
        setting.words,
        [_name(setting.record, name) for name in names],
        str(len(setting.rows)),
        [
            ("", "") if mean is None else (f"{mean:.4f}", text(mean))
            for name, mean in zip(_NUMBERS, means, strict=True)
        ],
    )


def _packed_rows(rows: Sequence[Row]) -> Markup:
    packed = _packed("".join(table_lines(list(COLUMNS), rows)).encode())
    return packed if len(packed) <= _MOST_PAYLOAD else Markup("")


def _packed(content: bytes) -> Markup:
    """It holds nothing to escape."""
    # The head of the format gzip, without the time: the same page has the same bytes.
    # Digests and numbers repeat little, so short matches are not worth their place.
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    packed = packer.compress(content) + packer.flush()
    return Markup(base64.b64encode(packed).decode("ascii"))


def _meanings() -> dict[str, str]:
    """Every column of results.csv with its meaning and its unit.

    For a column of words also each word, with what is to be added: ``status=ok`` is
    ``: measured``.
    """
    meanings = {
        name: f"{column.about}{f' ({column.unit})' if column.unit else ''}"
        for name, column in COLUMNS.items()
    }
    words = {
        f"{name}={word}": f": {text}"
        for name, column in COLUMNS.items()
        for word, text in column.words.items()
    }
    return meanings | words
