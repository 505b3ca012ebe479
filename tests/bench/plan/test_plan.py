"""Stages are shared where they can be, and keyed by what can change their result."""

import json

import pytest

from kdbench.bench.keys import digest
from kdbench.bench.kinds import Kind
from kdbench.bench.plan.build import STAGE_VERSION
from kdbench.bench.plan.plan import Stage
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.errors import ConfigError, PluginLoadError, UnknownMethodError
from tests.runs import plan_of as plan


def kinds(plan):
    """Of the stages that train something."""
    return [stage.kind for stage in plan.stages.values() if stage.kind.training != "none"]


def test_the_random_state_of_a_stage_is_made_in_one_way_only():
    """The formula is in no key: with another one, what the store has would be taken for the same.
    So whoever changes it raises STAGE_VERSION."""
    stage = Stage(Kind.DISTILL, "key", 1, "title", 0, 3, {}, {}, ("fkd", "wrn10_1"), {})
    assert STAGE_VERSION == 4
    assert (stage.random_seed(), stage.stream_seed()) == (571956760000952826, 855058949938657232)


def test_teachers_and_controls_are_trained_once_for_all_cells(registry):
    crossed = plan(registry, attacks=("badnets", "lba"), defenses=("none", "robustkd", "nad"))
    assert len(crossed.cells) == 6
    # one clean teacher and the student alone (C2), two backdoors, C1 once, C3 twice, RobustKD
    # twice; NAD repairs C3's students
    assert {k: kinds(crossed).count(k) for k in set(kinds(crossed))} == {
        "clean": 1,
        "alone": 1,
        "backdoor": 2,
        "cleanse": 2,
        "distill": 5,
        "repair": 2,
    }


def test_a_cell_knows_the_teacher_that_its_defense_cleansed(registry):
    crossed = plan(registry, defenses=("none", "robustkd", "nad"))
    of = {cell.names["defense"]: cell.trained.get("cleansed") for cell in crossed.cells}
    assert of["none"] is None
    assert of["nad"] is None
    assert crossed.stages[of["robustkd"]].kind == "cleanse"


def test_the_undefended_cell_is_the_control(registry):
    cell = plan(registry).cells[0]
    assert cell.trained["student"] == cell.trained["c3"]
    assert cell.trained["student"] != cell.trained["c1"]


def test_defended_and_undefended_students_draw_the_same_batches(registry):
    crossed = plan(registry, defenses=("none", "robustkd"))
    seeds = {stage.random_seed() for stage in crossed.stages.values() if stage.kind == "distill"}
    assert len(seeds) == 1


def test_no_controls_leaves_them_out(registry):
    lonely = plan(registry, defenses=("robustkd",), controls=False)
    assert kinds(lonely) == ["clean", "backdoor", "cleanse", "distill"]


def test_seeds_share_nothing(registry):
    assert len(plan(registry, seeds=(0, 1)).stages) == 2 * len(plan(registry).stages)


def test_an_override_changes_only_the_stages_it_can_reach(registry):
    before = {stage.kind: stage.key for stage in plan(registry, controls=False).stages.values()}
    changed = plan(registry, controls=False, overrides={"distill.lr": "0.5"})
    after = {stage.kind: stage.key for stage in changed.stages.values()}
    assert before["clean"] == after["clean"]
    assert before["backdoor"] == after["backdoor"]
    assert before["distill"] != after["distill"]


@pytest.mark.parametrize(
    ("changed", "kinds_that_change"),
    [
        ({"transfer_fraction": 0.5}, {"alone", "distill", "cleanse", "repair", "evaluate"}),
        ({"clean_fraction": 0.5}, {"cleanse", "distill", "repair", "evaluate"}),
        ({"unlabeled": 0.5}, {"cleanse", "distill", "repair", "evaluate"}),
        ({"overrides": {"min_teacher_acc": "70"}}, {"check"}),
    ],
)
def test_a_share_changes_the_stages_of_those_who_have_it(registry, changed, kinds_that_change):
    asked = {"defenses": ("none", "robustkd", "nad")}
    before, after = plan(registry, **asked), plan(registry, **asked, **changed)
    assert {s.kind for key, s in after.stages.items() if key not in before.stages} == (
        kinds_that_change
    )


