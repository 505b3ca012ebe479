"""The files of the presets: numbers, and remarks that are no numbers."""

from __future__ import annotations

import pytest

from kdbench.bench.request import preset_files
from kdbench.bench.request.preset_files import preset_names, preset_numbers, preset_remarks
from kdbench.bench.request.presets import Preset, read_preset
from tests.runs import plan_of


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_how_far_it_may_be_believed(name, registry):
    remarks = preset_remarks(name)
    for text in (remarks.about, *remarks.methods.values()):
        assert text == text.strip()
        assert text.isprintable()
        assert not text.endswith(".")
        assert "; " not in text, "it stands between two remarks of one row"
    for method in remarks.methods:
        kind, _, method_name = method.partition(".")
        base, _, variant = method_name.partition(".")
        facts = registry.facts(kind, base)
        assert not variant or variant in facts.variants


@pytest.mark.parametrize("name", preset_names())
def test_remarks_are_no_numbers(name):
    assert "remarks" not in read_preset(name)
    assert preset_numbers(name) == read_preset(name)
    Preset(**read_preset(name))


def test_no_key_depends_on_a_remark(registry, monkeypatch):
    def keys():
        plan = plan_of(registry, defenses=("none", "robustkd"))
        return [*plan.stages, *((cell.key, cell.names) for cell in plan.cells)]

    before, text = keys(), preset_files.preset_text
    monkeypatch.setattr(
        preset_files, "preset_text", lambda name: text(name).replace("about =", "about = 'x' #")
    )
    preset_remarks.cache_clear()
    try:
        assert preset_remarks("quick").about == "x"
        assert keys() == before
    finally:
        preset_remarks.cache_clear()
