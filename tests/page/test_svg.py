"""Scales and ticks, by hand-computed values."""

from __future__ import annotations

import pytest

from kdbench.page.svg import SHAPES, Scale, fitted, ticks


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.0, 100.0], (0, 100)),
        # Ten points are an axis of their own.
        ([82.0, 90.5], (82, 92)),
        # One value gets five points, and none of them lies beyond 100.
        ([99.9], (95, 100)),
        ([0.0], (0, 5)),
        ([50.0, 50.1], (47, 53)),
        ([], (0, 100)),
    ],
)
def test_an_axis_is_fitted_to_its_values(values, ends):
    low, high = fitted(values)
    assert (low, high) == pytest.approx(ends)
    assert all(low <= value <= high for value in values)
    assert high - low >= 5


def test_ticks_are_round():
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(94, 100) == [94, 96, 98, 100]
    assert ticks(82, 92) == [82, 84, 86, 88, 90, 92]


def test_a_scale_keeps_what_is_beyond_at_its_end():
    scale = Scale(0, 100, 10, 210)
    assert [scale.at(value) for value in (0, 50, 100, -5, 130)] == [10, 110, 210, 10, 210]


def test_no_two_shapes_are_alike():
    assert len({outline for _, outline in SHAPES}) == len(SHAPES) == 8
