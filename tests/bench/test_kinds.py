"""A kind of stage is written down once, and one that is not written down is an error everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.bench.keys import MODEL, PICTURE, TRIGGER
from kdbench.bench.kinds import Kind
from kdbench.bench.plan.plan import Stage
from kdbench.bench.work import stages
from kdbench.bench.work.executors.child import make_task
from kdbench.bench.work.job import Job
from tests.runs import plan_of

DEFENDERS = {"cleanse", "distill", "repair"}
MEASURING = {"check", "evaluate", "picture"}
#: Those of the provider see its images.
SEES = {
    **{"alone": "deployer", "distill": "deployer", "cleanse": "defender", "repair": "defender"},
    **{"check": "held out", "evaluate": "test", "picture": "test"},
}
BY_RECIPE = {"clean", "alone", "backdoor", "distill", "repair"}


def job(kind):
    return Job("key", kind, "title", Path(), {})


def task_of(kind):
    return make_task({"kind": kind, "folder": ".", "mean": (), "std": (), "packages": ()})


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_its_side_its_images_and_its_function(kind):
    assert kind.side == ("defender" if kind in DEFENDERS else "attacker")
    assert job(kind).side == kind.side
    assert kind.sees == SEES.get(kind, "provider")
    assert (kind.training == "recipe") == (kind in BY_RECIPE)
    assert callable(stages.function_of(kind))
    expected = {
        "backdoor": {MODEL, TRIGGER},
        "picture": {PICTURE},
        "evaluate": set(),
        "check": set(),
    }
    assert set(kind.files) == expected.get(kind, {MODEL})


def test_nothing_is_listed_that_this_test_does_not_know():
    assert set(Kind) == DEFENDERS | MEASURING | BY_RECIPE | {"imported"}


@pytest.mark.parametrize(
    "use",
    [
        Kind.named,
        lambda name: job(name).side,
        lambda name: Stage(name, "key", 1, "title", 0, 0, {}, {}, (), {}),
        task_of,
    ],
)
def test_an_unknown_kind_is_an_error_and_never_the_attackers(use):
    with pytest.raises(ValueError, match=r"unknown kind of stage 'distil'; did you mean 'distill'"):
        use("distil")
    with pytest.raises(ValueError, match=r"known: alone, .*; add it to the table in kdbench/bench"):
        use("inspect")


def test_every_stage_of_a_plan_is_of_a_listed_kind(registry):
    plan = plan_of(registry, attacks=("badnets",), defenses=("none", "robustkd", "nad"))
    assert {stage.kind for stage in plan.stages.values()} == set(Kind) - {Kind.IMPORTED}
    assert all(type(stage.kind) is Kind for stage in plan.stages.values())


def test_reading_the_table_takes_no_torch():
    code = (
        "import sys, kdbench.bench.kinds, kdbench._progress, kdbench.bench.work.executors.make;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
