"""What is said before a run starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kdbench.bench.kinds import Kind
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.forecast import Forecast
from kdbench.bench.run.timings import Cost
from kdbench.bench.session.remedies import load_remark
from kdbench.bench.work.executors import slots
from kdbench.cli.outlook import long_run, look_ahead, shorter
from kdbench.cli.watch import PlainDisplay
from kdbench.numerics import Numerics
from tests.cli.calls import RUN, call

SMALL, DEEP = ("wrn16_2", "wrn16_1"), ("pyramid200", "pyramid110")
HOUR = 3600.0


def planned(seconds=2 * HOUR, pair=SMALL, unknown=0, tried=0, jobs=1, threads=1, **asked):
    """A request whose distillations take so long, evenly over its seeds."""
    spec = RunSpec(
        **{"attacks": ("lba",), "defenses": ("none",), "pairs": (pair,), "seeds": (0,)} | asked
    )
    teacher, student = pair
    forecasts = [
        Forecast(
            SimpleNamespace(
                kind=Kind.DISTILL, seed=seed, networks=(student, teacher), shape=(10, 16), number=1
            ),
            "run",
            cost=Cost(seconds / len(spec.seeds), 0.0, exact=False),
        )
        for seed in spec.seeds
    ]
    summary = {
        "seconds": seconds,
        "without_estimate": unknown,
        "jobs": jobs,
        "to_run": len(forecasts),
        "tried": tried,
    }
    numerics = Numerics(torch.device("cpu"), threads=threads)
    prepared = SimpleNamespace(spec=spec, numerics=numerics)
    return SimpleNamespace(prepared=prepared, forecasts=forecasts, summary=summary)


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr(slots, "cores", lambda: 2)


def test_a_run_of_less_than_an_hour_says_nothing():
    assert list(long_run(planned(seconds=HOUR))) == []


def test_a_long_run_says_how_long_and_what_would_be_shorter():
    first, *ways, last = long_run(planned(seconds=6 * HOUR, seeds=(0, 1, 2), unknown=1))
    assert first == "This run will take more than 6 h 00 min on this machine. Shorter would be:"
    assert ways[0] == "- one seed instead of 3: about 2 h 00 min"
    assert last.startswith("Ctrl-C is safe")


def test_what_was_tried_beside_other_work_says_so():
    assert load_remark(None, 2) == load_remark(2.0, 2) == ""
    load = load_remark(4.5, 2)
    assert load.startswith("Other work is running (load 4.5 on 2 cores)")
    assert load in long_run(planned(seconds=6 * HOUR, tried=3), load)
    assert load not in long_run(planned(seconds=6 * HOUR), load)


def test_only_what_is_true_of_the_request_is_named():
    def named(**options):
        return " | ".join(shorter(planned(**options)))

    assert named(seeds=(7,), threads=2) == ""
    assert next(long_run(planned(threads=2))).endswith("on this machine.")
    assert "fewer of its 2 attacks" in named(attacks=("lba", "ckd"))
    assert "--preset quick" in named(presets=("standard",))
    assert "--preset quick" not in named(presets=("quick",))
    assert "a smaller pair, such as wrn16_2-wrn16_1" in named(pair=DEEP)
    assert "smaller pair" not in named(pair=SMALL)
    assert "smaller pair" not in named(
        pair=DEEP, attacks=(), teacher_from=("mine",), pairs=(("pyramid200", "pyramid110"),)
    )


def test_more_jobs_are_named_where_cores_are_idle():
    def named(**options):
        return [way for way in shorter(planned(seeds=(0, 1), **options)) if "--jobs" in way]

    assert named() == ["--jobs 2: so many stages side by side"]
    assert named(jobs=2) == []
    # All cores are busy with one stage.
    assert named(threads=2) == []


def test_a_display_knows_what_the_stages_will_take(monkeypatch, capsys):
    long = planned(seconds=2 * HOUR)
    monkeypatch.setattr(
        "kdbench.bench.session.planned.Planned.of", lambda *arguments, **options: long
    )
    monkeypatch.setattr("time.strftime", lambda form: "12:34:56")
    display = PlainDisplay()
    processes = SimpleNamespace(calibrate=lambda numerics, **options: None)
    look_ahead(long.prepared, None, 1, processes, display)
    assert "This run will take about 2 h 00 min" in capsys.readouterr().err
    display.run_started(3, 1, 1, "out")
    assert capsys.readouterr().out.splitlines() == [
        "12:34:56 3 stages, 1 of them to run, 1 cell -> out",
        "12:34:56 about 2 h 00 min on this machine",
    ]
    display.stage_started(1, Kind.DISTILL, "distill")
    display.stage_waits(1, Kind.DISTILL, "distill", "another run computes it")
    display.stage_taken(1, Kind.DISTILL, "distill")
    assert capsys.readouterr().out.splitlines() == [
        "12:34:56 [1/3] distill | waits: another run computes it",
        "12:34:56 [1/3] distill | computed by another run",
    ]


def test_before_a_run_nobody_reads_why_a_stage_has_to_run(monkeypatch):
    """Only its cost is shown. The reasons take a file for each stage that was ever computed."""
    asked = []

    def forecast(plan, store, calibrate, explain):
        asked.append(explain)
        return [], 0

    monkeypatch.setattr("kdbench.bench.session.planned.forecast", forecast)
    prepared = SimpleNamespace(
        numerics=Numerics(torch.device("cpu"), threads=1), plan=SimpleNamespace(cells=[])
    )
    processes = SimpleNamespace(calibrate=lambda numerics, **options: None)
    look_ahead(prepared, None, 1, processes, PlainDisplay())
    assert asked == [False]


@pytest.mark.parametrize("options", [(), ("--quiet",), ("--json",)])
def test_the_first_line_comes_before_anything_takes_time(fake_run, tmp_path, monkeypatch, options):
    def late(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.bench.session.processes.Processes.answers", late)
    ran = call(*RUN, "--out", str(tmp_path / "o"), *options)
    begun = "reading plugins and data ..." in ran.stderr
    assert begun == (options == ())
    assert "reading" not in ran.stdout


@pytest.mark.parametrize("options", [("--quiet",), ("--json",)])
def test_a_run_that_a_program_reads_tries_nothing(fake_run, tmp_path, monkeypatch, options):
    monkeypatch.setattr("kdbench.cli.outlook.look_ahead", lambda *_: pytest.fail("it looked ahead"))
    assert call(*RUN, "--out", str(tmp_path / "o"), *options).exit_code == 0
