"""The printed numbers, what contradicts them, ours beside them, and ``kdbench reproduce``."""

import csv
import json

import pytest
from click.testing import CliRunner

from kdbench.bench.request.preset_files import preset_remarks
from kdbench.bench.request.specfile import read_spec
from kdbench.cli import main
from kdbench.cli.reproduce import _columns, _words
from kdbench.paper.figures import draw_defenses, draw_variance, variance_ratios
from kdbench.paper.printed import (
    Number,
    Target,
    beside_the_paper,
    contradictions,
    coverage,
    printed,
    read_target,
    target_names,
    target_path,
)
from tests.report.report_rows import cell

pytestmark = pytest.mark.usefixtures("signs_once")
SMALL = (
    *(
        "--dataset",
        "signs",
        "--preset",
        "quick",
        "--pair",
        "wrn10_1-wrn10_1",
        "--seeds",
        "2",
        "--train-size",
        "64",
    ),
    *("--test-size", "40", "--numerics", "fp32"),
    *(word for key in ("clean", "poison", "distill") for word in ("--set", f"{key}.epochs=1")),
    *("--set", "min_teacher_acc=0"),
)


def test_every_table_and_figure_of_the_paper_is_a_request(registry):
    assert target_names() == [
        *(f"table{n}" for n in range(3, 8)),
        *(f"fig{n}" for n in (2, 4, 5, 6, 7)),
    ]
    for name in target_names():
        target = read_target(target_path(name))
        found = CliRunner().invoke(
            main,
            ["plan", str(target_path(name)), "--dataset", "signs", "--preset", "quick", "--json"],
        )
        assert found.exit_code == 0, (name, found.output)
        named = read_spec(target_path(name))
        assert set(target.attacks) <= set(named["attacks"])
        assert set(target.methods) | set(target.labels) <= set(named["defenses"])
        for metric in target.metrics:
            assert any(n.table == str(target.table) and n.metric == metric for n in printed())


def test_printed_numbers():
    numbers = printed()
    assert len(numbers) == 258
    assert numbers[Number("4", "gtsrb", "wrn28_4", "resnet56", "lba", "robustkd", "asr")] == 3.87


def test_contradictions_by_hand():
    found = contradictions(printed())
    first = Number("4", "cifar100", "wrn28_4", "wrn16_2", "ckd", "fkd", "asr")
    assert found[first] == ["Table 3 prints 96.14"]
    assert (
        "below 10 %"
        in found[Number("4", "cifar100", "pyramid200", "wrn28_4", "ckd", "robustkd", "asr")][0]
    )
    assert Number("4", "gtsrb", "wrn28_4", "wrn16_2", "ckd", "robustkd", "asr") not in found
    above = [
        n
        for n, why in found.items()
        if n.table == "4" and any("above its own teacher" in w for w in why)
    ]
    assert len(above) == 5  # all four of GTSRB under CKD, one of CIFAR-100
    twice = [
        n
        for n, why in found.items()
        if n.table == "4" and n.method == "fkd" and any("Table 3" in w for w in why)
    ]
    assert len(twice) == 23  # 24 students are in both tables, one with the same number


def test_ours_beside_the_paper():
    target = Target(
        title="t", table=4, metrics=("asr",), attacks={"lba": "lba"}, methods={"none": "fkd"}
    )
    same = {"dataset": "gtsrb-subset", "teacher": "wrn28_4", "student": "resnet56"}
    rows = [
        cell(seed=s, student_asr=n, teacher_asr=900, **same) for s, n in enumerate((90, 180, 270))
    ]
    rows += [cell(status="failed", seed=3, **same), cell(seed=0, attack="ckd", **same)]
    teacher, student, *others = beside_the_paper(target, rows)
    assert (teacher["method"], teacher["ours"], teacher["paper"]) == ("teacher", 100.0, 85.32)
    assert "does not say of which attack" in teacher["note"]
    assert (student["ours"], student["n_seeds"], student["paper"]) == (20.0, 3, 75.49)
    assert (student["ours_low"], student["ours_high"]) == pytest.approx(
        (20 - 24.841377, 20 + 24.841377), abs=1e-5
    )
    assert student["difference"] == pytest.approx(20 - 75.49)
    assert student["contradicted"] == "Table 3 prints 75.67"
    assert student["note"] == "a subset of the paper's dataset"
    assert [r["paper"] for r in others] == [None, None]
    assert coverage(target, [teacher, student, *others]) == (2, 60)


def test_each_number_says_how_far_its_preset_may_be_believed():
    target = Target(title="t", table=4, metrics=("asr",), methods={"none": "fkd"})
    rows = [
        cell(student_asr=90),
        cell(student_asr=270, preset="standard", preset_remark="lba: too easy"),
    ]
    students = [r for r in beside_the_paper(target, rows) if r["method"] != "teacher"]
    assert [(r["preset"], r["ours"]) for r in students] == [("quick", 10.0), ("standard", 30.0)], (
        "two presets are never averaged"
    )
    assert [r["credibility"] for r in students] == [
        preset_remarks("quick").about,
        f"{preset_remarks('standard').about}; lba: too easy",
    ]


