"""Wilson's interval of a rate, for the measurements and for the report."""

from __future__ import annotations

import math

#: Standard errors on each side of a 95 % interval.
Z95 = 1.959963984540054
#: Points above the share of the largest class. Below it a network is near chance.
NEAR_CHANCE = 10.0


def wilson(hits: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Both ends of Wilson's interval for ``hits`` out of ``total``, %.

    Args:
        z: the half-width in standard errors.
    """
    # The order of these operations is scipy's. Another one gives other last digits.
    p, zz = hits / total, z * z
    denominator = 2 * (total + zz)
    middle = (2 * total * p + zz) / denominator
    half = z / denominator * math.sqrt(4 * total * p * (1 - p) + zz)
    # The ends of no hit and of all hits are exact. Rounding must not put them on the wrong side of
    # the rate.
    low = 0.0 if hits == 0 else middle - half
    high = 1.0 if hits == total else middle + half
    return 100.0 * low, 100.0 * high


def is_near_chance(hits: int, chance: int, total: int) -> bool:
    """Whether a network is hardly better than one that always says the same class.

    Args:
        hits: images that it gets right.
        chance: images of the largest class.
        total: all images.
    """
    return 100 * (hits - chance) < NEAR_CHANCE * total
