"""Networks and triggers that carry code: it reads no labels, and measures nothing."""

from __future__ import annotations

import pytest

from tests.hostile.running import Acts, Ground, copied, ended_well

#: What a student's row says of it.
STUDENT = ("student_acc", "student_asr", "student_ra", "student_base")
OWN = ["own_class", "own_part", "own_attribute"]
OTHER = ["another_network", "more_classes", "a_wrapper"]
TEACHERS = ["own_teacher", "editing"]


@pytest.fixture(scope="module")
def ground(honest_ground, honest, tmp_path_factory):
    return copied(Ground(tmp_path_factory.mktemp("networks")), honest_ground.store)


@pytest.fixture(scope="module")
def acts(ground):
    names = [*(f"red.{name}" for name in (*OWN, *OTHER)), *TEACHERS]
    return Acts(ground, "networks", names, beside=("none",))


@pytest.mark.parametrize("act", OWN)
def test_the_row_of_a_student_with_code_is_honest_or_failed(acts, honest, act):
    run = acts.of(f"red.{act}")
    assert ended_well(run), run.tail
    row = run.rows[f"red.{act}"]
    assert row["status"] in ("ok", "failed")
    assert "REACHED" not in run.everything
    if row["status"] == "ok":
        assert {name: row[name] for name in STUDENT} == {
            name: honest.rows["none"][name] for name in STUDENT
        }
    else:
        assert row["student_acc"] is None


@pytest.mark.parametrize("act", OTHER)
def test_a_student_is_the_network_that_the_row_names(acts, act):
    row = acts.of(f"red.{act}").rows[f"red.{act}"]
    assert row["status"] == "failed", row["student"]
    assert row["student_acc"] is None


@pytest.mark.parametrize("name", TEACHERS)
def test_a_cleansed_teacher_reads_no_label_and_no_trigger(acts, honest, name):
    run = acts.of(name)
    assert ended_well(run), run.tail
    assert "REACHED" not in run.everything
    row = run.rows[name]
    if row["status"] == "ok":
        assert row["cleansed_acc"] == honest.rows["none"]["teacher_acc"]
    else:
        assert name == "own_teacher", row["reason"]


def test_a_network_of_a_plugin_reads_no_label(ground):
    run = ground.run(["networks"], ["none"], "--pair", "wrn10_1-cheatnet")
    assert ended_well(run), run.tail
    cheat = [row for row in run.cells if row["student"] == "cheatnet"]
    assert [row["status"] for row in cheat] == ["ok"]
    assert cheat[0]["student_acc"] < 90, "100 is what the labels are worth"


@pytest.fixture(scope="module")
def attacked(ground):
    """A run with both attacks."""
    return ground.run(
        ["attacks"], ["none"], *("--attack", "redattack.teacher", "--attack", "redattack.trigger")
    )


@pytest.mark.parametrize("name", ["teacher", "trigger"])
def test_the_code_of_an_attack_visits_nobody(attacked, name):
    assert ended_well(attacked), attacked.tail
    (row,) = [row for row in attacked.cells if row["attack"] == f"redattack.{name}"]
    assert "REACHED" not in f"{row['reason']}"
    assert row["status"] in (("ok", "failed") if name == "teacher" else ("ok",)), row["reason"]
