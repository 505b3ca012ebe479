"""How long a run will still take."""

from __future__ import annotations

import pytest

from kdbench.bench.kinds import Kind
from kdbench.cli.remaining import Expected, left_in_words, time_left


def test_what_is_left_is_said_before_the_first_step():
    assert Expected({1: 30.0, 2: 60.0}).words() == "about 90 s left"
    assert Expected({1: 30.0, 2: None}).words() == "over 30 s left"
    assert Expected({1: None}).words() == ""
    assert Expected().words() == ""


def test_stages_side_by_side_take_as_long_as_the_longest_at_least():
    assert Expected({1: 40.0, 2: 40.0}, pace=2).words() == "about 40 s left"
    assert Expected({1: 60.0, 2: 20.0}, pace=2).words() == "about 60 s left"


def test_what_stages_took_mends_what_the_others_will_take():
    expected = Expected({1: 10.0, 2: 10.0, 3: 10.0})
    expected.end(1, 20.0)
    assert expected.words() == "about 40 s left"
    expected.end(2)  # a failure says nothing of the machine
    assert expected.words() == "about 20 s left"
    expected.end(3, 20.0)
    assert expected.words() == ""
    wild = Expected({1: 10.0, 2: 10.0})
    wild.end(1, 1000.0)
    assert wild.words() == "about 40 s left"


def test_a_stage_of_seconds_says_little_of_the_machine():
    expected = Expected({1: 1.0, 2: 10.0})
    expected.end(1, 3.0)
    assert expected.words() == "about 10 s left"


def test_steps_are_believed_where_a_stage_trains_once():
    expected = Expected({1: 100.0, 2: 100.0})
    assert expected.of_stage(1, Kind.DISTILL, 10.0, 30.0) == 30.0
    # An attack may search a trigger first, and train then.
    assert expected.of_stage(2, Kind.BACKDOOR, 10.0, 0.5) == 90.0
    assert expected.of_stage(2, Kind.BACKDOOR, 200.0, 7.0) == 7.0
    assert expected.of_stage(9, Kind.CLEANSE, 10.0, None) is None
    assert expected.words({1: 30.0}) == "about 2 min 10 s left"


def test_steps_that_are_left():
    assert time_left(10.0, 5, 20) == 30.0
    assert time_left(10.0, 0, 20) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "1 s"), (6.7, "7 s"), (119.4, "119 s"), (125.0, "2 min 05 s"), (7500, "2 h 05 min")],
)
def test_the_time_left_in_words(seconds, words):
    assert left_in_words(seconds) == f"about {words} left"
