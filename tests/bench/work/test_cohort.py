"""Students that are trained side by side from one pass of their teacher are what they would be
alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from kdbench.bench.plan import prepare
from kdbench.bench.plan.plan import Plan, Stage
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.schedule import Schedule
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.loading.choice import PluginChoice
from kdbench.loading.registry import Registry
from kdbench.models import create_model
from kdbench.numerics import Numerics
from kdbench.training import (
    DifferentEpochsError,
    Fit,
    RandomStates,
    Recipe,
    Silent,
    Trainee,
    train_together,
)
from kdbench.training.checkpoint import FolderCheckpoints
from tests.runs import ANY_TEACHER
from tests.runs import go as go_by

RECIPE = Recipe(epochs=2, batch_size=40, lr=0.05, schedule="onecycle")


def trainee(seed, *, states=True, folder=None, epochs=2):
    """A network whose loss draws at random, as dropout would."""
    torch.manual_seed(seed)
    model = create_model("wrn10_1", 3).train()
    own = RandomStates() if states else None

    def loss(batch, shared):
        noise = torch.rand(()) * 0.1
        return {
            "ce": torch.nn.functional.cross_entropy(model(batch.images + shared), batch.labels)
            * (1 + noise)
        }

    kept = {} if folder is None else {"checkpoints": FolderCheckpoints(folder, 0)}
    fit = Fit(Numerics(threads=1), Silent(), **kept)
    return model, Trainee(
        fit, model, loss, RECIPE.model_copy(update={"epochs": epochs}), 240, states=own
    )


def train(trainees, stripes):
    generator = torch.Generator().manual_seed(5)
    train_together(
        trainees,
        stripes.train,
        generator=generator,
        augmentation=stripes.augmentation,
        share=lambda batch: 0.01 * batch.images,
    )


def same(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_together_is_as_alone(stripes):
    alone = []
    for seed in (1, 2, 3):
        model, one = trainee(seed)
        train([one], stripes)
        alone.append((model, one.history))
    several = [trainee(seed) for seed in (1, 2, 3)]
    train([one for _, one in several], stripes)
    for (model, history), (other, one) in zip(alone, several, strict=True):
        assert same(model, other)
        assert history == one.history
    assert not same(alone[0][0], alone[1][0])


def test_without_states_of_their_own_they_would_differ(stripes):
    model, one = trainee(1)
    train([one], stripes)
    (other, first), (_, second) = trainee(1, states=False), trainee(2, states=False)
    train([first, second], stripes)
    assert not same(model, other)


def test_one_that_raises_stops_alone(stripes):
    (model, one), (_, bad) = trainee(1), trainee(2)
    bad._turns[0].loss = lambda batch, shared: 1 / 0
    train([bad, one], stripes)
    assert isinstance(bad.error, ZeroDivisionError)
    assert (one.error, len(one.history), len(bad.history)) == (None, 2, 0)
    reference, alone = trainee(1)
    train([alone], stripes)
    assert same(model, reference)


def test_those_that_are_not_equally_far_are_trained_apart(stripes, tmp_path):
    model, whole = trainee(1)
    train([whole], stripes)

    class Stopped(Exception):
        pass

    class StopAfterOne(Silent):
        def step(self, step):
            if step.epoch == 2:
                raise Stopped

    _, begun = trainee(1, folder=tmp_path / "a")
    begun.fit = replace(begun.fit, progress=StopAfterOne())
    train([begun], stripes)
    assert isinstance(begun.error, Stopped)
    (resumed, first), (_, second) = (
        trainee(1, folder=tmp_path / "a"),
        trainee(2, folder=tmp_path / "b"),
    )
    with pytest.raises(DifferentEpochsError):
        train([first, second], stripes)
    train([first], stripes)
    assert same(model, resumed)


BAD = """
import os
from kdbench.hookspecs import hookimpl
from kdbench.method import Info
from kdbench_kd.method import KD

