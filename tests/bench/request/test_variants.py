"""Named sets of parameters: where they come from, what wins, what is refused, and that a name is no
ingredient."""

from types import SimpleNamespace

import pytest
from pydantic_core import to_jsonable_python

from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.errors import ConfigError, UnknownMethodError
from kdbench.loading.plugin import _check
from kdbench.method import METHOD_KINDS
from tests.runs import plan_of as plan


def params(registry, kind, name, preset="quick", **overrides):
    axes = {"attacks": ("lba",), "defenses": ("none",), "distillers": ("fkd",), f"{kind}s": (name,)}
    spec = RunSpec(**axes, pairs=(("wrn16_2", "wrn16_1"),), presets=(preset,), overrides=overrides)
    return SimpleNamespace(**resolve(spec, registry).method(kind, name).params)


#: Every variant that the built-ins promise.
PROMISED = {
    *(
        "ckd.release",
        "ckd.described",
        "ckd.lowvar",
        "ckd.adaptive_sim",
        "lba.yao",
        "lba.release",
        "htba.raw",
        "htba.head",
    ),
    *("inputaware.sham", "inputaware.release"),
    *("wanet.plain", "adba.kdbackdoor", "adba.noshadow", "adba.kappa20"),
    *("blended.noise", "blended.faint", "blended.strong", "sig.all", "lf.release"),
    *("backweak.sham", "backweak.strong", "backweak.fast"),
    *("lc.wide", "lc.plain", "scar.oscar", "scar.direct", "scar.sham"),
    *(
        "badnets.sham",
        "badnets.big",
        "ab.joint",
        "cc.release",
        "cc.paper",
        "dkd.standardised",
        "fitnet.release",
        "fkd.evalbn",
        "fsp.joint",
        "fkd.weak",
        "kd.hinton",
        "kd.eq4",
        "kd.standardised",
        "robustkd.paper",
        "robustkd.eq15",
    ),
    *(
        "robustkd.release",
        "robustkd.pfixed",
        "robustkd.evalbn",
        "robustkd.batchbn",
        "robustkd.zero",
        "robustkd.random",
    ),
}


def test_every_promised_variant_is_there_at_every_preset(registry):
    found = {
        f"{name}.{word}": kind
        for kind in METHOD_KINDS
        for name, item in registry.methods[kind].items()
        for word in item.value.variants
    }
    assert found.keys() >= PROMISED
    for name, kind in found.items():
        for preset in ("quick", "standard", "paper"):
            given = params(registry, kind, name, preset)
            item = registry.methods[kind][name.partition(".")[0]].value
            for field, value in item.variants[name.partition(".")[2]].params.items():
                # In JSON, as a method's numbers are settled.
                assert getattr(given, field) == to_jsonable_python(value), (name, field)


def test_a_variants_numbers_win_over_presets_and_over_what_is_set_for_the_method(registry):
    assert params(registry, "defense", "robustkd").steps == 300
    paper = params(
        registry,
        "defense",
        "robustkd.paper",
        **{"defense.robustkd.lr": "0.5", "defense.robustkd.sign": "-1"},
    )
    assert (paper.steps, paper.epochs, paper.lr, paper.sign) == (None, 40, 0.001, -1)
    assert (
        params(registry, "defense", "robustkd.paper", **{"defense.robustkd.paper.lr": "0.5"}).lr
        == 0.5
    )


def test_a_variant_of_ones_own(registry):
    assert (
        params(registry, "defense", "robustkd.m0.3", **{"defense.robustkd.m0.3.m_max": "0.3"}).m_max
        == 0.3
    )


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        (
            "robustkd.evalbm",
            {},
            ("did you mean 'robustkd.evalbn'", "--set defense.robustkd.evalbm.FIELD=VALUE"),
        ),
        ("robustkd.", {}, ("unknown defense variant",)),
        ("none.x", {}, ("known: none",)),
        ("robustkt.evalbn", {}, ("did you mean 'robustkd'",)),
        ("robustkd.A", {"defense.robustkd.A.lr": "0.1"}, ("a-z, 0-9",)),
        (
            "robustkd.evalbn",
            {"defense.robustkd.eq15.lr": "0.1"},
            ("not part of this run", "--defense robustkd.eq15"),
        ),
        ("robustkd.evalbn", {"defense.nad.lr": "0.1"}, ("not part of this run",)),
        (
            "robustkd.evalbn",
            {"defense.robustkd.evalbn.lrr": "0.1"},
            ("did you mean 'defense.robustkd.evalbn.lr'",),
        ),
    ],
)
def test_refused(registry, name, overrides, words):
    with pytest.raises((ConfigError, UnknownMethodError)) as caught:
        params(registry, "defense", name, **overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_name_is_no_ingredient(registry):
    """The same numbers are the same stages; rows keep the names they were asked by."""
    both = plan(
        registry,
        defenses=("robustkd", "robustkd.same"),
        overrides={"defense.robustkd.same.lr": "0.3"},
    )
    assert len({cell.trained["student"] for cell in both.cells}) == 1
    assert [cell.names["defense"] for cell in both.cells] == ["robustkd", "robustkd.same"]


def test_variants_start_from_the_same_random_state(registry):
    crossed = plan(registry, attacks=("ckd", "ckd.lowvar", "lba"), defenses=("nad", "finetune"))
    seeds = {
        s.title: s.random_seed()
        for s in crossed.stages.values()
        if s.kind in ("backdoor", "repair")
    }
    assert (
        seeds["implant ckd in wrn16_2"]
        == seeds["implant ckd.lowvar in wrn16_2"]
        != seeds["implant lba in wrn16_2"]
    )
    assert len({seed for title, seed in seeds.items() if "repair" in title}) == 1


def test_a_block_adds_cells_and_none_twice(registry):
    also = ({"distillers": ("fkd.weak",), "defenses": ("none",)}, {"defenses": ("none",)})
    crossed = plan(
        registry,
        defenses=("none", "robustkd"),
        also=also,
        overrides={"distiller.fkd.weak.alpha": "0.0002"},
    )
    found = [(cell.names["defense"], cell.names["distiller"]) for cell in crossed.cells]
    assert found == [("none", "fkd"), ("robustkd", "fkd"), ("none", "fkd.weak")]


@pytest.mark.parametrize(
    ("variants", "words"),
    [({"a.b": {}}, "'a.b'"), ({"x": {"nope": 1}}, "nope, which lba does not have")],
)
def test_a_plugins_variants_are_checked(registry, variants, words):
    from kdbench.errors import ContractError
    from kdbench.method import Variant

    cls = registry.methods["attack"]["lba"].value
    broken = type(
        "Broken",
        (cls,),
        {"variants": {name: Variant("", given) for name, given in variants.items()}},
    )
    with pytest.raises(ContractError, match=words):
        _check("attack", broken)
