"""One plugin that cheats in everything at once, in a run with honest rivals."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack

import pytest

from tests.hostile.conftest import RIVALS
from tests.hostile.outside import (
    Listeners,
    end,
    gone,
    namespaces,
    segment,
    shared_memory,
    user_key,
    victim,
)
from tests.hostile.running import Ground, ended_well, snapshot

pytestmark = pytest.mark.skipif(
    not namespaces(),
    reason="this kernel gives a process no namespaces, so less is out of its reach",
)

ACTS = ["teacher", "editor", "objective", "student", "outcome", "crash"]
#: What a row says of its student and of its teacher.
MEASURED = ("student_acc", "student_asr", "student_ra", "teacher_acc", "teacher_asr")


def test_the_run_ends_as_if_the_cheater_had_not_been_there(honest, tmp_path):
    """Everything is computed in this run, so that the cheater stands beside every stage."""
    ground = Ground(tmp_path / "g")
    with ExitStack() as stack:
        listeners = Listeners(ground.folder)
        stack.callback(listeners.close)
        shm_key, shared = stack.enter_context(shared_memory())
        path = stack.enter_context(segment())
        key = stack.enter_context(user_key())
        other = stack.enter_context(victim())
        comm = f"kdb-{secrets.token_hex(5)}"
        stack.callback(end, comm)
        ground.hints |= {
            "addresses": listeners.addresses,
            "shm_key": shm_key,
            "segment": path.name,
            "key": key,
            "victim": other.pid,
            "network": os.readlink("/proc/self/ns/net"),
            "watched": str(ground.folder),
            "comm": comm,
        }
        run = ground.run(
            ["everything", "quits"],
            [*(f"everything.{act}" for act in ACTS), *RIVALS],
            *("--jobs", "2", "--time-limit", "60"),
        )
        assert ended_well(run), run.tail
        rows = run.rows
        assert {name: rows[name] for name in RIVALS} == honest.rows
        for act in ACTS:
            row = rows[f"everything.{act}"]
            assert_honest_or_failed(row, honest.rows["none"])
        assert snapshot(ground.user) == ground.untouched
        assert "REACHED" not in run.everything
        assert "own words" not in run.everything
        assert "\x1b" not in run.everything
        assert listeners.heard == set()
        assert shared() == b"the user's"
        assert list(path.parent.glob(f"{path.name}*")) == [path]
        assert other.poll() is None
        assert gone(comm)


def assert_honest_or_failed(row, undefended):
    """The cheater changes no number. So an honest row is that of the undefended student."""
    if row["status"] != "ok":
        assert row["student_acc"] is None
        return
    for name in MEASURED:
        assert row[name] == undefended[name], row["defense"]
