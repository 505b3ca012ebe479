"""One row from its measurements: which reason it has, and whether the next run tries again."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from kdbench.bench.plan.plan import Cell
from kdbench.bench.run.rows import row
from kdbench.bench.work.job import Outcome, Status
from kdbench.metrics import Evaluation, Rate
from kdbench.report.columns import COLUMNS
from kdbench.report.read import CELL, read_results
from kdbench.report.settings import DIGESTS
from kdbench.report.tables import write_results
from kdbench.report.words import REASON_CODES, STATUSES
from tests.report.report_rows import cell

#: What a measurement does not hold.
STATED = (*CELL, *DIGESTS, "setting_digest", "config_digest", "dataset_digest")
ROLES = ("clean", "teacher", "student", "c1", "c2", "c3")
BOOM = Outcome("crashed", "distill wrn10_1: boom")


def evaluation(asr, acc=90):
    hits = np.arange(100) < asr
    rates = {"asr": Rate(asr, 100), "acc": Rate(acc, 100), "ra": Rate(5, 100), "base": Rate(1, 100)}
    variance = {"clean": [1.0, 3.0], "triggered": [2.0]}
    return Evaluation(**rates, asr_hits=hits).as_facts() | {"variance": variance}


CHECKED = {"clean_check": {"acc": [39, 40]}, "teacher_check": {"acc": [30, 40]}}


def made(controls=True, **measured):
    """The row of a cell with these measurements in the place of good ones, and whether it is
    final."""
    asr = dict(zip(ROLES, (1, 99, 10, 2, 3, 80), strict=True))
    known = CHECKED | {role: evaluation(hits) for role, hits in asr.items()} | measured
    if not controls:
        known = {role: known[role] for role in ("clean_check", "teacher", "student")}
    keys = dict.fromkeys(known, "key")
    return row(Cell({"attack": "lba"}, "key", 0, keys, keys, controls), known, {}, {})


@pytest.mark.parametrize(
    ("measured", "code", "verdict", "final"),
    [
        ({}, "judged", "partly", True),
        ({"student": evaluation(3)}, "judged", "stopped", True),
        ({"c3": evaluation(20)}, "few_transferred", "inconclusive", True),
        ({"c2": BOOM}, "c2_failed", "partly", False),
        ({"c3": evaluation(20), "c2": BOOM}, "c2_failed", "inconclusive", False),
        ({"c1": BOOM}, "control_failed", None, False),
        ({"c3": BOOM, "c2": BOOM}, "control_failed", None, False),
        ({"controls": False}, "controls_skipped", None, True),
        ({"student": BOOM}, "stage_failed", None, False),
        ({"teacher_check": BOOM}, "stage_failed", None, False),
        ({"teacher": BOOM, "c1": BOOM}, "stage_failed", None, False),
        (
            {"controls": False, "student": {"acc": [7, 9]}, "teacher": {"acc": [8, 9]}},
            "imported_teacher",
            None,
            True,
        ),
    ],
)
def test_a_reason_is_one_of_a_closed_set(measured, code, verdict, final, tmp_path):
    found, is_final = made(**measured)
    assert (found["reason_code"], found["verdict"], is_final) == (code, verdict, final)
    assert found["reason"]
    assert list(found) == list(COLUMNS)
    # What a run writes, the reader takes for consistent.
    rest = {name: value for name, value in cell().items() if name in STATED}
    write_results([found | rest], tmp_path / "results.csv")
    assert read_results(tmp_path).rows[0]["reason_code"] == code


def test_every_code_and_status_is_in_the_table():
    codes = {
        made(**measured)[0]["reason_code"]
        for measured in (
            {},
            {"c3": evaluation(20)},
            {"c2": BOOM},
            {"c1": BOOM},
            {"controls": False},
            {"student": BOOM},
        )
    }
    assert codes | {"imported_teacher"} == set(REASON_CODES)
    assert set(STATUSES) == set(get_args(Status))


def test_what_the_deployer_has_of_the_teacher():
    found, _ = made(c2=evaluation(3, acc=72), c3=evaluation(80, acc=75))
    assert (found["gain"], found["held_out_acc"]) == (3, 97.5)
    assert made(c2=BOOM)[0]["gain"] is made(c3=BOOM)[0]["gain"] is None
    assert made(controls=False)[0]["gain"] is None


def test_what_distillation_awakens():
    found, _ = made(c3=evaluation(80))
    assert found["dormant"] == found["c3_asr"] - found["teacher_asr"]
    assert made(c3=BOOM)[0]["dormant"] is made(controls=False)[0]["dormant"] is None


def test_a_trigger_that_works_without_the_backdoor_is_named():
    found, _ = made(c1=evaluation(95), c3=evaluation(97))
    assert found["verdict"] == "inconclusive"
    assert found["reason"].startswith("C1 is 95 %: the trigger works without the backdoor; only 2")


def test_a_teacher_that_did_not_learn_leaves_no_number():
    why = Outcome("not learned", "check: train clean wrn10_1: ACC 12 %")
    later = dict.fromkeys(ROLES, why)
    found, is_final = made(clean_check=why, **later)
    assert (found["status"], found["reason"], is_final) == (why.status, why.reason, False)
    assert found["held_out_acc"] is found["student_acc"] is found["gain"] is None


def test_each_role_has_its_columns():
    found, _ = made(c1=evaluation(2, acc=71), c2=evaluation(3, acc=72), c3=evaluation(80, acc=73))
    assert [found[f"{role}_acc"] for role in ("clean", "c1", "c2", "c3")] == [90, 71, 72, 73]
    assert [found[f"{role}_asr_hits"] for role in ("c1", "c2", "c3")] == [2, 3, 80]
    assert (found["clean_variance"], found["clean_variance_triggered"]) == (2.0, 2.0)
    assert found["transferred"] == pytest.approx(78)
    found, _ = made(c1=BOOM)
    assert found["c1_asr"] is None
    assert found["c3_asr"] == 80
