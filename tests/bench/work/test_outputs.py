"""Which classes the outputs of a network stand for, counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdbench.bench.kinds import Kind
from kdbench.bench.work.outputs import best_assignment, best_by_chance, confusion
from kdbench.bench.work.report import NonsenseError, check_facts

OUTPUTS = {"largest": 2, "best": 4, "by_chance": 3, "assigned": [1, 0], "orders": {"text": 4}}


def test_the_best_assignment_names_the_output_of_each_class():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    predicted = torch.tensor([2, 2, 0, 0, 1, 0])
    pairs = confusion(predicted, labels, 3)
    assert pairs.tolist() == [[0, 0, 2], [2, 0, 0], [1, 1, 0]]
    assert best_assignment(pairs) == ([2, 0, 1], 5)


def test_what_chance_makes_of_few_images_is_known():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 10
    predicted = torch.randint(10, (40,), generator=draw)
    best = best_assignment(confusion(predicted, labels, 10))[1]
    assert best > 8, "the best of so many assignments is far over a tenth"
    assert abs(best_by_chance(predicted, labels, 10) - best) <= 4
    assert best_by_chance(labels, labels, 10) < 25


def test_a_measurement_may_say_it_and_no_more_than_there_are():
    check_facts(Kind.EVALUATE, {"model"}, {"acc": [2, 4], "outputs": OUTPUTS})
    check_facts(Kind.EVALUATE, {"model"}, {"acc": [2, 4], "outputs": {}})
    for wrong in (
        {"best": 5},
        {"orders": {"text": 5}},
        {"normalizations": {"raw": 1}},
        {"normalizations": {"raw": 3}, "sample": [1, 2]},
        {"sample": [3, 2]},
        {"sample": [0, 0]},
        {"sample": [1, 5]},
        {"largest": -1},
        {"largest": 1.5},
        {"more": 1},
        {"orders": [1]},
    ):
        with pytest.raises(NonsenseError):
            check_facts(Kind.EVALUATE, {"model"}, {"acc": [2, 4], "outputs": OUTPUTS | wrong})


def test_a_thousand_classes_are_no_burden():
    labels = torch.arange(2000) % 1000
    pairs = confusion((labels + 1) % 1000, labels, 1000)
    assigned, best = best_assignment(pairs)
    assert best == 2000
    assert assigned == [*np.roll(np.arange(1000), -1)]
