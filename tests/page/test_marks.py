"""No outcome is told by colour alone."""

from __future__ import annotations

from kdbench.page.marks import MARKS, outcome, outcomes
from kdbench.report.words import VERDICTS
from tests.page import runs
from tests.report.report_rows import cell


def test_every_verdict_has_a_mark_and_no_two_are_alike():
    assert set(VERDICTS) <= set(MARKS)
    for part in ("word", "style", "about"):
        assert len({getattr(mark, part) for mark in MARKS.values()}) == len(MARKS)


def test_the_outcome_of_a_cell():
    names = [name for name in MARKS if name != "undefended"]
    assert [outcome(runs.outcome(name, defense="nad")) for name in names] == names
    assert outcome(cell(defense="none", student_asr=720)) == "undefended"
    assert outcome(runs.outcome("inconclusive", defense="none")) == "inconclusive"
    assert outcome(runs.outcome("out of memory")) == "failed"


def test_outcomes_are_counted_in_the_order_of_the_legend():
    names = ("failed", "stopped", "partly", "stopped")
    rows = [runs.outcome(name, defense="nad") for name in names]
    assert list(outcomes(rows).items()) == [("stopped", 2), ("partly", 1), ("failed", 1)]
