"""Processes that a job lets loose: they end with it, count, and change nothing afterwards."""

from __future__ import annotations

import secrets
import sys

import pytest

from tests.hostile.conftest import RIVALS
from tests.hostile.outside import end, gone
from tests.hostile.running import Acts, Ground, copied, ended_well

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux says which processes are whose"
)
ACTS = ["swap", "survive", "crowd"]


@pytest.fixture(scope="module")
def acts(honest_ground, honest, tmp_path_factory):
    ground = copied(Ground(tmp_path_factory.mktemp("processes")), honest_ground.store)
    ground.hints["comm"] = comm = f"kdb-{secrets.token_hex(5)}"
    names = [f"red.{name}" for name in ACTS]
    yield Acts(ground, "processes", names, tuple(RIVALS), ("--memory-limit", "1.3"))
    end(comm)


@pytest.mark.parametrize("act", ACTS)
def test_none_outlives_the_run_and_its_rivals_are_measured(acts, honest, act):
    run = acts.of(f"red.{act}")
    assert gone(acts.ground.hints["comm"])
    assert ended_well(run), run.tail
    assert {name: run.rows[name] for name in RIVALS} == honest.rows


def test_the_memory_of_all_of_them_counts(acts):
    row = acts.of("red.crowd").rows["red.crowd"]
    assert row["status"] == "out of memory", row["reason"]


def test_what_is_measured_is_what_is_published(acts, honest):
    run = acts.of("red.swap")
    row, undefended = run.rows["red.swap"], honest.rows["none"]
    assert row["status"] == "ok", row["reason"]
    for name in ("student_sha256", "student_acc", "student_asr", "student_ra"):
        assert row[name] == undefended[name]
    verified = run.ground.call(["store", "verify"], run.out)
    assert verified.code == 0, verified.tail
