"""A teacher that has not learned its task costs its cells their numbers, and nothing is made of
it."""

from __future__ import annotations

import contextlib

import pytest

from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.verify import read_request
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work import stages
from kdbench.bench.work.executors.inline import InlineExecutor
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.errors import NotLearnedError
from kdbench.report.read import read_results
from tests.runs import go

BRIEF = {f"{stage}.epochs": "1" for stage in ("clean", "poison", "distill")}
#: No teacher gets all images right after that.
BRIEF |= {"clean.lr": "0.0001", "poison.lr": "0.0001"}
#: Of the numbers of a row.
NUMBERS = ("teacher_acc", "student_acc", "student_asr", "c2_acc", "held_out_acc", "gain", "verdict")


class Counting(InlineExecutor):
    def __init__(self, registry):
        super().__init__(registry)
        self.kinds = []

    def start(self, job):
        self.kinds.extend(each.kind for each in (job, *job.beside))
        super().start(job)


@pytest.fixture(autouse=True)
def _striped(stripes, monkeypatch):
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def spec(least, **asked):
    overrides = BRIEF | {"min_teacher_acc": str(least)}
    common = {"attacks": ("badnets",), "pairs": (("wrn10_1", "wrn10_1"),), "numerics": "fp32"}
    return RunSpec(**{**common, "threads": 1, "overrides": overrides, **asked})


def test_nothing_is_made_of_a_clean_teacher_that_did_not_learn(registry, store, tmp_path):
    executor = Counting(registry)
    asked = spec(100, attacks=("badnets", "lba"), defenses=("none", "finetune"), seeds=(0, 1))
    rows = go(asked, registry, tmp_path / "a", store, executor=executor)
    # C2 needs no teacher.
    assert sorted(executor.kinds) == ["alone", "alone", "check", "check", "clean", "clean"]
    assert len(rows) == 8
    for row in rows:
        assert (row["status"], row["reason_code"]) == ("not learned", "stage_failed")
        assert row["reason"].startswith("check: train clean wrn10_1: NotLearnedError: ")
        assert "24 held-out training images, under the 100 % of min_teacher_acc" in row["reason"]
        assert "--set min_teacher_acc=PERCENT" in row["reason"]
        assert not any(row[name] is not None for name in NUMBERS)
    assert [row["status"] for row in read_results(tmp_path / "a").rows] == ["not learned"] * 8
    assert read_request(tmp_path / "a") == asked


def test_a_lower_bound_trains_no_teacher_again(registry, store, tmp_path):
    go(spec(100), registry, tmp_path / "a", store)
    executor = Counting(registry)
    (row,) = go(spec(0), registry, tmp_path / "b", store, executor=executor)
    assert row["status"] == "ok"
    assert not {"clean", "alone"} & set(executor.kinds)
    executor = Counting(registry)
    (higher,) = go(spec(100), registry, tmp_path / "c", store, executor=executor)
    assert (higher["status"], executor.kinds) == ("not learned", ["check", "check"])


def test_nothing_is_made_of_a_backdoored_teacher_that_forgot(
    registry, store, tmp_path, monkeypatch
):
    check, calls = stages.check_teacher, iter([True, False])

    def second_fails(bench):
        if next(calls):
            return check(bench)
        raise NotLearnedError("the teacher's ACC is 3 %")

    monkeypatch.setattr(stages, "check_teacher", second_fails)
    executor = Counting(registry)
    (row,) = go(spec(0, defenses=("finetune",)), registry, tmp_path / "a", store, executor=executor)
    assert row["status"] == "not learned"
    assert (
        row["reason"]
        == "check: implant badnets in wrn10_1: NotLearnedError: the teacher's ACC is 3 %"
    )
    assert executor.kinds.count("check") == 2
    # C1 is a student of the clean teacher, which has learned.
    assert executor.kinds.count("distill") == 1
    assert "repair" not in executor.kinds


@pytest.mark.parametrize(
    ("percent", "bound", "text"),
    [
        (12.345, 50, "12.3"),
        (49.96, 50, "49.96"),
        (100 * 4999 / 10000, 50, "49.99"),
        (0.0, 1, "0.0"),
    ],
)
def test_a_percentage_under_the_bound_is_shown_as_one(percent, bound, text):
    assert stages._under(percent, bound) == text


def test_walled_jobs_say_so_too(registry, store, tmp_path):
    with contextlib.closing(LocalExecutor(jobs=2)) as executor:
        (low,) = go(spec(100, controls=False), registry, tmp_path / "a", store, executor=executor)
        (row,) = go(spec(0, controls=False), registry, tmp_path / "b", store, executor=executor)
    assert (low["status"], row["status"]) == ("not learned", "ok")
    assert row["held_out_acc"] is not None
