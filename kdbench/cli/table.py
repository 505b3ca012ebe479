"""A table whose words stay whole: it is as wide as the terminal at most, and a column breaks
between words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

#: After these a word that is too long for its column is broken: names of files, of cells, digests.
_SEPARATORS = re.compile(r"(?<=[-/_.,:;=+|])")
#: Columns between two columns of a table.
_GAP = 1


class PlainTable(Table):
    """A table without a frame, and its title above it."""

    def __init__(self, heading: str = "") -> None:
        super().__init__(
            box=None, padding=(0, _GAP, 0, 0), header_style="bold", pad_edge=True, expand=False
        )
        #: Its title. It is not broken where the table is narrow.
        self.heading = heading

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.heading:
            yield Text.from_markup(f"[bold]{self.heading}[/]")
        yield from _fitting(self, options.max_width).render_plain(console, options)

    def render_plain(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table itself."""
        yield from super().__rich_console__(console, options)


def _fitting(table: PlainTable, width: int) -> PlainTable:
    """The same table with widths of its columns, and with its longest words broken where they must
    be."""
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    widths = column_widths(
        [_span(column, values) for column, values in zip(table.columns, cells, strict=True)],
        width - _GAP * len(cells),
    )
    fitting = PlainTable()
    for column, own in zip(table.columns, widths, strict=True):
        fitting.add_column(
            _broken(str(column.header), own),
            justify=column.justify,
            overflow="fold",
            no_wrap=column.no_wrap,
            width=own,
        )
    for row in zip(*cells, strict=True):
        broken = (_broken(cell, own) for cell, own in zip(row, widths, strict=True))
        fitting.add_row(*broken)
    return fitting


def _span(column: Column, cells: Sequence[str]) -> tuple[int, int]:
    """(columns of a terminal for the longest word, the same for the longest line)."""
    texts = [Text.from_markup(cell).plain for cell in (str(column.header), *cells)]
    lines = [line for text in texts for line in text.split("\n")]
    natural = max(map(cell_len, lines), default=0)
    words = max((cell_len(word) for line in lines for word in line.split()), default=0)
    if column.no_wrap:
        return natural, natural
    most = natural if column.max_width is None else column.max_width
    return min(words, most), min(natural, most)


def column_widths(spans: Sequence[tuple[int, int]], width: int) -> list[int]:
    """How wide the columns of a table are that is so wide at most.

    Each has its longest word at least. The columns with the longest lines are cut down, and the
    others have their lines whole. Where even the words are too long, the longest are cut down.

    Args:
        spans: (longest word, longest line) of each.
    """
    words = [max(1, word) for word, _ in spans]
    if sum(words) > width:
        return _cut_down([1] * len(words), words, width)
    return _cut_down(words, [max(1, line) for _, line in spans], width)


def _cut_down(least: Sequence[int], natural: Sequence[int], width: int) -> list[int]:
    """Widths between two bounds that fit, if the lower ones do. What is widest gives way first."""

    def bounded(most: int) -> list[int]:
        return [max(low, min(high, most)) for low, high in zip(least, natural, strict=True)]

    most = max(natural, default=0)
    while most > 1 and sum(bounded(most)) > width:
        most -= 1
    widths = bounded(most)
    # What is left goes to the first of those that were cut down.
    cut = [place for place, high in enumerate(natural) if widths[place] < high]
    for place in cut[: max(0, width - sum(widths))]:
        widths[place] += 1
    return widths


def _broken(markup: str, width: int) -> str:
    """A cell whose words fit, as far as they have separators."""
    text = Text.from_markup(markup)
    if all(cell_len(word) <= width for word in text.plain.split()):
        return markup
    from rich.markup import escape

    return escape(" ".join(_pieces(word, width) for word in text.plain.split(" ")))


def _pieces(word: str, width: int) -> str:
    """A word on several lines."""
    return "\n".join(_lines(word, width)) if cell_len(word) > width else word


def _lines(word: str, width: int) -> Iterator[str]:
    line = ""
    for piece in _SEPARATORS.split(word):
        if line and cell_len(line + piece) > width:
            yield line
            line = ""
        line += piece
    yield line
