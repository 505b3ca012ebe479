"""Stratified shares: fair to every class, and the same rows as ever."""

from __future__ import annotations

import pytest
import torch

from kdbench.attack import choose_poison
from kdbench.data.fraction import (
    MOST_HELD_OUT,
    drawn_share,
    held_out_images,
    held_out_rows,
    others_images,
    provider_images,
    rows_of_each_class,
    stratified_rows,
)
from kdbench.data.tensor import TensorImages
from kdbench.repair import held_out

LABELS = torch.tensor([0, 1, 2, 1, 0, 1, 0, 2, 1, 0, 1, 0, 0, 1, 2, 0, 1, 2, 0, 1])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def numbered():
    """Images of one pixel that hold their row's number."""
    pixels = torch.arange(len(LABELS)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    return TensorImages(pixels.contiguous(), LABELS)


def rows_in(images):
    return images.pixels[:, 0, 0, 0].tolist()


def test_stratified_rows():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    rows = stratified_rows(labels, 20, seeded(0))
    assert labels[rows].bincount().tolist() == [12, 6, 2]
    assert len(rows.unique()) == 20
    assert torch.equal(rows, stratified_rows(labels, 20, seeded(0)))
    assert not torch.equal(rows, stratified_rows(labels, 20, seeded(1)))


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.7, 1.0])
def test_the_others_are_those_that_the_deployer_does_not_have(fraction):
    deployer = rows_in(drawn_share(numbered(), fraction, 3))
    assert sorted(deployer + rows_in(others_images(numbered(), fraction, 3))) == list(range(20))


def test_rows_of_each_class():
    labels = torch.tensor([2] * 10 + [0] * 4 + [1])
    rows = rows_of_each_class(labels, lambda size: size // 2, seeded(0))
    assert labels[rows].bincount(minlength=3).tolist() == [2, 0, 5]
    assert rows.tolist() == sorted(set(rows.tolist()))


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [
        (lambda: choose_poison(LABELS, 0.25, 0, seeded(3)).tolist(), [2, 10, 16, 17, 19]),
        (lambda: stratified_rows(LABELS, 7, seeded(3)).tolist(), [1, 3, 5, 6, 7, 9, 12]),
        (lambda: rows_in(drawn_share(numbered(), 0.3, 3)), [2, 6, 11, 13, 14, 16]),
        (lambda: held_out_rows(LABELS, 3).tolist(), [6, 13, 14]),
        (lambda: rows_in(held_out(numbered(), 0.3, seeded(3))[1]), [6, 11, 13, 14, 16]),
    ],
)
def test_the_rows_of_a_seed_are_the_recorded_ones(chosen, rows):
    """Other rows would change every number ever published."""
    assert chosen() == rows


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([60, 30, 10], [6, 3, 1]),
        ([9, 2, 19], [1, 1, 1]),
        ([1, 2, 1], [0, 1, 0]),
        ([1, 1], [0, 0]),
        ([9000, 6000, 5], [599, 399, 1]),
    ],
)
def test_a_tenth_of_each_class_is_held_out(sizes, expected):
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    rows = held_out_rows(labels, 5)
    counts = labels[rows].bincount(minlength=len(sizes)).tolist()
    assert counts == expected
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert torch.equal(rows, held_out_rows(labels, 5))


def test_of_thousands_of_classes_not_each_has_a_held_out_image():
    rows = held_out_rows(torch.arange(3000) % 1500, 0)
    assert len(rows) == len(rows.unique()) == MOST_HELD_OUT


def test_what_is_held_out_and_what_the_provider_has_are_the_whole_set():
    images = TensorImages(numbered().pixels, LABELS)
    apart = rows_in(held_out_images(images, 4)), rows_in(provider_images(images, 4))
    assert sorted([*apart[0], *apart[1]]) == list(range(len(LABELS)))
    assert rows_in(held_out_images(images, 5)) != apart[0]
