"""A cell's digests hold every number that shapes it and no other; ``changed`` says what its names
do not promise."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from kdbench.bench.plan.build import build_plan
from kdbench.bench.request.presets import Preset
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.errors import ConfigError
from kdbench.report.settings import DIGESTS, changes, part_of
from tests import runs
from tests.runs import plan_of

ALL = ("setting_digest", *DIGESTS)
AXES = {
    "attacks": ("badnets", "lba"),
    "defenses": ("none", "robustkd", "nad"),
    "distillers": ("fkd", "kd"),
}


def cells(registry, **asked):
    """(attack, defense, distiller) -> the cell, of one seed."""
    plan = plan_of(registry, **{**AXES, **asked})
    return {
        tuple(cell.names[name] for name in ("attack", "defense", "distiller")): cell
        for cell in plan.cells
    }


def digests_of(cell):
    return tuple(cell.names[name] for name in ALL)


def changed(registry, *names, **asked):
    return cells(registry, **asked)[names].names["changed"]


def candidates(registry):
    """Every number that ``--set`` takes here, with values to try."""
    for section in ("clean", "poison", "distill", "repair"):
        recipe = Preset.model_fields[section].annotation
        for name, field in recipe.model_fields.items():
            yield f"{section}.{name}", field.annotation
    for kind, names in AXES.items():
        for name in names:
            cls = registry.get(kind[:-1], name)
            for field_name, field in cls.Params.model_fields.items():
                yield f"{kind[:-1]}.{name}.{field_name}", field.annotation


def values(annotation):
    words = [word for word in get_args(annotation) if isinstance(word, str)]
    return [*words, "true", "false", "3", "7", "0.015", "0.37", "[0.1, 0.2]", "[2]"]


def test_a_number_is_in_the_digests_of_the_cells_that_it_shapes_and_of_no_others(registry):
    before = cells(registry)
    tried = 0
    for key, annotation in candidates(registry):
        for value in values(annotation):
            try:
                after = cells(registry, overrides={key: value})
            except ConfigError:
                continue  # no value of this number
            shaped = {name for name in before if before[name].measured != after[name].measured}
            for digest in ALL:
                moved = {n for n in before if before[n].names[digest] != after[n].names[digest]}
                of_part = digest in ("setting_digest", f"{part_of(key)}_digest")
                assert moved == (shaped if of_part else set()), (key, value, digest)
            entries = {n: after[n].names["changed"] or "" for n in after}
            told = {n for n, text in entries.items() if f"{key}=" in text}
            assert told == shaped or key.endswith(".epochs"), (key, value)
            tried += 1
    assert tried > 150


def test_names_promise_their_numbers(registry):
    assert {cell.names["changed"] for cell in cells(registry).values()} == {None}
    of_paper = cells(registry, presets=("paper",))
    assert {cell.names["changed"] for cell in of_paper.values()} == {None}
    variants = cells(registry, defenses=("robustkd.eq15",), distillers=("kd.hinton",))
    assert {cell.names["changed"] for cell in variants.values()} == {None}


def test_what_is_set_is_listed_in_order(registry):
    overrides = {
        "distiller.fkd.alpha": "0.004",
        "distill.epochs": "20",
        "attack.lba.steps": "7",
        "defense.nad.epochs": "5",
    }
    asked = {"overrides": overrides, "train_size": 800}
    text = "distill.epochs=20; distiller.fkd.alpha=0.004; train_size=800"
    assert changed(registry, "badnets", "none", "fkd", **asked) == text
    assert changed(registry, "badnets", "none", "kd", **asked) == (
        "distill.epochs=20; train_size=800"
    )
    assert changed(registry, "lba", "nad", "fkd", **asked) == (
        f"attack.lba.steps=7; defense.nad.epochs=5; {text}"
    )


def test_a_number_set_to_what_is_promised_changes_nothing(registry):
    same = {"distiller.fkd.alpha": "0.001", "distill.lr": "0.1", "clean_fraction": "1.0"}
    before, after = cells(registry), cells(registry, overrides=same, target_class=0, image_size=16)
    for name in before:
        assert before[name].names == after[name].names


def test_epochs_mean_themselves_and_steps_that_are_set_are_listed(registry):
    def text(**overrides):
        of = {f"distill.{name}": value for name, value in overrides.items()}
        return changed(registry, "badnets", "none", "fkd", overrides=of)

    assert text(epochs="20") == "distill.epochs=20"
    assert text(epochs="20", min_steps="30") == "distill.epochs=20; distill.min_steps=30"
    assert text(epochs="3") == "distill.min_steps=0", "3 are the preset's, at least 560 steps"


def test_a_variant_of_ones_own_promises_the_numbers_of_its_method(registry):
    own = "robustkd.m30"
    key = ("badnets", own, "fkd")
    overrides = {"defense.robustkd.m30.m_max": "0.3"}
    text = changed(registry, *key, defenses=(own,), overrides=overrides)
    assert text == "defense.robustkd.m30.m_max=0.3"
    base = {"defense.robustkd.steps": "7"}
    both = changed(registry, *key, defenses=(own,), overrides=overrides | base)
    assert both == "defense.robustkd.m30.m_max=0.3; defense.robustkd.m30.steps=7"


def test_the_request_is_listed_too(registry):
    text = changed(
        registry,
        *("badnets", "nad", "fkd"),
        target_class=2,
        data_seed=3,
        clean_fraction=0.05,
        transfer_fraction=0.1,
        image_size=20,
        test_size=30,
    )
    assert text == (
        "clean_fraction=0.05; data_seed=3; image_size=20; target_class=2; test_size=30; "
        "transfer_fraction=0.1"
    )


def test_the_deployers_share_is_a_shared_number_and_the_bound_of_a_teacher_is_none(registry):
    before = cells(registry)
    fewer = cells(registry, transfer_fraction=0.1)
    set_so = cells(registry, overrides={"transfer_fraction": "0.1"})
    bound = cells(registry, overrides={"min_teacher_acc": "70"})
    for name, cell in before.items():
        assert fewer[name].names["transfer_fraction"] == 0.1
        assert fewer[name].names["shared_digest"] != cell.names["shared_digest"]
        assert set_so[name].names == fewer[name].names
        # The numbers are the same, and the row is another: it may have another status.
        assert bound[name].names == cell.names
        assert bound[name].key != cell.key


def test_unlabeled_images_are_a_shared_number_where_they_are_asked_for(registry):
    before, given = cells(registry), cells(registry, unlabeled=0.3)
    for name, cell in before.items():
        assert cell.names["unlabeled"] is None
        assert given[name].names["unlabeled"] == 0.3
        assert given[name].names["shared_digest"] != cell.names["shared_digest"]
        assert "unlabeled=0.3" in given[name].names["changed"].split("; ")


def test_without_an_attack_all_images_are_the_deployers(registry):
    def share(**asked):
        spec = RunSpec(pairs=(("wrn10_1", "wrn10_1"),), **asked)
        resolved = resolve(spec, registry)
        return resolved.preset.transfer_fraction, resolved.promised_preset.transfer_fraction

    fifth = share(attacks=("badnets",))[0]
    assert fifth < 1, "quick's share, or this test shows nothing"
    assert share(teacher_from=("mine",)) == (1.0, 1.0)
    assert share(teacher_from=("mine",), transfer_fraction=0.5) == (0.5, 1.0)
    assert share(teacher_from=("mine",), overrides={"transfer_fraction": "0.5"}) == (0.5, 1.0)
    assert share(teacher_from=("mine",), attacks=("badnets",)) == (fifth, fifth)


def test_a_size_of_a_dataset_is_promised_by_its_name(registry):
    def text(**asked):
        return changed(registry, "badnets", "none", "fkd", datasets=("cifar10",), **asked)

    assert text(image_size=32, train_size=50_000, num_classes=10) is None
    assert text(train_size=5_000, num_classes=4) == "num_classes=4; train_size=5000"


def test_seed_machine_code_and_software_are_no_numbers(registry):
    spec = RunSpec(attacks=("badnets",), pairs=(("wrn16_2", "wrn16_1"),), seeds=(0, 1))
    part = runs.part_of(resolve(spec, registry))
    other = replace(part, numerics="cuda", code="other", software={"torch": "9"})
    plans = build_plan([part]), build_plan([other])
    assert not {c.key for c in plans[0].cells} & {c.key for c in plans[1].cells}
    assert len({digests_of(cell) for plan in plans for cell in plan.cells}) == 1


@pytest.mark.parametrize(
    "images", [{"train_digest": "other"}, {"test_digest": "other"}, {"num_classes": 11}]
)
def test_the_images_are_numbers(registry, images):
    spec = RunSpec(attacks=("badnets",), pairs=(("wrn16_2", "wrn16_1"),))
    part = runs.part_of(resolve(spec, registry))
    before, after = (
        digests_of(build_plan([one]).cells[0]) for one in (part, replace(part, **images))
    )
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True, True]


def test_no_value_is_recorded_by_the_word_that_sets_it(registry):
    names = "lba", "none", "fkd"
    text = changed(registry, *names, overrides={"attack.lba.max_universal": "none"})
    assert text == "attack.lba.max_universal=none"
    assert changed(registry, *names, overrides=dict([text.split("=")])) == text


def test_a_text_cannot_end_an_entry(registry):
    from kdbench.bench.plan.numbers import _text

    assert (_text("fp32"), _text(0.004), _text([1, 2]), _text(None)) == (
        "fp32",
        "0.004",
        "[1, 2]",
        "none",
    )
    hostile = {"changed": f"attack.x.word={_text('a; distill.epochs=9')}; train_size=8"}
    assert len(changes(hostile)) == 2
    assert changes(hostile, "shared") == ["train_size=8"]
    assert "\x1b" not in _text("\x1b[2J")


@pytest.mark.parametrize("kind", ["alone", "clean", "backdoor", "distill", "cleanse", "repair"])
def test_random_states_know_no_role_of_a_cell(registry, kind):
    plan = plan_of(registry, **AXES)
    states = [s.random for s in plan.stages.values() if s.kind == kind]
    assert states
    roles = {"c1", "c2", "c3", "clean_teacher", "undefended", "source", "student", "teacher"}
    assert not roles & {word for state in states for word in state}