def test_one_seed_gets_the_test_samples_interval():
    target = Target(
        title="t", table=4, metrics=("asr",), attacks={"lba": "lba"}, methods={"none": "fkd"}
    )
    found = beside_the_paper(target, [cell(student_asr=90)])[1]
    assert 8 < found["ours_low"] < 10 < found["ours_high"] < 12.2


def test_a_target_is_a_table_or_a_figure():
    for values in ({}, {"table": 4, "figure": "defenses"}):
        with pytest.raises(ValueError, match="either"):
            Target(title="t", **values)


def test_figures(tmp_path):
    rows = [
        cell(seed=s, defense=d, student_asr=n)
        for s in (0, 1)
        for d, n in (("none", 700), ("robustkd", 90))
    ]
    title = "[b]$t$\n" + 20 * "a long line "
    assert draw_defenses(rows, {"robustkd": "0.1"}, "m", title, tmp_path / "a.png") == 1
    longer = [cell(defense="robustkd", student_asr=90, preset="standard")]
    labels = {"robustkd": "0.1"}
    assert draw_defenses([*rows, *longer], labels, "m", title, tmp_path / "two.png") == 2
    assert draw_defenses(rows, {"nad": "x"}, "m", "t", tmp_path / "b.png") == 0
    groups = {
        ("signs", "wrn16_2", "quick", "untriggered"): {
            "clean": [[1.0, 3.0], [2.0, 2.0]],
            "ckd": [[3.0, 3.0], [2.0, 4.0]],
        }
    }
    assert draw_variance(groups, "t", tmp_path / "c.png") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "c.png", "two.png"]
    ckd = variance_ratios(groups, "clean")[1]
    assert (ckd["variance"], ckd["to_clean"], ckd["n_seeds"]) == (3.0, 1.5, 2)


def test_the_command_writes_a_table_and_a_figure(tmp_path):
    asked = [
        *SMALL,
        "--attack",
        "badnets",
        "--store",
        str(tmp_path / "store"),
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(
        main, ["reproduce", "table4", "fig2", *asked, "--defense", "none", "--jobs", "1"]
    )
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "table4" / "table4.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["n_seeds"], row["paper"]) for row in rows] == [
        ("teacher", "2", ""),
        ("none", "2", ""),
    ]
    assert {row["note"] for row in rows} == {"not in the paper's table"}
    folder = tmp_path / "out" / "fig2"
    assert {"fig2.png", "fig2.csv", "results.csv", "run.json"} <= {p.name for p in folder.iterdir()}
    words = " ".join(result.output.split())
    assert "printed numbers with one of ours beside them: 0 of 60" in words
    assert "at least 30 % above" in result.output
    assert {row["credibility"] for row in rows} == {preset_remarks("quick").about}
    shown = " ".join(result.output.split())
    assert shown.count(f"preset quick: {preset_remarks('quick').about}") == 2, "table and figure"


def test_an_interval_stands_beside_its_middle():
    nan = float("nan")
    records = [
        {
            "teacher": "clean",
            "variance": 5.109,
            "variance_low": 3.9,
            "variance_high": 6.3,
            "below_low": 1,
            "note": None,
        },
        {
            "teacher": "ckd",
            "variance": 4.2,
            "variance_low": nan,
            "variance_high": nan,
            "below_low": 2,
            "note": "",
        },
    ]
    columns = _columns(records)
    assert columns == ["teacher", "variance", "below_low"]
    assert [list(_words(record, columns)) for record in records] == [
        ["clean", "5.11 (3.90 to 6.30)", "1"],
        ["ckd", "4.20", "2"],
    ]


def test_costs_share_stages(tmp_path):
    asked = ["reproduce", "all", "--dry-run", "--json", *SMALL, "--store", str(tmp_path)]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    lines = {line["name"]: line for line in found["targets"]}
    assert lines["table5"]["to_run"] == lines["table4"]["to_run"]
    assert lines["table5"]["new"] == 0
    assert found["together"]["to_run"] == sum(line["new"] for line in lines.values())
    assert not (tmp_path / "out").exists()


def test_the_whole_papers_cost_needs_no_data(tmp_path):
    result = CliRunner().invoke(
        main, ["reproduce", "all", "--dry-run", "--json", "--store", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["datasets_not_here"] == ["cifar100", "gtsrb", "flower17", "imagenet1k"]
    fig7 = next(line for line in found["targets"] if line["name"] == "fig7")
    # Two variants not in fig6, for two attacks, two students and three seeds: distilled for 300
    # epochs of 50,000 images, of which 1,000 are held out.
    assert fig7["images"] == 2 * 2 * 2 * 3 * 300 * 49_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reproduce", "table9"], "did you mean 'table"),
        (["reproduce", "table2"], "unknown table or figure"),
        (["reproduce", "table4", "--spec", "x.toml"], "kdbench run --spec"),
        (["reproduce", "fig4", *SMALL, "--defense", "robustkd.m11", "--dry-run"], "did you mean"),
        (["reproduce", "table4", "--quiet", "--json"], "exclude each other"),
        (["reproduce"], "Missing argument"),
    ],
)
def test_refused(arguments, words):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