def test_an_undefended_student_and_a_request_without_it_know_nothing_of_unlabeled_images(registry):
    asked = {"defenses": ("none", "robustkd", "nad", "consistency")}
    without, given = plan(registry, **asked), plan(registry, **asked, unlabeled=0.5)
    assert not any("unlabeled" in json.dumps(s.ingredients()) for s in without.stages.values())
    with_it = {
        stage.title
        for stage in given.stages.values()
        if '"unlabeled": 0.5' in json.dumps(stage.values)
    }
    assert {title.partition(":")[0].partition(" ")[0] for title in with_it} == {
        "robustkd",
        "nad",
        "distill",
    }
    # The student of consistency, whose loss is the defense's. Those of the others are trained by
    # the distiller alone.
    assert sum(title.startswith("distill") for title in with_it) == 1
    controls = [
        {c.trained[role] for c in p.cells for role in ("c1", "c3")} for p in (without, given)
    ]
    assert controls[0] == controls[1]


def test_another_data_seed_holds_out_other_images(registry):
    before, after = plan(registry), plan(registry, data_seed=1)
    trained = {key for key, stage in before.stages.items() if stage.kind.sees != "test"}
    assert not trained & after.stages.keys()


def test_what_is_made_of_a_teacher_waits_for_its_check(registry):
    crossed = plan(registry, defenses=("none", "robustkd", "nad"))
    of_kind = {stage.kind: [] for stage in crossed.stages.values()}
    for stage in crossed.stages.values():
        of_kind[stage.kind].append(stage)
    (clean,), (backdoor,) = of_kind["clean"], of_kind["backdoor"]
    check = {stage.inputs["model"]: stage.key for stage in of_kind["check"]}
    assert check.keys() == {clean.key, backdoor.key}
    assert clean.after == ()
    assert backdoor.after == (check[clean.key],)
    for stage in [*of_kind["distill"], *of_kind["cleanse"], *of_kind["repair"]]:
        teachers = [key for key in stage.inputs.values() if key in check]
        assert stage.after == tuple(check[key] for key in teachers)
    for cell in crossed.cells:
        roles = list(cell.measured)
        assert roles[:2] == ["clean_check", "teacher_check"]
        assert [cell.measured[role] for role in roles[:2]] == [
            check[clean.key],
            check[backdoor.key],
        ]


def test_digest_ignores_order_and_float_spelling_but_not_values():
    assert digest({"a": 1, "b": 2.0}) == digest({"b": 2, "a": 1.0})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_none_is_the_word_for_no_value(registry):
    free = plan(registry, attacks=("lba",), overrides={"attack.lba.max_universal": "none"})
    attack = next(stage for stage in free.stages.values() if stage.kind == "backdoor")
    assert attack.values["params"]["max_universal"] is None
    # Where none is one of a field's own words it stays that.
    plain = plan(registry, attacks=("lba",), overrides={"attack.lba.cover": "none"})
    attack = next(stage for stage in plain.stages.values() if stage.kind == "backdoor")
    assert attack.values["params"]["cover"] == "none"
    with pytest.raises(ConfigError, match="unable to parse string"):
        plan(registry, attacks=("lba",), overrides={"attack.lba.lr": "none"})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"distill.epocs": "3"}, "did you mean 'distill.epochs'"),
        ({"distil.epochs": "3"}, "unknown --set key"),
        ({"distill.epochs": "many"}, "integer"),
        ({"distill.epochs": "true"}, "epochs is not a switch"),
        ({"attack.badnets.size": "false"}, "size is not a switch"),
        ({"distill.lr": "-1"}, "greater than 0"),
        ({"attack.lba.side": "3"}, "not part of this run"),
        ({"attack.badnets.poison_rte": "0.1"}, "did you mean 'attack.badnets.poison_rate'"),
        ({"clean_fraction": "2"}, "less than or equal to 1"),
        ({"transfer_fraction": "0"}, "greater than 0"),
        ({"min_teacher_acc": "101"}, "less than or equal to 100"),
        ({"min_teacher_ac": "10"}, "did you mean 'min_teacher_acc'"),
        ({"signs.train_size": "50"}, "sizes are set as datasets.signs.train_size"),
        ({"datasets.signs.train_siz": "50"}, "did you mean 'datasets.signs.train_size'"),
        ({"datasets.sings.train_size": "50"}, "did you mean 'signs'"),
        ({"datasets.signs": "50"}, "unknown --set key 'datasets.signs'"),
        ({"datasets.signs.train_size": "1"}, "datasets.signs.train_size: .* greater than"),
    ],
)
def test_bad_overrides_are_named(registry, overrides, message):
    with pytest.raises((ConfigError, UnknownMethodError), match=message):
        plan(registry, overrides=overrides)


