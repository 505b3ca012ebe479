"""What the 64 classes of the ``signs`` dataset look like: styles (outline and colours) and glyphs.

Everything is given in sign coordinates: the sign fills about [-1, 1]^2, x to the right, y down.
Classes are ordered
so that any first K share few styles: the glyph, not the colour, has to be recognised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Stroke = tuple[float, float, float, float]

RED, WHITE, BLUE, YELLOW = (
    (0.80, 0.10, 0.12),
    (0.93, 0.93, 0.92),
    (0.10, 0.25, 0.70),
    (0.95, 0.78, 0.12),
)
BLACK, GREEN, ORANGE = (0.08, 0.08, 0.09), (0.08, 0.50, 0.25), (0.93, 0.48, 0.10)

STROKE = 0.135
"""Half the width of a glyph stroke."""


@dataclass(frozen=True)
class Style:
    """Outline and colours. normals: turn of each polygon side in degrees, () for a circle; inner:
    the face's radius.

    centre, zoom: where the glyph sits and how large it is drawn (a triangle leaves it less room).
    """

    name: str
    normals: tuple[float, ...]
    radius: float
    inner: float
    rim: tuple[float, float, float]
    face: tuple[float, float, float]
    ink: tuple[float, float, float]
    centre: float = 0.0
    zoom: float = 1.0


STYLES = (
    Style("red-circle", (), 1.0, 0.76, RED, WHITE, BLACK),
    Style("red-triangle", (90, 210, 330), 0.58, 0.40, RED, WHITE, BLACK, 0.08, 0.78),
    Style("blue-circle", (), 1.0, 0.90, WHITE, BLUE, WHITE),
    Style("yellow-diamond", (45, 135, 225, 315), 0.76, 0.62, BLACK, YELLOW, BLACK),
    Style("red-octagon", tuple(range(0, 360, 45)), 0.95, 0.84, WHITE, RED, WHITE),
    Style("blue-square", (0, 90, 180, 270), 0.86, 0.76, WHITE, BLUE, WHITE),
    Style("yield-triangle", (30, 150, 270), 0.58, 0.40, RED, YELLOW, BLACK, -0.08, 0.78),
    Style("green-square", (0, 90, 180, 270), 0.86, 0.70, ORANGE, GREEN, WHITE),
)

# Seven segments of a digit: top, upper left and right, middle, lower left and right, bottom.
_X, _Y = 0.27, 0.46
_SEGMENTS: tuple[Stroke, ...] = (
    (-_X, -_Y, _X, -_Y),
    (-_X, -_Y, -_X, 0),
    (_X, -_Y, _X, 0),
    (-_X, 0, _X, 0),
    (-_X, 0, -_X, _Y),
    (_X, 0, _X, _Y),
    (-_X, _Y, _X, _Y),
)


def _digit(lit: str) -> tuple[Stroke, ...]:
    return tuple(segment for segment, on in zip(_SEGMENTS, lit, strict=True) if on == "1")


# A stroke of length zero is a dot.
GLYPHS: dict[str, tuple[Stroke, ...]] = {
    "bar": ((-0.5, 0, 0.5, 0),),
    "arrow-up": ((0, 0.5, 0, -0.5), (0, -0.5, -0.36, -0.1), (0, -0.5, 0.36, -0.1)),
    "x": ((-0.4, -0.4, 0.4, 0.4), (-0.4, 0.4, 0.4, -0.4)),
    "seven": _digit("1010010"),
    "post": ((0, -0.5, 0, 0.5),),
    "arrow-left": ((0.5, 0, -0.5, 0), (-0.5, 0, -0.1, -0.36), (-0.5, 0, -0.1, 0.36)),
    "two-dots": ((-0.36, 0, -0.36, 0.001), (0.36, 0, 0.36, 0.001)),
    "zero": _digit("1110111"),
    "plus": ((-0.48, 0, 0.48, 0), (0, -0.48, 0, 0.48)),
    "arrow-right": ((-0.5, 0, 0.5, 0), (0.5, 0, 0.1, -0.36), (0.5, 0, 0.1, 0.36)),
    "chevron-down": ((-0.42, -0.22, 0, 0.28), (0.42, -0.22, 0, 0.28)),
    "four": _digit("0111010"),
    "dot": ((0, 0, 0.001, 0),),
    "tee": ((-0.46, -0.42, 0.46, -0.42), (0, -0.42, 0, 0.5)),
    "two": _digit("1011101"),
    "rails": ((-0.28, -0.48, -0.28, 0.48), (0.28, -0.48, 0.28, 0.48)),
    "slash": ((-0.4, 0.4, 0.4, -0.4),),
    "five": _digit("1101011"),
    "three-dots": ((-0.36, 0.26, -0.36, 0.261), (0.36, 0.26, 0.36, 0.261), (0, -0.36, 0, -0.361)),
    "ell": ((-0.3, -0.48, -0.3, 0.44), (-0.3, 0.44, 0.36, 0.44)),
}


def _classes() -> tuple[tuple[Style, str], ...]:
    # Each run of ten classes uses three styles (4 + 3 + 3); a style takes the next unused glyph
    # each time.
    names = list(GLYPHS)
    used = [0] * len(STYLES)
    table = []
    for k in range(64):
        group, place = divmod(k, 10)
        style = (3 * group + (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)[place]) % len(STYLES)
        # Styles start at different glyphs, so that most glyphs occur on several styles.
        table.append((STYLES[style], names[(used[style] + 2 * style) % len(names)]))
        used[style] += 1
    return tuple(table)


CLASSES = _classes()
"""(style, glyph name) of each of the 64 classes; all pairs differ."""


def outline(style: Style, x: Array, y: Array) -> Array:
    """Distance measure of the style's outline about the origin, so that ``outline - radius`` is
    signed distance."""
    if not style.normals:
        return np.sqrt(x * x + y * y)
    sides = [x * math.cos(math.radians(a)) + y * math.sin(math.radians(a)) for a in style.normals]
    furthest: Array = np.maximum.reduce(sides)
    return furthest


def stroke_distance(stroke: Stroke, x: Array, y: Array) -> Array:
    """Distance of each point from a line segment."""
    x0, y0, x1, y1 = stroke
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    ax, ay = x - x0 - along * dx, y - y0 - along * dy
    return np.sqrt(ax * ax + ay * ay)


def glyph_distance(name: str, x: Array, y: Array) -> Array:
    """Signed distance from a glyph; dots are drawn fatter than lines."""
    parts = []
    for stroke in GLYPHS[name]:
        is_dot = abs(stroke[0] - stroke[2]) + abs(stroke[1] - stroke[3]) < 0.01
        parts.append(stroke_distance(stroke, x, y) - STROKE * (1.6 if is_dot else 1.0))
    nearest: Array = np.minimum.reduce(parts)
    return nearest
