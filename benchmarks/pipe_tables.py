"""A table as Markdown writes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def pipe_table(
    headings: Sequence[str], lines: Iterable[Sequence[str]], left: Collection[str] = ()
) -> str:
    """The table.

    Args:
        left: the headings of the columns that hold words. All others hold numbers.
    """
    rule = ["---" if heading in left else "---:" for heading in headings]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (headings, rule, *lines))