def test_unknown_names_say_what_exists(registry):
    with pytest.raises(UnknownMethodError, match="there is an attack of that name"):
        plan(registry, defenses=("lba",))
    with pytest.raises(UnknownMethodError, match="did you mean 'robustkd'"):
        plan(registry, defenses=("robustk",))
    with pytest.raises(UnknownMethodError, match="did you mean 'quick'"):
        plan(registry, presets=("quik",))


def test_an_unknown_name_points_at_broken_plugins(registry):
    from kdbench.loading.plugin import Plugin
    from kdbench.loading.registry import Registry

    foo = Plugin(
        "foo", "kdbench_foo", "kdbench-foo", "1.0", status="broken", cause="ImportError: no module"
    )
    broken = Registry(methods=registry.methods, plugins=[foo])
    with pytest.raises(PluginLoadError, match=r"foo \(kdbench-foo 1.0\) \[ImportError"):
        plan(broken, attacks=("foo",))


def test_whoever_sets_epochs_gets_them(registry):
    def recipe(**overrides):
        return resolve(
            RunSpec(attacks=("badnets",), pairs=(("wrn16_2", "wrn16_1"),), overrides=overrides),
            registry,
        ).preset.distill

    assert recipe().passes(320) > 2
    assert recipe(**{"distill.epochs": "2"}).passes(320) == 2
    assert (
        recipe(
            **{"distill.epochs": "2", "distill.min_steps": "50", "distill.batch_size": "32"}
        ).passes(320)
        == 5
    )


def test_other_software_or_another_plugin_source_is_another_stage(registry):
    before = plan(registry, {"torch": "1"})
    assert not plan(registry, {"torch": "2"}).stages.keys() & before.stages.keys()
    after = plan(registry, {"torch": "1"}, {("attack", "badnets"): "kdbench 0 other"})
    of = [{s.title: s.key for s in p.stages.values()} for p in (before, after)]
    assert of[0]["train clean wrn16_2"] == of[1]["train clean wrn16_2"]
    assert of[0]["implant badnets in wrn16_2"] != of[1]["implant badnets in wrn16_2"]


def test_more_of_anything_recomputes_nothing(registry):
    small = plan(registry)
    for more in (
        {"defenses": ("none", "robustkd", "nad")},
        {"pairs": (("wrn16_2", "wrn16_1"), ("wrn16_2", "wrn10_1"))},
        {"attacks": ("lba", "badnets")},
        {"seeds": (3, 0)},
        {"presets": ("standard", "quick")},
    ):
        assert small.stages.keys() <= plan(registry, **more).stages.keys(), more
        assert {c.key for c in small.cells} <= {c.key for c in plan(registry, **more).cells}, more


def test_presets_and_datasets_are_axes(registry):
    crossed = plan(registry, presets=("quick", "standard"), datasets=("signs", "cifar10"))
    assert [(c.names["dataset"], c.names["preset"]) for c in crossed.cells] == [
        ("signs", "quick"),
        ("cifar10", "quick"),
        ("signs", "standard"),
        ("cifar10", "standard"),
    ]


def test_the_test_images_are_in_the_keys_of_measurements_only(registry):
    from dataclasses import replace

    from kdbench.bench.plan.build import build_plan
    from kdbench.bench.plan.plan import Part

    asked = resolve(RunSpec(attacks=("badnets",), pairs=(("wrn16_2", "wrn16_1"),)), registry)
    part = Part(
        resolved=asked,
        dataset_name="signs",
        train_digest="train",
        test_digest="test",
        num_classes=10,
        train_size=800,
        numerics="cpu",
    )
    before, after = (build_plan([p]).stages for p in (part, replace(part, test_digest="other")))
    changed = {stage.kind for key, stage in after.items() if key not in before}
    assert changed == {"evaluate", "picture"}
