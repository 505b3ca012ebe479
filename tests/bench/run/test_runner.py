"""What the runner does when something breaks: the rest goes on, and what was measured is kept."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from kdbench_badnets.method import BadNets
from kdbench_none.method import NoDefense

from kdbench import __version__
from kdbench.attack import Backdoor, Trigger
from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.jobs import Jobs
from kdbench.bench.work import stages
from kdbench.errors import ConfigError, ContractError, DivergedError, NotLearnedError
from kdbench.loading.plugin import Plugin
from kdbench.loading.registry import Registered, Registry
from kdbench.method import Info
from tests.runs import ANY_TEACHER
from tests.runs import go as go_through

BRIEF = {f"{stage}.epochs": "1" for stage in ("clean", "poison", "distill", "repair")} | ANY_TEACHER


def info(name):
    return Info(name, "title", "authors", "venue", 2020, "https://example.org")


class Exits(BadNets):
    info = info("exits")

    def implant(self, setting):
        raise SystemExit(0)


class Refuses(BadNets):
    info = info("refuses")

    def implant(self, setting):
        raise ConfigError("this patch does not fit\x1b[2J")


class OddFacts(BadNets):
    info = info("oddfacts")

    def implant(self, setting):
        return replace(super().implant(setting), facts={"distance": float("nan")})


class OddResponse(BadNets):
    info = info("oddresponse")

    def implant(self, setting):
        return replace(super().implant(setting), facts={"universal": float("nan")})


class Cropping(Trigger):
    def forward(self, images):
        return images[:, :, 1:]


class BadTrigger(BadNets):
    info = info("badtrigger")

    def implant(self, setting):
        return Backdoor(setting.teacher, Cropping(), setting.target_class)


class OneSource(BadNets):
    info = info("onesource")
    known_failures = {"source_classes": "for a test"}

    def implant(self, setting):
        return replace(super().implant(setting), source_classes=(2,))


class Interrupted(NoDefense):
    info = info("interrupted")

    def cleanse_teacher(self, teacher, setting):
        raise KeyboardInterrupt


@pytest.fixture
def go(registry, stripes, tmp_path, monkeypatch):
    """Run attacks x defenses on the striped pictures; answers the rows by (attack, defense)."""
    methods = {kind: dict(found) for kind, found in registry.methods.items()}
    for kind, classes in (
        ("attack", (Exits, Refuses, OddFacts, OddResponse, BadTrigger, OneSource)),
        ("defense", (Interrupted,)),
    ):
        for cls in classes:
            methods[kind][cls.info.name] = Registered(cls, Plugin("test", __name__, "test", "0"))
    everything = Registry(methods=methods)
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)

    def run(attacks, defenses=("none",)):
        spec = RunSpec(
            attacks=attacks,
            defenses=defenses,
            pairs=(("wrn10_1", "wrn10_1"),),
            numerics="fp32",
            overrides=BRIEF,
        )
        rows = go_through(spec, everything, tmp_path / "out")
        return {(row["attack"], row["defense"]): row for row in rows}

    run.out = tmp_path / "out"
    return run


def test_a_broken_attack_is_a_row_and_the_others_are_measured(go):
    rows = go(("exits", "refuses", "badtrigger", "oddfacts", "badnets"))
    status = {attack: row["status"] for (attack, _), row in rows.items()}
    assert status == {
        "exits": "failed",
        "refuses": "failed",
        "badtrigger": "failed",
        "oddfacts": "ok",
        "badnets": "ok",
    }
    assert "SystemExit" in rows["exits", "none"]["reason"]
    assert rows["refuses", "none"]["reason"].endswith(r": this patch does not fit\x1b[2J")
    assert "keep type and shape" in rows["badtrigger", "none"]["reason"]
    assert rows["badtrigger", "none"]["student_asr"] is None
    # The odd attack is BadNets under another name, and its facts cost nothing.
    assert rows["oddfacts", "none"]["n_asr"] == rows["badnets", "none"]["n_asr"] == 80
    told = {s["title"]: s for s in json.loads((go.out / "run.json").read_text())["stages"]}
    assert told["implant oddfacts in wrn10_1"]["facts"]["distance"] is None
    assert "keep type and shape" in told["draw badtrigger in wrn10_1"]["reason"]
    assert len(pd.read_csv(go.out / "leaderboard.csv")) == 5
    assert {p.name for p in go.out.glob("trigger-*.png")} == {
        "trigger-oddfacts-wrn10_1-seed0.png",
        "trigger-badnets-wrn10_1-seed0.png",
    }


def test_a_row_has_what_its_attack_says_of_the_clean_teachers_response(go):
    rows = go(("badnets", "oddfacts", "oddresponse"))
    assert 0 <= rows["badnets", "none"]["universal"] <= 100
    told = {s["title"]: s for s in json.loads((go.out / "run.json").read_text())["stages"]}
    stated = told["implant badnets in wrn10_1"]["facts"]["universal"]
    assert rows["badnets", "none"]["universal"] == stated
    # An attack need not state it. One that states nonsense has failed.
    assert rows["oddfacts", "none"]["status"] == "ok"
    assert rows["oddfacts", "none"]["universal"] is None
    assert rows["oddresponse", "none"]["status"] == "failed"
    assert rows["oddresponse", "none"]["universal"] is None
    assert "its facts cannot be kept: universal" in rows["oddresponse", "none"]["reason"]


def test_a_failed_student_leaves_a_row_without_numbers(go, monkeypatch):
    def fails(bench):
        raise DivergedError("loss is not finite at step 3")

    monkeypatch.setattr(stages, "distill", fails)
    row = go(("badnets",))["badnets", "none"]
    assert (row["status"], row["universal"]) == ("diverged", None)


def test_only_the_check_of_a_teacher_can_say_that_it_has_not_learned(go, monkeypatch):
    """A plugin may raise the same error."""

    def fails(bench):
        raise NotLearnedError("the teacher's ACC is 3 %")

    monkeypatch.setattr(stages, "distill", fails)
    row = go(("badnets",))["badnets", "none"]
    assert row["status"] == "failed"
    assert "NotLearnedError: the teacher's ACC is 3 %" in row["reason"]


def test_a_network_that_cannot_be_described_costs_its_rows_and_not_the_run(go, monkeypatch):
    """The plugin of a network may raise anything, or be gone, when its result is looked at."""
    look = Jobs.check

    def refuse(jobs, stage):
        if stage.kind == "backdoor":
            raise ContractError("its plugin does not answer")
        return look(jobs, stage)

    monkeypatch.setattr(Jobs, "check", refuse)
    rows = go(("badnets",))
    assert rows["badnets", "none"]["status"] == "failed"
    reason = rows["badnets", "none"]["reason"]
    assert "its result cannot be kept: its plugin does not answer" in reason


def test_a_control_that_failed_costs_the_verdict_and_not_the_row(go, monkeypatch):
    distill, calls = stages.distill, []

    def fails_on_the_clean_teacher(bench):
        calls.append(bench)
        if len(calls) == 1:  # the plan's first student is that of the clean teacher
            raise DivergedError("loss is not finite at step 3")
        return distill(bench)

    monkeypatch.setattr(stages, "distill", fails_on_the_clean_teacher)
    row = go(("badnets",))["badnets", "none"]
    assert row["status"] == "ok"
    assert row["student_asr"] == row["c3_asr"]
    assert row["c1_asr"] is row["transferred"] is row["verdict"] is None
    assert row["reason"].startswith("no verdict: a control diverged")


def test_an_attack_on_one_class_is_counted_on_that_class(go):
    row = go(("onesource",))["onesource", "none"]
    known = "onesource is known to fail source_classes: for a test"
    assert row["plugins"] == f"kdbench {__version__}; test 0; {known}"
    assert (row["n_test"], row["n_asr"]) == (120, 40)
    assert row["teacher_asr_hits"] <= 40


def test_an_interrupted_run_keeps_what_it_measured(go):
    with pytest.raises(KeyboardInterrupt):
        go(("badnets",), ("none", "interrupted"))
    assert pd.read_csv(go.out / "results.csv").defense.tolist() == ["none"]
    assert pd.read_csv(go.out / "leaderboard.csv").n_seeds.tolist() == [1]
    assert (go.out / "trigger-badnets-wrn10_1-seed0.png").exists()


def test_rates_come_with_counts_and_intervals(go):
    row = go(("badnets",))["badnets", "none"]
    for name, total in (
        ("teacher_base", 80),
        ("student_ra", 80),
        ("student_acc", 120),
        ("c1_asr", 80),
    ):
        assert row[name] == pytest.approx(100 * row[f"{name}_hits"] / total)
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row[f"{name}_high"] - row[f"{name}_low"] > 1


@pytest.mark.parametrize(
    ("error", "message"),
    [(ConfigError("wrn10_1 is too small"), "too small"), (RuntimeError("3 < 7"), "16x16.*3 < 7")],
)
def test_a_network_that_cannot_be_built_is_refused_before_any_training(
    go, monkeypatch, error, message
):
    def refuse(registry, name, num_classes, image_size):
        raise error

    monkeypatch.setattr(Registry, "_network", refuse)
    with pytest.raises(ConfigError, match=message):
        go(("badnets",))
    assert not go.out.exists()
