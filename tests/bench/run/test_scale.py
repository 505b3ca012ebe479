"""Thousands of cells: planned, run, and found to be done. How long that takes is a figure of
``benchmarks/scale.py``."""

from __future__ import annotations

import resource

import pytest

from benchmarks.scale import Instant, any_result
from kdbench.bench.plan.build import build_plan
from kdbench.bench.plan.plan import LoadedPart
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.bench.run import runner
from kdbench.bench.run.events import Quiet
from kdbench.bench.run.schedule import wanted
from kdbench.bench.store.artefacts import Store
from kdbench.numerics import Numerics
from tests.sizes import size

MODELS = ("wrn28_4", "wrn16_4", "wrn28_2", "wrn16_2", "wrn16_1", "wrn10_1", "resnet56", "resnet20")
PAIRS = tuple((a, b) for a in MODELS for b in MODELS)


@pytest.fixture(autouse=True)
def _any_result():
    with any_result():
        yield


def part_of(stripes, spec, registry):
    return LoadedPart(
        resolved=resolve(spec, registry),
        dataset=stripes,
        dataset_name="stripes",
        train_digest=stripes.train_digest,
        test_digest=stripes.test_digest,
        num_classes=3,
        train_size=len(stripes.train),
        numerics="cpu",
        code="code",
    )


def prepared(registry, stripes, cells):
    """Four attacks x three defenses x two distillers x 64 pairs x seeds, or fewer pairs and one
    seed."""
    pairs = PAIRS[: max(1, round(cells / 24))]
    spec = RunSpec(
        attacks=("badnets", "lba", "ckd", "htba"),
        defenses=("none", "robustkd", "nad"),
        distillers=("fkd", "kd"),
        pairs=pairs,
        seeds=tuple(range(-(-cells // (24 * len(pairs))))),
    )
    part = part_of(stripes, spec, registry)
    return Prepared(spec, build_plan([part]), [part], Numerics())


def test_ten_thousand_cells_are_planned(registry, stripes, tmp_path):
    plan = prepared(registry, stripes, 10_000).plan
    schedule, rows = wanted(plan, Store(tmp_path).find)
    assert len(plan.cells) >= 10_000
    assert (len(rows), schedule.waiting) == (0, True)


def test_running_again_what_is_done_computes_nothing(registry, stripes, tmp_path):
    """make soak: 10,000 cells."""
    cells, store = size(360, 10_000), Store(tmp_path / "store")

    def go(name):
        """What only this run needs is gone when it returns, so that the peak of memory is one
        run's."""
        ready, executor = prepared(registry, stripes, cells), Instant(120, 24)
        rows = runner.run(ready, registry, tmp_path / name, Quiet(), store, executor)
        assert {row["status"] for row in rows} == {"ok"}
        return len(rows), len(ready.plan.stages), executor.jobs

    cells_done, stages, jobs = go("a")
    assert jobs == stages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert go("b") == (cells_done, stages, 0)
    assert (tmp_path / "a" / "results.csv").read_bytes() == (
        tmp_path / "b" / "results.csv"
    ).read_bytes()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= before * 1.1


@pytest.mark.parametrize("more", [{"defenses": ("none", "robustkd", "nad")}, {"seeds": (0, 1)}])
def test_a_larger_request_runs_the_difference(registry, stripes, tmp_path, more):
    def ready(**asked):
        spec = RunSpec(**({"attacks": ("badnets",), "pairs": (("wrn10_1", "wrn10_1"),)} | asked))
        part = part_of(stripes, spec, registry)
        return Prepared(spec, build_plan([part]), [part], Numerics())

    small, large, store = ready(), ready(**more), Store(tmp_path / "store")
    runner.run(small, registry, tmp_path / "a", Quiet(), store, Instant(120, 24))
    executor = Instant(120, 24)
    runner.run(large, registry, tmp_path / "b", Quiet(), store, executor)
    assert executor.jobs == len(large.plan.stages) - len(small.plan.stages)
