"""What a defense reports becomes facts of its stage, or is refused."""

from __future__ import annotations

import pytest

from kdbench.bench.kinds import Kind
from kdbench.bench.work.findings import finding_facts
from kdbench.bench.work.report import NonsenseError, check_facts
from kdbench.defense import Finding
from kdbench.errors import ContractError


def test_nothing_was_reported():
    assert finding_facts([], 3) == {}


def test_several_findings_of_a_stage():
    facts = finding_facts([Finding((2,), 3.5, (0.0, 1.0, 3.5)), Finding((2, 0), 1.0)], 3)
    assert facts == {
        "flagged": [0, 2],
        "findings": [{"score": 3.5, "per_class": [0.0, 1.0, 3.5]}, {"score": 1.0, "per_class": []}],
    }
    check_facts(Kind.CLEANSE, (), facts)


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        ("class 2", "report takes a Finding"),
        (Finding((3,), 1.0), "whole numbers from 0 to 2"),
        (Finding((True,), 1.0), "whole numbers"),
        (Finding((), float("nan")), "finite numbers"),
        (Finding((), 1.0, (1.0,)), "1 scores for 3 classes"),
    ],
)
def test_what_is_no_finding(finding, words):
    with pytest.raises(ContractError, match=words):
        finding_facts([finding], 3)


@pytest.mark.parametrize("flagged", ["0", [-1], ["a"], [0.5]])
def test_a_job_cannot_state_others(flagged):
    with pytest.raises(NonsenseError):
        check_facts(Kind.REPAIR, (), {"flagged": flagged})
