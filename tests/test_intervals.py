"""Wilson's interval against scipy's, bit for bit: results that are published have these digits."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from kdbench._intervals import wilson


@pytest.mark.parametrize("total", [1, 2, 7, 29, 900, 12345, 50000])
def test_wilson_has_scipys_digits(total):
    for hits in {0, 1, total // 3, total // 2, total - 1, total}:
        interval = binomtest(hits, total).proportion_ci(0.95, method="wilson")
        assert wilson(hits, total) == (100.0 * interval.low, 100.0 * interval.high)


def test_wilson_widens_with_z():
    assert wilson(3, 10, 1.0) == pytest.approx((17.8821, 45.7543), abs=1e-4)
