"""The columns of what a defense found."""

from __future__ import annotations

import pytest

from kdbench.report.flagged import flagged_text, target_flagged


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ([], None),
        ([{}, {"loss": 1.0}], None),
        ([{"flagged": []}], "none"),
        ([{"flagged": [7, 0]}, {}, {"flagged": [10, 7]}], "0 7 10"),
    ],
)
def test_the_classes_of_all_stages_are_named_once(facts, text):
    assert flagged_text(facts) == text


@pytest.mark.parametrize(
    ("flagged", "target", "answer"),
    [(None, 0, None), ("0 7", None, None), ("none", 0, "no"), ("0 7", 7, "yes"), ("17", 7, "no")],
)
def test_whether_the_target_is_among_them(flagged, target, answer):
    assert target_flagged(flagged, target) == answer
