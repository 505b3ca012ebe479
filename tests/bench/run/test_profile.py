"""Where a run says that its time went, and that looking changes nothing."""

from __future__ import annotations

import csv
import json
import os
from contextlib import suppress

import pytest
import torch

from kdbench.bench.plan import prepare
from kdbench.bench.plan.plan import Stage
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.profile import PROFILE_COLUMNS, ProfileFolder
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.bench.work.job import Outcome
from kdbench.cli.display import make_console
from kdbench.cli.profile import print_profile
from kdbench.training import profiling
from tests.runs import ANY_TEACHER, go

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(profiling, "time", found)
    return found


def test_time_belongs_to_the_innermost_part(clock, tmp_path):
    with profiling.profiled(tmp_path, CPU) as profile:
        clock.now += 1  # 1 s of other
        with profiling.span("forward"):
            clock.now += 2
            with profiling.span("teacher"):
                clock.now += 4
            clock.now += 8
        with suppress(ValueError), profiling.span("backward"):
            clock.now += 16
            raise ValueError
        clock.now += 32
    assert profile.facts() == {
        "steps": 0,
        "batch_s": 0,
        "teacher_s": 4,
        "forward_s": 10,
        "backward_s": 16,
        "optimizer_s": 0,
        "other_s": 33,
        "files_s": 0,
    }
    assert profile.facts(among=2)["forward_s"] == 5


def test_steps_are_counted_and_the_first_are_traced(tmp_path):
    with profiling.profiled(tmp_path / "traces", CPU) as profile:
        for trace in (True, False):
            for batch in profiling.loop(iter(range(8)), trace=trace):
                with profiling.span("forward"):
                    torch.ones(4) * batch
        assert list(profiling.loop([1, 2])) == [1, 2]  # over before a trace begins
    assert profile.steps == 18
    (trace,) = (tmp_path / "traces").iterdir()
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event.get("name") == "kdbench: forward" for event in events) == 3


def test_a_loop_that_is_left_early_leaves_a_whole_trace(tmp_path):
    with profiling.profiled(tmp_path, CPU):
        for batch in profiling.loop(range(100)):
            if batch == 4:
                break
        del batch
    assert json.loads((tmp_path / "1.json").read_text())["traceEvents"]


def test_without_a_profile_nothing_is_wrapped():
    batches = [1, 2]
    assert profiling.loop(batches) is batches
    with profiling.span("forward"):
        assert profiling._active is None


@pytest.fixture
def run(stripes, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)

    def once(name, store, **options):
        spec = RunSpec(
            attacks=("badnets",),
            defenses=("none",),
            distillers=("kd", "at"),
            numerics="fp32",
            controls=False,
            threads=1,
            pairs=(("wrn10_1", "wrn10_1"),),
            # So many steps that each stage has some to trace.
            overrides={f"{part}.epochs": "1" for part in ("clean", "poison", "distill")}
            | {"distill.batch_size": "8", "transfer_fraction": "1"}
            | ANY_TEACHER,
        )
        out = tmp_path / name
        return go(spec, registry, out, store, executor=LocalExecutor(jobs=1), **options), out

    return once


def test_a_profiled_run(run, tmp_path, capsys):
    plain, bare = run("plain", Store(tmp_path / "a"))
    store = Store(tmp_path / "b")
    rows, out = run("profiled", store, profile=True)
    assert [row["student_sha256"] for row in rows] == [row["student_sha256"] for row in plain]
    assert not (bare / "profile").exists()
    stages = json.loads((out / "run.json").read_text())["stages"]
    assert all("profile" not in stage["facts"] for stage in stages)

    with (out / "profile" / "stages.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(PROFILE_COLUMNS)
    assert [int(row["number"]) for row in table] == list(range(1, len(stages) + 1))
    for row in table:
        parts = {name: float(row[f"{name}_s"]) for name in profiling.PARTS}
        # The process began before the profile did, and ended after it. A busy coordinator hears
        # late of the process's wall, so its own seconds of the process may be fewer.
        assert 0 < sum(parts.values()) <= float(row["wall_s"]) + 0.01
        assert float(row["seconds"]) <= float(row["wall_s"])
        trained, measured = (
            row["kind"] in ("clean", "backdoor", "distill"),
            row["kind"] in ("check", "evaluate"),
        )
        assert (int(row["steps"]) > 0) == (parts["forward"] > 0) == (trained or measured)
        assert (parts["backward"] > 0) == (parts["optimizer"] > 0) == trained
        assert parts["files"] > 0
        assert (parts["teacher"] > 0) == (row["kind"] == "distill")
    traces = {path.name for path in (out / "profile").glob("*.json")}
    distilled = [row["number"].zfill(2) for row in table if row["kind"] == "distill"]
    # The two students of the cohort share a process, and the first one's folder has its trace.
    assert {name for name in traces if "distill" in name} == {f"{distilled[0]}-distill-1.json"}
    assert b"kdbench: teacher" in (out / "profile" / f"{distilled[0]}-distill-1.json").read_bytes()

    print_profile(make_console(), out / "profile", 60.0, 1)
    said = capsys.readouterr().out
    assert "% in methods and measurements" in said
    assert all(part in said for part in profiling.PARTS)
    # a new folder, and the one that has the table of the run before
    for name in ("again", "profiled"):
        _, again = run(name, store, profile=True)
        print_profile(make_console(), again / "profile", 1.0, 1)
        assert "no stage was computed" in capsys.readouterr().out


def test_what_a_plugin_may_have_written(tmp_path):
    """Its traces may be links, its numbers anything."""
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    traces = tmp_path / "job" / "traces"
    traces.mkdir(parents=True)
    (traces / "1.json").symlink_to(secret)
    (traces / "=cmd.json").write_text("{}")
    os.mkfifo(traces / "2.json")
    (traces / "3.json").write_text("{}")
    stage = Stage("distill", "k", 7, "=cmd", 0, 0, {}, {}, (), {}, "")
    folder = ProfileFolder(tmp_path / "profile")
    folder.started(stage)
    facts = {
        "loss": 1.0,
        "profile": {"steps": "many", "batch_s": True, "teacher_s": [1], "forward_s": 2.5},
    }
    folder.ended(stage, Outcome("ok", facts=facts), traces)
    folder.started(stage)
    folder.ended(stage, Outcome("ok", facts={"profile": "none of your business"}), traces)
    assert facts == {"loss": 1.0}
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == [
        "07-distill-3.json",
        "stages.csv",
    ]
    with (tmp_path / "profile" / "stages.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["title"] == "'=cmd"
    assert {name: first[name] for name in ("steps", "batch_s", "teacher_s", "forward_s")} == {
        "steps": "",
        "batch_s": "",
        "teacher_s": "",
        "forward_s": "2.5",
    }
    assert second["forward_s"] == ""
