"""Two runs that share a store: the one that waits says why."""

from __future__ import annotations

import os

import pytest

from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.events import Quiet
from kdbench.bench.store.artefacts import Store
from tests.runs import ANY_TEACHER, go

SPEC = RunSpec(
    attacks=("badnets",),
    defenses=("none",),
    pairs=(("wrn10_1", "wrn10_1"),),
    numerics="fp32",
    controls=False,
    overrides={f"{stage}.epochs": "1" for stage in ("clean", "poison", "distill")}
    | {f"{stage}.min_steps": "1" for stage in ("clean", "poison", "distill")}
    | ANY_TEACHER,
)


class Waits(Quiet):
    """Remembers what waited, and lets something happen then."""

    def __init__(self, then):
        self.then, self.waits, self.taken, self.started = then, [], [], []

    def stage_started(self, number, kind, title):
        self.started.append(title)

    def stage_waits(self, number, kind, title, why):
        self.waits.append((title, why))
        self.then()

    def stage_taken(self, number, kind, title):
        self.taken.append(title)


@pytest.fixture
def locked(registry, stripes, tmp_path, monkeypatch):
    """(a store, the lock of the stage that a run begins with)."""
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)
    monkeypatch.setattr("kdbench.bench.run.runner._PATIENCE_S", 0.01)
    store = Store(tmp_path / "store")
    stages = prepare.prepare(SPEC, registry, store).plan.stages
    first = next(stage for stage in stages.values() if stage.title == "train clean wrn10_1")
    return store, store.lock(first.key)


def test_a_stage_that_another_run_computes_says_so_once(locked, registry, tmp_path):
    store, lock = locked
    reporter = Waits(lock.release)
    rows = go(SPEC, registry, tmp_path / "out", store, reporter)
    assert [row["status"] for row in rows] == ["ok"]
    ((title, why),) = reporter.waits
    assert title == "train clean wrn10_1"
    assert why in (
        f"another run of this store computes it (process {os.getpid()})",
        "another run of this store computes it",
    )
    assert title in reporter.started
    assert reporter.taken == []


def test_what_another_run_has_computed_is_taken(locked, registry, tmp_path):
    store, lock = locked

    def other_run():
        lock.release()
        go(SPEC, registry, tmp_path / "other", store)

    reporter = Waits(other_run)
    rows = go(SPEC, registry, tmp_path / "out", store, reporter)
    assert [row["status"] for row in rows] == ["ok"]
    assert "train clean wrn10_1" in reporter.taken
    assert "train clean wrn10_1" not in reporter.started
