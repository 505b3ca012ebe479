"""What one job can do to others: nothing."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import RIVALS
from tests.hostile.running import Ground, copied, ended_well


@pytest.fixture
def ground(tmp_path):
    return Ground(tmp_path / "ground")


def test_an_objective_cannot_reach_the_students_of_others(ground, honest):
    """All are trained in this run, and would be trained side by side if all were kdbench's own."""
    run = ground.run(["neighbours"], ["ruins", *RIVALS])
    assert ended_well(run), run.tail
    assert {name: run.rows[name] for name in RIVALS} == honest.rows


def test_no_job_can_end_another_in_its_name(honest_ground, honest, ground):
    run = copied(ground, honest_ground.store).run(
        ["neighbours"], ["red.sleeps", "red.sleeps_too", "red.steals", "none"], "--jobs", "3"
    )
    assert ended_well(run), run.tail
    for name in ("red.sleeps", "red.sleeps_too", "none"):
        assert run.rows[name]["status"] == "ok", run.rows[name]["reason"]
        assert run.rows[name]["student_sha256"] == honest.rows["none"]["student_sha256"]
