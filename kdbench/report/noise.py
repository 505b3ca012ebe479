"""Whether two measured percentages differ by more than chance: intervals of a difference, their
error probabilities, and Holm's correction.

One formula serves every estimate that has an interval (Zou & Donner 2008). For two rates with
Wilson's intervals it is Newcombe's method 10 (1998). With l and u the ends of the two intervals,
the interval of the difference d = b - a reaches from

    d - sqrt((b - l_b)^2 + (u_a - a)^2)    to    d + sqrt((u_b - b)^2 + (a - l_a)^2)

The formula takes the two as independent. Two runs share their test images, so their errors go
together, and the interval is rather too wide.

Over seeds the difference is taken seed by seed, with Student's paired interval. Equal seeds mean
equal first weights and batches. Where the differences do not vary there is no such interval. Then
the formula above decides, for the least certain seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy import stats

from kdbench._intervals import Z95, wilson

#: Up to this error probability a difference counts as one.
LEVEL = 0.05
#: Steps of bisection: more than a float has digits.
_STEPS = 60
#: Points. Rounding in the files makes equal differences differ by less than this.
_SPREAD = 1e-3


@dataclass(frozen=True)
class Estimate:
    """A measured number with its intervals."""

    value: float
    #: The interval with a half-width of z standard errors. It widens as z grows.
    bounds: Callable[[float], tuple[float, float]]


@dataclass(frozen=True)
class Difference:
    """b - a with its uncertainty."""

    value: float
    #: The lower end of its 95 % interval.
    low: float
    #: The upper end.
    high: float
    #: The smallest two-sided error probability at which the interval leaves 0 out.
    p: float


def rate(hits: int, total: int) -> Estimate:
    """A count out of a total, in percent."""
    return Estimate(100 * hits / total, lambda z: wilson(hits, total, z))


def with_interval(value: float, low: float, high: float) -> Estimate:
    """An estimate of which only the 95 % interval is known. The distances to its ends are assumed
    to grow with z."""
    return Estimate(
        value, lambda z: (value - (value - low) * z / Z95, value + (high - value) * z / Z95)
    )


def difference(a: Estimate, b: Estimate) -> Difference:
    """b - a of two independent estimates."""
    d = b.value - a.value
    low, high = _interval(a, b, Z95)
    return Difference(d, low, high, _p(a, b))


def _interval(a: Estimate, b: Estimate, z: float) -> tuple[float, float]:
    d = b.value - a.value
    (low_a, high_a), (low_b, high_b) = a.bounds(z), b.bounds(z)
    return d - math.hypot(b.value - low_b, high_a - a.value), d + math.hypot(
        high_b - b.value, a.value - low_a
    )


def _p(a: Estimate, b: Estimate) -> float:
    """The two-sided normal tail beyond the z at which the interval reaches 0."""
    if a.value == b.value:
        return 1.0

    def leaves_out(z: float) -> bool:
        low, high = _interval(a, b, z)
        return low > 0 or high < 0

    out, within = 0.0, 40.0  # beyond 40 the tail is 0 in floating point
    if leaves_out(within):
        return 0.0
    for _ in range(_STEPS):
        middle = (out + within) / 2
        out, within = (middle, within) if leaves_out(middle) else (out, middle)
    return math.erfc(out / math.sqrt(2))


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) with Student's 95 % interval, not clipped to 0-100. NaN where there are too
    few values."""
    n = len(values)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan, math.nan
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = _t975(n - 1) * spread / math.sqrt(n)
    return mean, mean - half, mean + half


@lru_cache
def _t975(freedom: int) -> float:
    """Student's 97.5 % quantile. Kept, since scipy takes longer for it than for all the rest of an
    interval."""
    return float(stats.t.ppf(0.975, freedom))


def paired(differences: Sequence[float]) -> Difference:
    """The mean of at least two differences b - a, seed by seed, with Student's paired interval.

    Raises:
        ValueError: they do not vary, so there is no such interval.
    """
    mean, low, high = t_interval(differences)
    half = (high - low) / 2
    if not half > 0:
        raise ValueError("a t interval needs at least two differences that vary")
    freedom = len(differences) - 1
    t = abs(mean) / half * _t975(freedom)
    return Difference(mean, low, high, 2 * float(stats.t.sf(t, freedom)))


def over_seeds(pairs: Sequence[tuple[Estimate, Estimate]]) -> Difference:
    """The mean difference b - a of at least two pairs (a, b), one per seed, with Student's paired
    interval.

    Where the differences do not vary there is no such interval. Then it is the difference at the
    least certain seed.

    Raises:
        ValueError: fewer than two pairs.
    """
    if len(pairs) < 2:
        raise ValueError("a difference over seeds needs at least two of them")
    differences = [b.value - a.value for a, b in pairs]
    if max(differences) - min(differences) > _SPREAD:
        return paired(differences)
    return max((difference(a, b) for a, b in pairs), key=lambda each: each.p)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted error probabilities, in the order of ``ps``. Those up to 0.05 hold
    together at 5 %, however they depend on each other."""
    adjusted, largest = [1.0] * len(ps), 0.0
    for done, place in enumerate(sorted(range(len(ps)), key=lambda n: ps[n])):
        largest = max(largest, min(1.0, (len(ps) - done) * ps[place]))
        adjusted[place] = largest
    return adjusted
