"""The anomaly index against hand-computed numbers."""

import pytest
import torch

from kdbench.outliers import anomaly_index, flagged


@pytest.mark.parametrize(
    ("numbers", "at", "expected"),
    [
        ((1, 1.1, 0.9, 1, 5), 4, 26.9796),
        ((40, 41, 42, 43, 44, 45, 46, 47, 48, 8), 9, -9.578),
        ((10, 20, 30, 40, 50, 60, 70, 80, 90, 5), 9, -1.079),
        ((1, 1, 1, 1, 1), 2, 0),
        ((1, 1, 1, 5), 3, 0),
        ((7,), 0, 0),
    ],
)
def test_the_index_by_hand(numbers, at, expected):
    index = anomaly_index(torch.tensor(numbers, dtype=torch.float32))
    assert torch.isfinite(index).all()
    assert index.shape == (len(numbers),)
    assert index[at].item() == pytest.approx(expected, abs=1e-3)


def test_the_index_has_no_unit_and_no_origin():
    x = torch.tensor([1, 1.1, 0.9, 1, 5])
    torch.testing.assert_close(anomaly_index(30 * x - 7), anomaly_index(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(anomaly_index(-x), -anomaly_index(x))


def test_the_largest_are_flagged():
    index = torch.tensor([0.0, 4.0, -9.0, 6.0, 5.0, 3.5])
    assert flagged(index, 3.5, 2) == [3, 4]
    assert flagged(index, 3.5, 9) == [3, 4, 1]
    assert flagged(index, 3.5, 0) == []
    assert flagged(index, 6.0, 2) == []


def test_a_clean_network_passes_a_limit_by_chance():
    """The smallest of ten normal numbers is under -2 in a third of all cases."""
    draws = torch.randn(2000, 10, generator=torch.Generator().manual_seed(0))
    share = sum(bool(anomaly_index(x).min() < -2) for x in draws) / len(draws)
    assert share == pytest.approx(0.33, abs=0.04)
