"""A comparison and its words: what ``kdbench compare`` prints, and what Python shows.

Every text here is without control characters. It may hold a stranger's words, so who shows it
escapes it for the place where it is shown.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kdbench._counted import counted
from kdbench.report.noise import LEVEL
from kdbench.untrusted.text import shown, strip_control

if TYPE_CHECKING:
    from kdbench.report.columns import Row

#: Cells that only one file has, named one by one.
_LISTED = 20


@dataclass(frozen=True)
class Change:
    """One column of a cell, or of a setting over its seeds, in both files.

    Words have no difference, and neither have numbers of which one is missing.
    """

    #: The names of the setting, with ``seed`` or ``seeds``.
    cell: Row
    column: str
    #: The value in the first file. None: not measured.
    a: Any
    #: The value in the second file.
    b: Any
    #: b - a, points.
    difference: float | None = None
    #: The lower end of its 95 % interval.
    low: float | None = None
    #: The upper end.
    high: float | None = None
    #: The error probability of the difference, alone.
    p: float | None = None
    #: The same, corrected for all that were tested together.
    p_holm: float | None = None
    #: Whether p_holm is at most 5 %.
    more_than_noise: bool | None = None


@dataclass
class Family:
    """What is corrected together."""

    #: How many differences were tested, changed or not.
    compared: int = 0
    #: Those that changed.
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class Comparison:
    """Everything that ``kdbench compare`` says. ``print`` shows what the command prints."""

    #: The first file, and the second.
    a: str
    b: str
    #: How many cells both files have.
    shared: int
    only_in_a: list[Row]
    only_in_b: list[Row]
    #: The changes of single cells.
    cells: Family
    #: The changes of means over seeds.
    over_seeds: Family
    #: Each with ``column``, ``a``, ``b`` and the number of ``cells``.
    causes: list[Row]
    #: Columns that are not tested and changed, each with ``column`` and the number of ``cells``.
    others: list[Row]

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        both = f"{counted(self.shared, 'cell')} in both"
        names = " and ".join(map(shown, (self.a, self.b)))
        return f"<Comparison of {names}: {both}, {counts(self.cells)}>"

    def _repr_html_(self) -> str:
        return as_html(self)

    def as_dict(self) -> dict[str, Any]:
        return {"level": LEVEL, "correction": "holm", **asdict(self)}

    @property
    def worse(self) -> list[Change]:
        """What is worse in the second file: an ASR of a student that rose by more than noise, of a
        cell or of a mean over seeds. And a cell that was measured, and is not any more."""
        changes = [*self.cells.changes, *self.over_seeds.changes]
        return [change for change in changes if is_worse(change)]


def is_worse(change: Change) -> bool:
    """Whether a change is one for the worse, see :attr:`Comparison.worse`."""
    if change.column == "status":
        return bool(change.a == "ok")
    rose = change.difference is not None and change.difference > 0
    return change.column == "student_asr" and rose and change.more_than_noise is True


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]
    """The columns whose texts stand at the right."""


def sides(comparison: Comparison) -> list[str]:
    """What is compared: a line for each of the two."""
    names = (comparison.a, comparison.b)
    return [f"{letter}: {shown(name)}" for letter, name in zip("AB", names, strict=True)]


def findings(comparison: Comparison) -> Iterator[str | Table]:
    """All that a comparison says, in sentences and tables."""
    yield f"cells in both: {comparison.shared}"
    for letter, cells in (("A", comparison.only_in_a), ("B", comparison.only_in_b)):
        for cell in cells[:_LISTED]:
            yield f"only in {letter}: {cell_words(cell)}"
        if len(cells) > _LISTED:
            yield f"only in {letter}: {len(cells) - _LISTED} more; kdbench compare --json has all"
    noises = {
        "single cells": (
            comparison.cells,
            "that of the test images; another training seed may change more",
        ),
        "means over seeds": (comparison.over_seeds, "the spread between seeds, paired"),
    }
    for title, (family, noise) in noises.items():
        if family.changes:
            yield _table(f"what changed, {title}", family)
        if family.compared or family.changes:
            yield (
                f"{title}: {counts(family)} "
                f"(Holm: the chance of a false alarm anywhere is at most {100 * LEVEL:.0f} %). "
                f"Noise: {noise}."
            )
    if comparison.others:
        columns = [f"{other['column']} in {other['cells']}" for other in comparison.others]
        both = counted(comparison.shared, "cell")
        yield f"also changed, not tested, of {both}: {', '.join(columns)}"
    yield from _causes(comparison)


def counts(family: Family) -> str:
    """How many numbers changed, and how many of them by more than noise."""
    tested = [change for change in family.changes if change.p is not None]
    beyond = sum(change.more_than_noise is True for change in tested)
    return (
        f"{counted(family.compared, 'number')} compared, {len(tested)} of them changed, {beyond} "
        "by more than noise"
    )


def cell_words(cell: Row) -> str:
    """A cell, or a setting over its seeds, in one line."""
    seeds = cell.get("seeds", [cell.get("seed")])
    end = f"seed {seeds[0]}" if "seed" in cell else f"seeds {', '.join(map(str, seeds))}"
    names = [str(v) for name, v in cell.items() if name not in ("seed", "seeds", "changed")]
    changed = f" [{cell['changed']}]" if "changed" in cell else ""
    return strip_control(" / ".join([*names, end]) + changed)


def as_text(comparison: Comparison) -> str:
    """The comparison as lines of text."""
    parts = [*sides(comparison), *findings(comparison)]
    return "\n".join(part if isinstance(part, str) else _text_table(part) for part in parts)


def as_html(comparison: Comparison) -> str:
    """The comparison for a notebook."""
    parts = [*sides(comparison), *findings(comparison)]
    lines = (
        f"<p>{html.escape(part)}</p>" if isinstance(part, str) else _html_table(part)
        for part in parts
    )
    return "\n".join(["<div>", *lines, "</div>"])


def _table(title: str, family: Family) -> Table:
    headings = ("setting", "what", "A", "B", "B - A", "95 % interval", "p (Holm)")
    rows, previous = [], None
    for change in family.changes:
        # The name of a cell stands on the first of its lines only.
        rows.append(
            [
                "" if change.cell == previous else cell_words(change.cell),
                change.column,
                _value(change.a),
                _value(change.b),
                *_difference(change),
                {True: "yes", False: "no", None: ""}[change.more_than_noise],
            ]
        )
        previous = change.cell
    return Table(title, (*headings, "more than noise"), rows, range(2, len(headings)))


def _difference(change: Change) -> tuple[str, str, str]:
    """B - A, its interval and its corrected error probability, empty where there is no number."""
    if change.difference is None:
        return "", "", ""
    interval = f"{change.low:+.1f} to {change.high:+.1f}"
    return f"{change.difference:+.1f}", interval, f"{change.p_holm:.2g}"


def _causes(comparison: Comparison) -> Iterator[str]:
    for cause in comparison.causes:
        values = (
            ""
            if cause["a"] is None and cause["b"] is None
            else f": {_value(cause['a'])} in A, {_value(cause['b'])} in B"
        )
        yield (
            f"possible cause: {cause['column']} differs in {cause['cells']} of "
            f"{counted(comparison.shared, 'cell')}{values}"
        )
    if comparison.cells.changes and not comparison.causes:
        yield (
            "no cause is recorded: parameters, machine, software and teachers are the same by "
            "their digests"
        )


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else strip_control(value)


def _text_table(table: Table) -> str:
    lines = [table.headings, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join([table.title, *(_line(line, widths, table.numbers) for line in lines)])


def _line(texts: Sequence[str], widths: Sequence[int], numbers: Sequence[int]) -> str:
    padded = (
        text.rjust(width) if column in numbers else text.ljust(width)
        for column, (text, width) in enumerate(zip(texts, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _html_table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in table.headings)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in table.rows
    )
    title = f"<caption>{html.escape(table.title)}</caption>"
    return f"<table>{title}<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
