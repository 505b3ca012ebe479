"""Intervals and error probabilities of differences against published and hand-computed values."""

from __future__ import annotations

import math

import pytest

from kdbench.report.noise import difference, holm, over_seeds, paired, rate, with_interval


@pytest.mark.parametrize(
    ("more", "less", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10
        ((56, 70), (48, 80), 5.24, 33.39),
        ((9, 10), (3, 10), 17.05, 80.90),
        ((6, 7), (2, 7), 5.82, 80.62),
        ((5, 56), (0, 29), -3.81, 19.26),
        ((0, 10), (0, 20), -16.11, 27.75),
        ((0, 10), (0, 10), -27.75, 27.75),
        ((10, 10), (0, 20), 67.91, 100.00),
    ],
)
def test_newcombes_own_examples(more, less, low, high):
    up, down = difference(rate(*less), rate(*more)), difference(rate(*more), rate(*less))
    assert (up.low, up.high) == pytest.approx((low, high), abs=0.005)
    assert (down.low, down.high, down.value) == pytest.approx((-high, -low, -up.value), abs=0.005)
    assert down.p == pytest.approx(up.p)
    # the error probability and the interval are one statement
    assert (up.p <= 0.05) == (up.low > 0)


def test_p_is_where_the_interval_reaches_zero():
    # of estimates with symmetric intervals the method is the z test: 10 +- 3 against 20 +- 4 is 10
    # / 5 intervals away
    found = difference(with_interval(10, 7, 13), with_interval(20, 16, 24))
    assert (found.value, found.low, found.high) == pytest.approx((10, 5, 15))
    assert found.p == pytest.approx(math.erfc(2 * 1.959964 / math.sqrt(2)), rel=1e-4)  # 8.86e-5
    assert difference(with_interval(1, 1, 1), with_interval(2, 2, 2)).p == 0
    assert difference(with_interval(1, 1, 1), with_interval(1, 1, 1)).p == 1
    touching = difference(with_interval(0, -3, 3), with_interval(5, 1, 9))
    assert (touching.low, touching.p) == pytest.approx((0, 0.05))


def test_paired_t_by_hand():
    # 1, 2, 3, 6: mean 3, s^2 = (4 + 1 + 0 + 9) / 3, s / 2 = 1.0801235, t(0.975, 3) = 3.1824463,
    # half 3.4374352
    found = paired([1.0, 2.0, 3.0, 6.0])
    assert (found.value, found.low, found.high) == pytest.approx(
        (3, 3 - 3.4374352, 3 + 3.4374352), abs=1e-6
    )
    # two differences have one degree of freedom, a Cauchy: 1 and 3 give t = 2 / 1, p = 1 - 2
    # atan(2) / pi
    assert paired([1.0, 3.0]).p == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    for none in ([], [1.0], [2.0, 2.0]):
        with pytest.raises(ValueError, match="vary"):
            paired(none)


def test_over_seeds_needs_two():
    with pytest.raises(ValueError, match="at least two"):
        over_seeds([(rate(1, 10), rate(9, 10))])


def test_over_seeds_is_paired_or_of_the_least_certain_seed():
    # 2, 3, 4 points: 3 +- 4.302653 / sqrt(3)
    pairs = [(rate(n, 100), rate(n + m, 100)) for n, m in ((10, 2), (30, 3), (50, 4))]
    found = over_seeds(pairs)
    assert (found.value, found.low, found.high) == pytest.approx(
        (3, 3 - 2.484138, 3 + 2.484138), abs=1e-5
    )
    steady = [(rate(n, 100), rate(n + 2, 100)) for n in (0, 48)]
    assert over_seeds(steady) == difference(*steady[1])


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04: times 4, 3, 2, 1 = 0.04 0.06 0.06 0.04, and never falling: 0.04
    # 0.06 0.06 0.06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
