"""What a method costs: the numbers by hand, the stages that are measured, and the page."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.loading.registry import Registry
from kdbench.training import Step
from tests.benchmarks.pages import ROOT, render

tables = importlib.import_module("costs_tables")
costs = importlib.import_module("costs")

PAGE = ROOT / "docs" / "costs.md"
ONE = tables.Cost("attack", "one", "backdoor", 2.5, 1.25, 1.5, 0.625, 2.5, 2.5, 1, "2026-11-28")


def step(done, total, images):
    return Step(epoch=1, epochs=1, done=done, total=total, loss=None, images=images)


def metered(times):
    """What a meter says of two loops of two steps, by a clock that the test moves."""
    clock = iter(times)
    meter = costs.Meter(lambda: next(clock))
    for done in (1, 2):
        meter.step(step(done, 2, 10))
    for done in (1, 2):
        meter.step(step(done, 2, 30))
    return meter.spent()


def test_a_stage_is_divided_into_loops_and_the_rest():
    # The second steps took 2 and 6 s for 10 and 30 images: 0.2 s an image. 80 images were shown.
    spent = metered([100, 105, 107, 110, 116, 120])
    assert spent == costs.Spent(total_s=20, shown=80, image_s=pytest.approx(0.2))


def test_the_first_step_of_a_loop_says_nothing_of_an_image():
    # 50 s of crafting before the second loop: the whole grows, an image does not.
    assert metered([100, 105, 107, 160, 166, 170]).image_s == pytest.approx(0.2)


def test_a_stage_against_plain_training_by_hand():
    # 40 images of 0.1 s are 4 s. 20 s are 5 times that; 0.2 s an image twice 0.1 s; 80 images twice
    # 40. So the loops are 4, and 1 is left.
    whole, per_image, shown, outside = costs.Spent(20, 80, 0.2).against(0.1, 40)
    assert (whole, per_image, shown) == pytest.approx((5, 2, 2))
    assert outside == pytest.approx(1)


def test_a_stage_without_a_loop_is_all_outside():
    clock = iter([3, 9])
    spent = costs.Meter(lambda: next(clock)).spent()
    assert spent.against(0.1, 20) == pytest.approx((3, 0, 0, 3))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    names = {"attack": ("blended",), "distiller": ("kd",), "defense": ("robustkd", "anp")}
    return costs.Bench(tmp_path_factory.mktemp("store"), Registry.load(), names)


@pytest.mark.parametrize(
    ("kind", "method", "stages", "unit"),
    [
        ("attack", tables.PLAIN, ["train clean wrn16_2"], None),
        ("attack", "blended", ["implant blended in wrn16_2"], None),
        ("distiller", tables.PLAIN, ["train wrn16_1 alone"], None),
        ("distiller", "kd", ["distill wrn16_1 from clean wrn16_2 by kd"], None),
        ("defense", "none", ["distill wrn16_1 from wrn16_2 with badnets by fkd"], None),
        (
            "defense",
            "robustkd",
            [
                "robustkd: cleanse wrn16_2 with badnets",
                "distill wrn16_1 from wrn16_2 with badnets cleansed by robustkd by fkd",
            ],
            "distill wrn16_1 from wrn16_2 with badnets by fkd",
        ),
        (
            "defense",
            "anp",
            ["anp: repair wrn16_1 from wrn16_2 with badnets"],
            "distill wrn16_1 from wrn16_2 with badnets by fkd",
        ),
    ],
)
def test_which_stages_of_a_method_are_measured(bench, kind, method, stages, unit):
    found = list(bench.stages(kind, method))
    assert [stage.title for stage, _ in found] == stages
    assert {one.title for _, one in found} == {unit or stages[0]}


def test_the_images_of_a_recipe_are_those_of_whole_batches(bench):
    # 200 images are 6 batches of 32, and 560 steps are 94 such epochs.
    ((stage, _),) = bench.stages("distiller", "kd")
    assert bench.images(stage) == 94 * 6 * 32


def test_the_middle_of_the_rounds_is_kept(bench, monkeypatch):
    times = iter([20.0, 80.0, 40.0])
    monkeypatch.setattr(bench, "compute", lambda stage: costs.Spent(next(times), 0, 0.0))
    monkeypatch.setattr(bench.store, "find", lambda key: object())
    # 0.1 s before a stage and 0.3 s after it
    plain = iter([0.1, 0.3] * 3)
    monkeypatch.setattr(bench, "plain", lambda network, batch: lambda: next(plain))
    ((stage, unit),) = bench.stages("attack", "blended")
    cost = bench.measure("attack", "blended", stage, unit, rounds=3)
    one = 0.2 * bench.images(unit)
    assert (cost.low, cost.whole, cost.high) == pytest.approx((20 / one, 40 / one, 80 / one))


def table(kind, *rows):
    return tables.costs_table(f"costs={kind}", rows).splitlines()[2:]


def test_lines_of_attacks_and_distillers():
    assert table("attack", ONE) == ["| one | 2.50 | 1.25 | 1.50 | 0.62 |"]
    several = replace(ONE, rounds=3, low=2.4, high=12.0)
    assert table("attack", several) == ["| one | 2.50 (2.40 to 12.0) | 1.25 | 1.50 | 0.62 |"]
    one, kd = (
        replace(ONE, kind="distiller"),
        replace(ONE, kind="distiller", method="kd", whole=1.25),
    )
    assert table("distiller", one, kd) == [
        "| one | 2.50 | 2.00 | 1.25 | 1.50 | 0.62 |",
        "| kd | 1.25 | 1.00 | 1.25 | 1.50 | 0.62 |",
    ]


def test_a_defense_is_compared_with_an_undefended_distillation():
    plain = replace(ONE, kind="defense", method="none", stage="distill", whole=2.0)
    own = replace(plain, method="one", whole=3.0)
    repair = replace(own, stage="repair", whole=1.0)
    alone = replace(repair, method="two")
    assert table("defense", plain, own, repair, alone) == [
        "| none | - | 1.00 | - | 1.00 |",
        "| one | - | 1.50 | 0.50 | 2.00 |",
        "| two | - | 1.00 | 0.50 | 1.50 |",
    ]


def test_a_method_that_is_measured_again_replaces_its_numbers(tmp_path):
    other = replace(ONE, method="other")
    path = tmp_path / "costs.csv"
    assert tables.read_costs(path) == []
    tables.write_costs(tables.replaced([ONE, other], [replace(ONE, whole=3.0)]), path)
    assert tables.read_costs(path) == [replace(ONE, whole=3.0), other]


def test_a_table_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no costs of 'model'"):
        tables.costs_table("costs=model", [ONE])


def test_the_page_has_the_tables_of_its_numbers():
    text = PAGE.read_text(encoding="utf-8")
    assert text == render.render(text), "run python benchmarks/render.py"


@pytest.mark.parametrize("kind", ["attack", "distiller", "defense"])
def test_every_built_in_method_is_in_the_table(kind):
    built_in = {path.name for path in Path(ROOT, "plugins").iterdir()}
    registry = Registry.load()
    wanted = {
        name
        for name in registry.names(kind)
        if registry.get(kind, name).__module__.partition(".")[0] in built_in
    } - {"none"}
    assert wanted
    shown = {cost.method for cost in tables.read_costs() if cost.kind == kind}
    missing = "".join(f" --{kind} {name}" for name in sorted(wanted - shown))
    assert not missing, f"not measured yet; run python benchmarks/costs.py --rounds 1{missing}"
    gone = shown - wanted - {tables.PLAIN, tables.UNDEFENDED}
    assert not gone, f"no such {kind}: {gone}; take it out of benchmarks/speed/costs.csv"