class Raises(KD):
    info = Info("raises", "t", "a", "v", 2020, "http://x")
    def objective(self, teacher, student):
        raise RuntimeError("no connector for this")

class Exits(KD):
    info = Info("exits", "t", "a", "v", 2020, "http://x")
    def objective(self, teacher, student):
        os._exit(3)

@hookimpl
def kdbench_distillers():
    return [Raises, Exits]
"""


@pytest.fixture
def go(stripes, tmp_path, monkeypatch):
    """Run distillers on the striped pictures; answers (rows by distiller and student, the
    distillations of run.json)."""
    (tmp_path / "bad.py").write_text(BAD)
    everything = Registry.load(choice=PluginChoice(files=(tmp_path / "bad.py",)))
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)

    def go_through(distillers, name, students=("wrn10_1",), **options):
        spec = RunSpec(
            attacks=("badnets",),
            defenses=("none",),
            distillers=distillers,
            numerics="fp32",
            controls=False,
            threads=1,
            pairs=tuple(("wrn10_1", student) for student in students),
            overrides={f"{part}.epochs": "1" for part in ("clean", "poison", "distill")}
            | ANY_TEACHER,
        )
        store, out = Store(tmp_path / f"store-{name}"), tmp_path / name
        rows = go_by(spec, everything, out, store, executor=LocalExecutor(jobs=1), **options)
        stages = json.loads((out / "run.json").read_text())["stages"]
        return {(r["distiller"], r["student"]): r for r in rows}, [
            s for s in stages if s["kind"] == "distill"
        ]

    return go_through


def test_a_run_with_cohorts_gives_the_same_rows(go):
    distillers, students = ("fkd.evalbn", "kd", "at"), ("wrn10_1", "wrn16_1")
    together, stages = go(distillers, "together", students)
    assert [stage["facts"]["cohort"] for stage in stages] == [4, 4, 4, 4, 2, 2]
    apart, alone = go(distillers, "apart", students, cohort=1)
    assert all("cohort" not in stage["facts"] for stage in alone)
    assert together.keys() == apart.keys()
    for name, row in together.items():
        assert row["status"] == "ok"
        for column in ("student_sha256", "teacher_sha256", "student_acc_hits", "student_asr_hits"):
            assert row[column] == apart[name][column], (name, column)


def test_another_batch_norm_mode_is_another_cohort(go):
    _, stages = go(("fkd", "kd"), "modes")
    # fkd: each batch's statistics; kd: the stored ones
    assert all("cohort" not in stage["facts"] for stage in stages)


def test_one_that_raises_takes_nobody_along(go):
    rows, _ = go(("kd", "raises", "at"), "raises")
    assert {name: row["status"] for (name, _), row in rows.items()} == {
        "kd": "ok",
        "raises": "failed",
        "at": "ok",
    }
    assert rows["raises", "wrn10_1"]["reason"].endswith(
        "RuntimeError: no connector for this (bad.py:10)"
    )


def test_one_that_ends_the_process_is_found_out(go):
    rows, _ = go(("kd", "exits", "at"), "exits")
    assert {name: row["status"] for (name, _), row in rows.items()} == {
        "kd": "ok",
        "exits": "crashed",
        "at": "ok",
    }


def test_workers_with_nothing_else_to_do_are_not_kept_waiting():
    stages = {
        k: Stage("distill", k, n, k, 0, 0, {}, {}, (), {}, cohort)
        for n, (k, cohort) in enumerate(zip("abcd", "xxyx", strict=True))
    }
    schedule = Schedule(Plan(stages), lambda key: None)
    for key in stages:
        schedule.want(key)
    assert schedule.take() == "a"
    assert schedule.take_alike("x", 0) == schedule.take_alike("", 4) == []
    assert schedule.take_alike("x", 4, without={"b"}) == ["d"]
    assert schedule.ready == 2
    assert [schedule.take(), schedule.take(), schedule.take()] == ["b", "c", None]
