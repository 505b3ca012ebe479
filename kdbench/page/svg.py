"""Scales, ticks and shapes of drawings. Lengths are pixels of the drawing's own frame."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: Points that an axis shows at least. Less would make noise look like a difference.
LEAST_RANGE = 5.0
#: The steps between two ticks, as multiples of a power of ten.
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
#: Outlines around (0, 0), for marks that are told apart without colour.
SHAPES = (
    ("circle", "M-5.5,0a5.5,5.5 0 1,0 11,0a5.5,5.5 0 1,0 -11,0z"),
    ("square", "M-5,-5h10v10h-10z"),
    ("triangle", "M0,-6.3L6,4.7H-6z"),
    ("diamond", "M0,-7L6.5,0L0,7L-6.5,0z"),
    ("triangle down", "M0,6.3L6,-4.7H-6z"),
    ("hexagon", "M-6,0L-3,-5.2H3L6,0L3,5.2H-3z"),
    ("plus", "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z"),
    ("hourglass", "M-5.5,-5.5H5.5L1.5,0L5.5,5.5H-5.5L-1.5,0z"),
)


@dataclass(frozen=True)
class Scale:
    """From numbers to pixels."""

    low: float
    high: float
    start: float
    """Where ``low`` is."""
    end: float

    def at(self, value: float) -> float:
        """The place of a number. One beyond the ends is put at the end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def value(self, place: float) -> float:
        """The number at a place, which may lie beyond the ends."""
        share = (place - self.start) / (self.end - self.start)
        return self.low + share * (self.high - self.low)


def fitted(values: Iterable[float], least: float = LEAST_RANGE) -> tuple[float, float]:
    """Both ends of an axis in percent that has all the values, on ticks."""
    known = list(values)
    low, high = (min(known), max(known)) if known else (0.0, 100.0)
    missing = max(0.0, least - (high - low)) / 2
    low, high = low - missing, high + missing
    # Never beyond 0 and 100, where there is nothing.
    moved = max(0.0, -low) - max(0.0, high - 100)
    low, high = max(0.0, low + moved), min(100.0, high + moved)
    step = _step(low, high, 5)
    return max(0.0, math.floor(low / step) * step), min(100.0, math.ceil(high / step) * step)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from one end of an axis to the other."""
    step = _step(low, high, most - 1)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 6) for number in range(first, last + 1)]


def _step(low: float, high: float, most: int) -> float:
    """The smallest round step of which at most ``most`` fit."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if step * power >= rough * (1 - 1e-9))
