"""Rows say what is known of their preset today, even those that the store has had for long."""

from __future__ import annotations

import csv

import pytest

from kdbench.bench.plan import prepare
from kdbench.bench.request.preset_files import PresetRemarks
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run import results
from kdbench.bench.store.artefacts import Store
from tests.runs import go

SPEC = RunSpec(
    attacks=("badnets",),
    pairs=(("wrn10_1", "wrn10_1"),),
    numerics="fp32",
    controls=False,
    overrides={f"{stage}.epochs": "1" for stage in ("clean", "poison", "distill")},
)


@pytest.fixture(autouse=True)
def _striped(stripes, monkeypatch):
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)


@pytest.fixture
def known(monkeypatch):
    """Says what is known of every preset."""

    def say(**methods):
        remarks = PresetRemarks("a preset", {f"attack.{n}": t for n, t in methods.items()})
        monkeypatch.setattr(results, "preset_remarks", lambda name: remarks)

    return say


def test_a_row_of_the_store_gets_the_remark_of_today(registry, tmp_path, known):
    store = Store(tmp_path / "store")
    known()
    (first,) = go(SPEC, registry, tmp_path / "first", store)
    assert first["preset_remark"] is None
    known(badnets="too easy")
    (second,) = go(SPEC, registry, tmp_path / "second", store)
    assert second == first | {"preset_remark": "badnets: too easy"}
    with (tmp_path / "second" / "results.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["preset_remark"] == "badnets: too easy"
