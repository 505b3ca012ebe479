"""Where the names of marks stand in a drawing: each beside its mark, covering nothing.

Where the whole names do not all fit, each mark has the number of its name instead, and a key
beneath the drawing has the names. A number that has no room beside its mark stands further off, and
a line leads to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """The sizes of a drawing, in its own pixels."""

    left: float
    right: float
    top: float
    bottom: float
    letter: float
    """The width of a letter."""
    line: float
    """The height of a line of letters."""


@dataclass(frozen=True)
class Label:
    """A text beside a mark."""

    x: int
    y: int
    anchor: str
    text: str
    is_far: bool = False
    """Whether a line must lead from the mark to it."""


@dataclass(frozen=True)
class Named:
    """A mark that is to be named."""

    x: float
    y: float
    name: str
    in_key: bool
    """Whether the key may have its name."""


#: Where a label may stand beside its mark: x and y of its middle in lines, and its anchor.
_PLACES = (
    (0.7, 0.0, "start"),
    (-0.7, 0.0, "end"),
    (0.0, -1.0, "middle"),
    (0.0, 1.05, "middle"),
    (0.6, -0.8, "start"),
    (-0.6, -0.8, "end"),
    (0.6, 0.8, "start"),
    (-0.6, 0.8, "end"),
)
#: Directions in which a place further off is looked for, and the step outwards, in lines.
_DIRECTIONS, _STEP = 16, 0.6
#: Half the side of a mark, and the room on both sides of a label, so that two numbers are not one.
_MARK, _GAP = 6, 2.5
_Box = tuple[float, float, float, float]


def labels_of(marks: Sequence[Named], frame: Frame) -> tuple[list[Label | None], list[str]]:
    """The label of each mark, and the names of the key in the order of their numbers, from 1.

    The key is empty where every mark has its whole name. None is a number for which there is no
    room in the whole drawing.
    """
    taken = [_around(mark) for mark in marks]
    names = [_near(mark, mark.name, taken, frame) for mark in marks]
    key = list(dict.fromkeys(mark.name for mark in marks if mark.in_key))
    if not key or all(names):
        return list(names), []
    taken = [_around(mark) for mark in marks]
    short = [str(key.index(mark.name) + 1) if mark.in_key else mark.name for mark in marks]
    labels = [
        _near(mark, text, taken, frame) or _far(mark, text, taken, frame)
        for mark, text in zip(marks, short, strict=True)
    ]
    return labels, key


def _around(mark: Named) -> _Box:
    return mark.x - _MARK, mark.y - _MARK, mark.x + _MARK, mark.y + _MARK


def _near(mark: Named, text: str, taken: list[_Box], frame: Frame) -> Label | None:
    """The label at the first place beside its mark that is free, which it then takes."""
    for across, down, anchor in _PLACES:
        x, y = mark.x + across * frame.line, mark.y + down * frame.line
        if _takes(x, y, anchor, text, taken, frame):
            return Label(round(x), round(y + frame.line / 4), anchor, text)
    return None


def _far(mark: Named, text: str, taken: list[_Box], frame: Frame) -> Label | None:
    """The label at the nearest free place around its mark, which it then takes."""
    for x, y in _rings(mark, frame):
        if _takes(x, y, "middle", text, taken, frame):
            return Label(round(x), round(y + frame.line / 4), "middle", text, True)
    return None


def _rings(mark: Named, frame: Frame) -> Iterator[tuple[float, float]]:
    radius, most = 1.6 * frame.line, math.hypot(frame.right - frame.left, frame.bottom - frame.top)
    while radius < most:
        for direction in range(_DIRECTIONS):
            angle = 2 * math.pi * direction / _DIRECTIONS
            yield mark.x + radius * math.cos(angle), mark.y + radius * math.sin(angle)
        radius += _STEP * frame.line


def _takes(x: float, y: float, anchor: str, text: str, taken: list[_Box], frame: Frame) -> bool:
    """Whether a text fits there and covers nothing. Then it is taken."""
    width = len(text) * frame.letter
    left = x - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
    box = left - _GAP, y - frame.line / 2, left + width + _GAP, y + frame.line / 2
    inside = left >= frame.left and left + width <= frame.right
    inside = inside and box[1] >= frame.top and box[3] <= frame.bottom
    free = inside and not any(_meet(box, other) for other in taken)
    if free:
        taken.append(box)
    return free


def _meet(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
