"""Whole runs beside hostile plugins: attacks, networks, neighbours, everything at once."""

from __future__ import annotations

import sys

import pytest

from tests.hostile.conftest import RIVALS
from tests.hostile.outside import end, gone, namespaces
from tests.hostile.running import Ground, copied, ended_well, snapshot
from tests.sizes import SOAK

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the attempts are made of what Linux has"
)
CHEATERS = [
    f"everything.{name}"
    for name in ("teacher", "editor", "objective", "student", "outcome", "crash")
]
#: What a row says of its student and of its teacher.
MEASURED = ("student_acc", "student_asr", "student_ra", "teacher_acc", "teacher_asr")


@pytest.fixture(scope="module")
def cheated(honest, hints, tmp_path_factory):
    """A run of everything at once. All stages are computed in it, so that the cheater stands beside
    each of them."""
    ground = Ground(tmp_path_factory.mktemp("g"), hints=dict(hints))
    yield ground.run(
        ["everything", "neighbours", "liar"],
        [*CHEATERS, "neighbours.ruins", "liar.ruins", *RIVALS],
        *("--jobs", "2"),
    )
    end(hints["comm"])


@pytest.mark.skipif(not namespaces(), reason="this kernel gives a process no namespaces of its own")
def test_beside_a_plugin_that_cheats_in_everything_at_once(cheated, honest, hints, outside):
    assert gone(hints["comm"])
    assert ended_well(cheated), cheated.tail
    assert {name: cheated.rows[name] for name in RIVALS} == honest.rows
    for name in CHEATERS:
        assert_honest_or_failed(cheated.rows[name], honest.rows["none"])
    assert snapshot(cheated.ground.user) == cheated.ground.untouched
    for text in ("REACHED", "own words", "\x1b"):
        assert text not in cheated.everything
    assert outside.listeners.heard == set()
    assert outside.shared() == b"the user's"
    assert list(outside.segment.parent.glob(f"{outside.segment.name}*")) == [outside.segment]
    assert outside.victim.poll() is None


def assert_honest_or_failed(row, undefended):
    """The cheater changes no number. So an honest row is that of the undefended student."""
    if row["status"] == "ok":
        assert {name: row[name] for name in MEASURED} == {
            name: undefended[name] for name in MEASURED
        }
    else:
        assert row["student_acc"] is None


def test_an_objective_cannot_reach_the_students_of_others(request, honest, tmp_path):
    """All are trained in the same run, and would be side by side if all were kdbench's own. The
    liar says that it is."""
    run = (
        Ground(tmp_path / "g").run(
            ["neighbours", "liar"], ["neighbours.ruins", "liar.ruins", *RIVALS]
        )
        if SOAK
        else request.getfixturevalue("cheated")
    )
    assert ended_well(run), run.tail
    assert {run.rows[name]["status"] for name in ("neighbours.ruins", "liar.ruins")} == {"ok"}
    assert {name: run.rows[name] for name in RIVALS} == honest.rows


def test_no_job_can_end_another_in_its_name(honest, ground):
    sleepers = ["neighbours.sleeps", "neighbours.sleeps_too"]
    run = ground.run(["neighbours"], [*sleepers, "neighbours.steals", "none"], "--jobs", "3")
    assert ended_well(run), run.tail
    for name in (*sleepers, "none"):
        assert run.rows[name]["status"] == "ok", run.rows[name]["reason"]
        assert run.rows[name]["student_sha256"] == honest.rows["none"]["student_sha256"]


@pytest.fixture(scope="module")
def code(honest_ground, honest, tmp_path_factory):
    """A run of networks and attacks that bring code, in every combination."""
    ground = copied(Ground(tmp_path_factory.mktemp("g")), honest_ground.store)
    return ground.run(
        ["networks", "attacks"],
        ["none"],
        *("--pair", "wrn10_1-cheatnet"),
        *("--attack", "redattack.teacher", "--attack", "redattack.trigger"),
    )


def test_a_network_of_a_plugin_is_measured_and_reads_no_label(code):
    assert ended_well(code), code.tail
    rows = [row for row in code.cells if row["student"] == "cheatnet"]
    cheat = next(row for row in rows if row["attack"] == "badnets")
    assert cheat["status"] == "ok", cheat["reason"]
    assert cheat["student_acc"] < 90, "100 is what the labels are worth"


@pytest.mark.parametrize(
    ("name", "statuses"), [("teacher", ("ok", "failed")), ("trigger", ("ok",))]
)
def test_the_code_of_an_attack_visits_nobody(code, name, statuses):
    assert ended_well(code), code.tail
    for row in code.cells:
        if row["attack"] == f"redattack.{name}":
            assert "REACHED" not in (row["reason"] or "")
            assert row["status"] in statuses, row["reason"]
