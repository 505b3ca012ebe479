"""A preset has numbers of its own for the pairs of a deep teacher."""

from __future__ import annotations

from copy import deepcopy

import pytest

from kdbench.bench.request.preset_files import preset_names
from kdbench.bench.request.presets import RECIPES, Preset, read_preset
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.errors import ConfigError
from kdbench.training import Recipe
from tests.runs import plan_of

SMALL, DEEP = ("wrn16_2", "wrn16_1"), ("resnet56", "wrn16_1")
NUMBERS = {
    "clean": {"min_steps": 77, "lr": 0.3},
    "distill": {"batch_size": 16},
    "repair": {"epochs": 9},
}


def with_networks(name):
    """A preset with numbers of its own for the pairs of resnet56."""
    return read_preset(name) | {"networks": {"resnet56": deepcopy(NUMBERS)}}


@pytest.fixture
def deep(monkeypatch):
    """Every preset has numbers of its own for the pairs of resnet56."""
    monkeypatch.setattr("kdbench.bench.request.spec.read_preset", with_networks)


def plan(registry, **asked):
    asked = {"attacks": ("badnets",), "defenses": ("none", "nad"), "pairs": (SMALL, DEEP), **asked}
    return plan_of(registry, **asked)


def recipes(plan):
    """Title -> recipe of every stage that trains by one."""
    return {s.title: s.values["recipe"] for s in plan.stages.values() if "recipe" in s.values}


def cell(plan, pair, defense="nad"):
    (match,) = (
        cell
        for cell in plan.cells
        if (cell.names["teacher"], cell.names["defense"]) == (pair[0], defense)
    )
    return match


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_names_networks_that_exist_and_numbers_that_a_recipe_has(name, registry):
    preset = Preset(**read_preset(name))
    assert set(preset.networks) <= set(registry.models)
    for network in preset.networks:
        preset.of_teacher(network)


def test_a_teacher_without_numbers_of_its_own_has_those_of_the_preset():
    table = with_networks("quick")
    preset, without = Preset(**table), Preset(**table | {"networks": {}})
    assert preset.of_teacher("wrn16_2") == without
    assert preset.of_teacher("resnet56").poison == without.poison


def test_the_numbers_hold_for_all_stages_of_the_pairs_of_the_teacher(registry, deep):
    found = recipes(plan(registry))
    quick = read_preset("quick")
    base = {name: Recipe(**quick[name]).model_dump(mode="json") for name in RECIPES}
    want = {
        "train clean resnet56": ("clean", NUMBERS["clean"]),
        "implant badnets in resnet56": ("poison", {}),
        "distill wrn16_1 from clean resnet56 by fkd": ("distill", NUMBERS["distill"]),
        "distill wrn16_1 from resnet56 with badnets by fkd": ("distill", NUMBERS["distill"]),
        "nad: repair wrn16_1 from resnet56 with badnets": ("repair", NUMBERS["repair"]),
        "train clean wrn16_2": ("clean", {}),
        "distill wrn16_1 from wrn16_2 with badnets by fkd": ("distill", {}),
        "nad: repair wrn16_1 from wrn16_2 with badnets": ("repair", {}),
    }
    assert {title: found[title] for title in want} == {
        title: base[name] | numbers for title, (name, numbers) in want.items()
    }


def test_the_student_alone_is_trained_as_the_distilled_one_of_each_pair(registry, deep):
    laid_out = plan(registry)
    sizes = {
        pair[0]: laid_out.stages[cell(laid_out, pair).trained["c2"]].values["recipe"]["batch_size"]
        for pair in (SMALL, DEEP)
    }
    of_preset = read_preset("quick")["distill"]["batch_size"]
    assert of_preset != 16, "or both pairs have one size, and this test shows nothing"
    assert sizes == {"wrn16_2": of_preset, "resnet56": 16}


def test_the_digests_of_the_rows_concerned_have_them_and_the_name_promises_them(
    registry, monkeypatch
):
    before = plan(registry)
    monkeypatch.setattr("kdbench.bench.request.spec.read_preset", with_networks)
    after = plan(registry)
    for pair, moves in ((SMALL, False), (DEEP, True)):
        names = [cell(of, pair).names for of in (before, after)]
        for digest in ("setting_digest", "shared_digest", "defense_digest"):
            assert (names[0][digest] != names[1][digest]) is moves, (pair, digest)
        assert names[0]["attack_digest"] == names[1]["attack_digest"], "poison is as it was"
        assert names[1]["changed"] is None


def test_what_is_set_wins_for_every_teacher(registry, deep):
    laid_out = plan(registry, overrides={"clean.min_steps": "5", "repair.epochs": "3"})
    found = recipes(laid_out)
    of_deep = found["train clean resnet56"]
    assert (of_deep["min_steps"], of_deep["lr"]) == (5, 0.3)
    repair = found["nad: repair wrn16_1 from resnet56 with badnets"]
    assert (repair["epochs"], repair["min_steps"]) == (3, 0), "who sets epochs gets them"
    assert cell(laid_out, DEEP).names["changed"] == "clean.min_steps=5; repair.epochs=3"


def test_what_is_set_to_the_promise_of_one_teacher_is_a_change_of_the_other(registry, deep):
    laid_out = plan(registry, overrides={"distill.batch_size": "16"})
    assert cell(laid_out, DEEP).names["changed"] is None
    assert cell(laid_out, SMALL).names["changed"] == "distill.batch_size=16"


def test_every_number_is_on_record(registry, deep):
    spec = RunSpec(attacks=("badnets",), pairs=(SMALL, DEEP))
    assert resolve(spec, registry).as_dict()["preset"]["networks"] == {"resnet56": NUMBERS}


def test_a_table_of_a_network_is_no_key_of_set(registry):
    spec = RunSpec(
        attacks=("badnets",), pairs=(SMALL,), overrides={"networks.resnet56.clean.lr": "1"}
    )
    with pytest.raises(ConfigError, match="unknown --set key 'networks"):
        resolve(spec, registry)
