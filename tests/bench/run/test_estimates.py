"""What a stage will cost where its networks were never trained here."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from kdbench_nad.method import NAD

from kdbench.bench.kinds import Kind
from kdbench.bench.plan.build import build_plan
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.bench.run.timings import FILE, Timings
from kdbench.bench.run.work import work
from tests.runs import part_of

SMALL, DEEP = ("wrn10_1", "wrn10_1"), ("wrn16_2", "wrn10_1")
#: Seconds until a process has started, and seconds for an operation.
START, SPEED = 2.0, 1e-9


def stages(registry, pair, image_size=16, **asked):
    """Every stage of a small request, by what it does."""
    common = {"attacks": ("badnets",), "defenses": ("none", "finetune"), "pairs": (pair,)}
    spec = RunSpec(**{**common, **asked})
    part = part_of(resolve(spec, registry), image_size=image_size)
    return {stage.title: stage for stage in build_plan([part]).stages.values()}


def seconds(stage):
    """Of a machine on which a stage takes as long as its arithmetic."""
    if stage.kind is Kind.PICTURE:
        return START
    return START + SPEED * (stage.images or 1) * work(
        stage.kind.training, stage.networks, *stage.shape
    )


@pytest.fixture
def small(registry, tmp_path):
    """The record of a run of the small pair on such a machine."""
    record = Timings(tmp_path)
    for stage in stages(registry, SMALL).values():
        record.add(stage, SimpleNamespace(seconds=seconds(stage), size=100))
    return tmp_path


def test_a_network_that_was_never_trained_is_estimated_by_its_arithmetic(registry, small):
    timings = Timings(small)
    deep = stages(registry, DEEP)
    for title in ("train clean wrn16_2", "distill wrn10_1 from clean wrn16_2 by fkd"):
        cost = timings.cost(deep[title])
        assert not cost.exact
        assert cost.seconds == pytest.approx(seconds(deep[title])), title
        assert cost.seconds > 3 * START
    assert all(timings.cost(stage) is not None for stage in deep.values())


def test_a_distillation_is_estimated_by_those_with_its_methods(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(NAD, "steps", lambda self: frozenset({"objective"}))
    asked = {"defenses": ("none", "nad"), "distillers": ("fkd", "kd")}
    record, speeds = Timings(tmp_path), {}

    def took(stage):
        """Every two methods have a speed of their own."""
        values = stage.values
        if stage.kind is Kind.DISTILL:
            methods = values["distiller"]["name"], (values["defense"] or {}).get("name")
            speed = speeds.setdefault(methods, 1 + len(speeds))
            return START + speed * (seconds(stage) - START)
        return seconds(stage)

    for stage in stages(registry, SMALL, **asked).values():
        record.add(stage, SimpleNamespace(seconds=took(stage), size=100))
    timings = Timings(tmp_path)
    for title, stage in stages(registry, DEEP, **asked).items():
        if stage.kind is Kind.DISTILL:
            assert timings.cost(stage).seconds == pytest.approx(took(stage)), title
    assert len(speeds) == 4


def test_stages_that_are_alike_are_estimated_once(registry, small, monkeypatch):
    """A plan may have hundreds of thousands, and the record thousands of lines."""
    calls = []
    monkeypatch.setattr(
        "kdbench.bench.run.timings.work", lambda *what: calls.append(what) or work(*what)
    )
    timings, stage = Timings(small), stages(registry, DEEP)["train clean wrn16_2"]
    first = timings.cost(stage)
    asked = len(calls)
    assert asked > 0
    assert [timings.cost(replace(stage, seed=n)) for n in range(9)] == [first] * 9
    assert len(calls) == asked


def test_what_a_stage_takes_follows_its_networks():
    assert work("none", ("wrn10_1", "wrn16_2"), 10, 16) == work("none", ("wrn10_1",), 10, 16)
    alone, taught = work("recipe", ("wrn10_1",), 10, 16), work("recipe", SMALL, 10, 16)
    assert taught == pytest.approx(alone * 4 / 3), "forward and back are three passes"
    assert work("recipe", ("wrn10_1",), 10, 32) > 3.5 * alone


def test_nothing_is_made_up_where_a_network_or_the_images_are_not_known(registry, small):
    assert work("recipe", ("a_plugin_has_it",), 10, 16) is None
    unknown = stages(registry, DEEP, image_size=None)["train clean wrn16_2"]
    assert Timings(small).cost(unknown) is None


@pytest.mark.parametrize("shape", [[10, 10**9], [10**9, 16], "ab", [1]])
def test_a_line_that_says_anything_costs_nothing(registry, small, shape):
    file = small / FILE
    notes = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(note | {"shape": shape}) + "\n" for note in notes))
    assert Timings(small).cost(stages(registry, DEEP)["train clean wrn16_2"]) is None


def test_a_line_of_an_older_version_still_counts_for_its_own_networks(registry, small):
    file = small / FILE
    notes = [json.loads(line) for line in file.read_text().splitlines()]
    for note in notes:
        del note["shape"], note["networks"], note["any_network"]
    file.write_text("".join(json.dumps(note) + "\n" for note in notes))
    timings = Timings(small)
    assert timings.cost(stages(registry, SMALL)["train clean wrn10_1"]).exact
    assert timings.cost(stages(registry, DEEP)["train clean wrn16_2"]) is None
