"""Lines of a display that are never longer than the terminal is wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

#: Between the parts of a line.
_JOINT = " | "
#: Stands for the words that were left out.
_MORE = "..."


def shortened(text: str, width: int) -> str:
    """A text in so many columns, without its last words where it is longer. One word stays."""
    if cell_len(text) <= width:
        return text
    words = text.split(" ")
    while len(words) > 1 and cell_len(" ".join(words)) + len(_MORE) + 1 > width:
        words.pop()
    return f"{' '.join(words)} {_MORE}"


def fitted(width: int, start: str, parts: Sequence[str], least: Sequence[str] = ()) -> str:
    """``start | part | part`` in one line.

    Where that is too long, parts are left out, and then words of the start.

    Args:
        parts: those that are empty are left out.
        least: parts that may be left out, in this order.
    """
    kept = [part for part in parts if part]

    def line(start: str) -> str:
        return _JOINT.join([start, *kept])

    for part in least:
        if cell_len(line(start)) > width and part in kept:
            kept.remove(part)
    room = width - (cell_len(line(start)) - cell_len(start))
    return line(shortened(start, room))
