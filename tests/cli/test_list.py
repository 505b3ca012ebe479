"""``kdbench list``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdbench.bench.request.preset_files import preset_names, preset_remarks
from tests.cli.calls import call


def test_list():
    result = call("list")
    assert result.exit_code == 0
    for name in ("badnets", "robustkd", "fkd", "wrn28_4", "cifar10", "standard"):
        assert name in result.output
    only = call("list", "attacks")
    assert "badnets" in only.output
    assert "wrn28_4" not in only.output


def test_list_json():
    found = json.loads(call("list", "--json").output)
    assert {
        "attacks",
        "defenses",
        "distillers",
        "models",
        "datasets",
        "presets",
        "teachers",
        "broken",
    } == set(found)
    columns = {"name", "title", "venue", "year", "evidence", "plugin", "version"}
    assert set(found["attacks"][0]) == columns
    assert found["broken"] == []


def test_list_says_how_far_a_preset_may_be_believed():
    (presets,) = json.loads(call("list", "presets", "--json").output).values()
    assert {preset["name"]: preset["credibility"] for preset in presets} == {
        name: preset_remarks(name).about for name in preset_names()
    }


def test_list_says_what_a_preset_is_for_and_no_reasons_of_its_numbers():
    (presets,) = json.loads(call("list", "presets", "--json").output).values()
    about = {preset["name"]: preset["about"] for preset in presets}
    assert about["quick"] == "For a laptop CPU: minutes."
    assert about["standard"] == "For one GPU, or a night on a CPU."
    assert about["paper"].startswith("RobustKD (Chen et al. 2024) and, where it is silent,")
    assert about["paper"].endswith("(docs/methods.md says which).")


def test_list_tells_of_one_method_or_model():
    (table,) = json.loads(call("list", "attacks", "ckd.lowvar", "--json").output).values()
    (lowvar,) = [row for row in table if row["field"] == "lowvar"]
    assert lowvar["value"] == "0.1"
    assert "variance" in next(row["what"] for row in table if row["field"] == "var_mode")
    (title, groups), *_ = json.loads(
        call("list", "models", "wrn16_1", "--image-size", "16", "--json").output
    ).items()
    assert title.startswith("wrn16_1 at 16x16,")
    assert [row["channels x height x width"] for row in groups] == ["16x16x16", "32x8x8", "64x4x4"]
    (groups,) = json.loads(call("list", "models", "timm/resnet18", "--json").output).values()
    assert [row["module"] for row in groups] == ["layer1", "layer2", "layer3"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("models", "wrn16"), "did you mean 'wrn16_4'"),
        (("attacks", "lbb"), "did you mean 'lba'"),
        (("attacks", "lba.x"), "unknown variant of lba 'x'"),
        (("presets", "quick"), "NAME goes with methods and models"),
    ],
)
def test_list_of_an_unknown_name(arguments, says):
    result = call("list", *arguments)
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.parametrize(
    ("word", "command"),
    [
        ("lba", "kdbench list attack lba"),
        ("robustkd.eq15", "kdbench list defense robustkd.eq15"),
        ("wrn16-2", "kdbench list model wrn16_2"),
        ("gtsrbb", "kdbench list datasets"),
        ("quick", "kdbench list presets"),
        ("attak", "kdbench list attacks"),
    ],
)
def test_a_word_that_is_no_kind_is_looked_up(word, command, tmp_path):
    result = call("list", word, "--store", str(tmp_path))
    assert result.exit_code == 2
    assert f"unknown kind {word!r}; did you mean `{command}`? known: attacks, " in result.stderr


def test_a_word_that_is_like_nothing_gets_the_kinds(tmp_path):
    result = call("list", "\x1bzzzz", "--store", str(tmp_path))
    assert result.exit_code == 2
    assert "; known: attacks, defenses, distillers, models, datasets, presets" in result.stderr
    assert "\x1b" not in result.stderr


def test_list_shows_broken_plugins_harmlessly(monkeypatch):
    from kdbench.loading.candidates import Plugin
    from kdbench.loading.catalogue import Catalogue

    cause = "ValueError: [bold red]\x1b[2J boom"
    broken = Plugin("evil", "evil", "dist", status="broken", cause=cause)

    def load(cls, hosts, points=None, choice=None):
        return cls(plugins=[broken], hosts=hosts)

    monkeypatch.setattr(Catalogue, "load", classmethod(load))
    result = call("list", "attacks")
    assert result.exit_code == 0
    assert "evil" in result.output
    assert r"[bold red]\x1b[2J boom" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("kind", ["attack", "defense", "distiller", "model", "dataset", "preset"])
def test_a_kind_may_be_written_in_the_singular(kind):
    assert call("list", kind).output == call("list", f"{kind}s").output


def test_a_method_of_a_kind_in_the_singular():
    one, several = (call("list", kind, "lba", "--json") for kind in ("attack", "attacks"))
    assert one.exit_code == 0
    assert one.output == several.output
    assert "`kdbench list attacks`" in call("list", "attackss").stderr


def test_evidence_is_a_page_that_names_the_method():
    """What was not measured says so."""
    pages = Path(__file__).parents[2] / "benchmarks" / "findings"
    found = json.loads(call("list", "--json").output)
    for kind in ("attacks", "distillers", "defenses"):
        for entry in found[kind]:
            name, page = entry["name"], entry["evidence"]
            if "." in name:
                assert page == "", "a variant is its method's"
            elif page != "none yet":
                assert name in (pages / f"{page}.md").read_text(encoding="utf-8").lower(), name
    assert {entry["evidence"] for entry in found["attacks"]} >= {"does-a-backdoor-travel"}
