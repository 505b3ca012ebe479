"""Means, ranks and the worst case against values computed by hand; the command ``kdbench
leaderboard``."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.report.leaderboard import leaderboard, overall, write_leaderboard, write_overall
from kdbench.report.notes import notes
from kdbench.report.paired import COLUMNS, against_control, comparisons, write_paired
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report.report_rows import HOSTILE, cell


def seeds(n=2, **values):
    """One setting at n seeds, equal ones."""
    return [cell(seed=s, **values) for s in range(n)]


def setting(defense, hits, **values):
    """One setting with these hits of 900 at seeds 0, 1, ..."""
    return [cell(defense=defense, seed=s, student_asr=n, **values) for s, n in enumerate(hits)]


def ranks(rows, **only):
    """defense: rank (None without one)."""
    records = leaderboard(rows).astype({"rank": object}).to_dict("records")
    chosen = [r for r in records if all(r[name] == value for name, value in only.items())]
    return {r["defense"]: r["rank"] if isinstance(r["rank"], int) else None for r in chosen}


def line(table, **only):
    (found,) = (
        r for r in table.to_dict("records") if all(r[name] == value for name, value in only.items())
    )
    return found


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def call(*arguments):
    return CliRunner().invoke(main, ["leaderboard", *map(str, arguments)])


def paired(folder):
    """The comparisons of defenses in a folder's paired.csv, those with C1 left out."""
    return [r for r in read(folder / "paired.csv") if r["defense_a"] != "C1"]


def save(folder, rows):
    folder.mkdir(exist_ok=True)
    write_results(rows, folder / "results.csv")
    return folder


# -- means -------------------------------------------------------------------------------------
#
#


def test_mean_and_t_interval_by_hand():
    # 10, 20, 30 %: mean 20, s = 10, t(0.975, 2) = 4.302653, half = 4.302653 * 10 / sqrt(3) =
    # 24.841377
    found = line(leaderboard([cell(seed=s, student_asr=n) for s, n in enumerate((90, 180, 270))]))
    assert found["n_seeds"] == 3
    assert found["student_asr"] == pytest.approx(20)
    assert (found["student_asr_low"], found["student_asr_high"]) == pytest.approx(
        (20 - 24.841377, 20 + 24.841377), abs=1e-5
    )
    assert (found["rank_low"], found["rank_high"]) == (
        found["student_asr_low"],
        found["student_asr_high"],
    )
    assert found["verdict"] == "partly"


def test_one_seed_has_no_rank_no_interval_and_failures_are_not_averaged(tmp_path):
    rows = [cell(student_asr=90), cell(seed=1, status="failed", student_asr=90.0)]
    found = line(leaderboard(rows))
    assert (found["n_seeds"], found["n_failed"], found["student_asr"], found["verdict"]) == (
        1,
        1,
        10.0,
        "partly",
    )
    assert math.isnan(found["student_asr_low"])
    write_leaderboard(rows, tmp_path / "leaderboard.csv")
    (written,) = read(tmp_path / "leaderboard.csv")
    assert (written["student_asr"], written["student_asr_low"], written["rank_low"]) == (
        "10.0",
        "",
        "",
    )
    # nobody has another
    assert (written["rank"], written["rank_reason"]) == ("", "one seed is no ranking")


def test_one_seed_is_no_ranking(tmp_path):
    # as different as can be
    rows = [cell(defense="a", student_asr=0), cell(defense="b", student_asr=900)]
    for write, name in ((write_leaderboard, "l.csv"), (write_overall, "o.csv")):
        write(rows, tmp_path / name)
        assert [r["rank"] for r in read(tmp_path / name)] == ["", ""]
    assert [r["rank_reason"] for r in read(tmp_path / "l.csv")] == ["one seed is no ranking"] * 2
    assert [r["rank_reason"] for r in read(tmp_path / "o.csv")] == [
        "no rank against any attack"
    ] * 2


def test_all_seeds_failed():
    found = line(leaderboard([cell(status="diverged")]))
    assert (found["n_seeds"], found["n_failed"], found["verdict"]) == (0, 1, "")
    assert math.isnan(found["student_asr"])
    assert found["rank_reason"] == "not measured: seed 0 diverged"


def test_disagreeing_verdicts_are_shares():
    rows = [cell(seed=s, verdict=v) for s, v in enumerate(("partly", "stopped", "stopped"))]
    assert leaderboard(rows)["verdict"].tolist() == ["stopped 2/3, partly 1/3"]


def test_the_share_removed_of_next_to_nothing_is_not_averaged():
    rows = [
        cell(seed=0, transferred=60.0, removed=95.0, verdict="stopped"),
        cell(seed=1, transferred=0.5, removed=-3000.0, verdict="inconclusive"),
        cell(seed=2, transferred=-0.5, removed=None, verdict="inconclusive"),
    ]
    found = line(leaderboard(rows))
    assert (found["removed"], found["n_removed"], found["n_seeds"]) == (95.0, 1, 3)
    assert found["transferred"] == 20.0


def test_order_is_by_group_then_rank_then_asr():
    rows = [
        *seeds(defense="worse", student_asr=600),
        *seeds(defense="unknown", status="failed"),
        *seeds(defense="vague", verdict="inconclusive", student_asr=1),
        *seeds(defense="lossy", student_asr=0, student_acc=900),
        *seeds(defense="better", student_asr=50),
        *seeds(attack="aaa", defense="x", student_asr=890),
    ]
    assert leaderboard(rows)["defense"].tolist() == [
        "x",
        "better",
        "worse",
        "lossy",
        "vague",
        "unknown",
    ]


def test_no_rows(tmp_path):
    assert leaderboard([]).empty
    assert overall([]).empty
    write_leaderboard([], tmp_path / "l.csv")
    write_overall([], tmp_path / "o.csv")
    assert (tmp_path / "l.csv").read_text().startswith("schema,dataset,attack")
    assert (tmp_path / "o.csv").read_text().startswith("schema,dataset,distiller")


# -- ranks -------------------------------------------------------------------------------------
#
#


def test_ties_of_constant_differences_by_hand():
    # Wilson's intervals of n/900: 90: 8.21-12.13; 108: 10.04-14.29; 135: 12.82-17.48; 150:
    # 14.37-19.24; 450: 46.74-53.26. b - a: 2 - sqrt((12 - 10.04)^2 + (12.13 - 10)^2) = -0.89: a
    # tie. c - b: 3 - sqrt(2.18^2 + 2.29^2) = -0.16 would be one, but c - a: 5 - sqrt(2.18^2 +
    # 2.13^2) = 1.95, and a is the best of the group: a new group. d - c: 1.67 - 3.38: a tie.
    rows = [
        row
        for d, n in (("e", 450), ("c", 135), ("a", 90), ("d", 150), ("b", 108))
        for row in setting(d, (n, n))
    ]
    assert ranks(rows) == {"a": 1, "b": 1, "c": 3, "d": 3, "e": 5}
    found = line(leaderboard(rows), defense="a")
    assert (found["rank_low"], found["rank_high"]) == pytest.approx(
        (8.2068365, 12.1331753), abs=1e-6
    )


@pytest.mark.parametrize(
    ("more", "rank"),
    [  # 1, 2, 3 points: 2 +- 2.484 is a tie; 2, 3, 4: 3 +- 2.484 is none
        ((9, 18, 27), 1),
        ((18, 27, 36), 2),
    ],
)
def test_paired_differences_decide_where_intervals_overlap(more, rank):
    # 10, 30, 50 % and 12, 33, 54 %: 30 +- 49.7 and 33 +- 52.2, which says nothing, and b is worse
    # at every seed all the same
    hits = (90, 270, 450)
    rows = setting("a", hits) + setting("b", [n + m for n, m in zip(hits, more, strict=True)])
    assert ranks(rows) == {"a": 1, "b": rank}
    a, b = (line(leaderboard(rows), defense=d) for d in "ab")
    assert max(a["rank_low"], b["rank_low"]) < -19
    assert min(a["rank_high"], b["rank_high"]) > 79


def test_ties_are_with_the_best_of_the_group_only():
    # b is worse than a at every seed by 2, 3, 4 points. c has the highest mean, but its differences
    # from both vary a lot: from b by -2, -3, 16. In their order it meets b, the best of the second
    # group, and ties with that.
    rows = (
        setting("a", (90, 180, 270)) + setting("b", (108, 207, 306)) + setting("c", (90, 180, 450))
    )
    assert ranks(rows) == {"a": 1, "b": 2, "c": 2}


def test_two_seeds_tie_by_students_interval():
    # a: 10, 20 %: 15 +- 12.706205 * 7.071068 / sqrt(2) = 63.53. b - a: 50, 41 points: 45.5 +-
    # 12.706205 * 4.5 = 57.2: a tie, though the test sample alone would tell them apart.
    rows = [
        cell(defense=d, seed=s, student_asr=n[s])
        for d, n in {"a": (90, 180), "b": (540, 549)}.items()
        for s in (0, 1)
    ]
    assert ranks(rows) == {"a": 1, "b": 1}
    assert line(leaderboard(rows), defense="a")["rank_high"] == pytest.approx(
        15 + 63.531024, abs=1e-5
    )
    one_seed = [row for row in rows if row["seed"] == 0]
    assert ranks(one_seed) == {"a": None, "b": None}


def test_equal_seeds_have_the_test_samples_interval():
    # Three seeds of 0 % have no t interval. Wilson's of 0/900 ends at z^2 / (n + z^2) = 0.42501 %,
    # so 1/900 = 0.11 % ties; 20/900: 2.222 - sqrt((2.222 - 1.443)^2 + 0.425^2) = 1.335 does not.
    rows = [
        cell(defense=d, seed=s, student_asr=n)
        for d, n in {"a": 0, "b": 1, "c": 20}.items()
        for s in (0, 1, 2)
    ]
    assert ranks(rows) == {"a": 1, "b": 1, "c": 3}
    assert line(leaderboard(rows), defense="a")["rank_high"] == pytest.approx(0.425011, abs=1e-5)


def test_losing_more_than_three_points_of_acc_ranks_last():
    # undefended 96.0 %: 93.0 loses exactly 3, 92.9 more
    rows = [
        *seeds(defense="exact", student_asr=800, student_acc=930),
        *seeds(defense="over", student_asr=0, student_acc=929),
        *seeds(defense="worse", student_asr=100, student_acc=500),
        *seeds(defense="none", student_asr=805, student_acc=960),
    ]
    assert ranks(rows) == {"exact": 1, "none": 1, "over": 3, "worse": 4}
    found = line(leaderboard(rows), defense="over")
    assert found["acc_lost"] == 3.1
    assert found["rank_reason"] == "3.1 points of ACC lost, more than 3: after all that lose less"
    assert line(leaderboard(rows), defense="exact")["rank_reason"] == ""


def test_acc_lost_is_a_mean_over_seeds():
    rows = [cell(seed=0, student_acc=950), cell(seed=1, student_acc=900)]  # 1 and 6 points
    assert line(leaderboard(rows))["acc_lost"] == 3.5


def test_losers_do_not_tie_with_others():
    rows = seeds(defense="a", student_asr=90) + seeds(defense="b", student_asr=90, student_acc=100)
    assert ranks(rows) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [{"status": "timeout"}, {"seed": 1, "status": "crashed"}],
            "not measured: seed 0 timeout, seed 1 crashed",
        ),
        (
            [{"verdict": "inconclusive"}, {"seed": 1, "verdict": "inconclusive"}],
            "inconclusive at every seed",
        ),
        (
            [{"verdict": None, "reason": "no verdict: the controls were skipped"}],
            "no verdict: the controls were skipped",
        ),
        ([{"verdict": None, "reason": None}], "no verdict"),
        (
            [{"verdict": "inconclusive"}, {"seed": 1, "verdict": None}],
            "no conclusive verdict at any seed",
        ),
        ([{}], "measured at fewer seeds than others: seed 1 missing"),
        (
            [{}, {"seed": 1, "status": "failed"}],
            "measured at fewer seeds than others: seed 1 failed",
        ),
    ],
)
def test_what_has_no_rank_says_why(rows, reason):
    others = [cell(defense="b", seed=s) for s in (0, 1)]
    table = leaderboard([cell(defense="a", student_asr=0, **row) for row in rows] + others)
    assert line(table, defense="a")["rank_reason"] == reason
    assert ranks([cell(defense="a", student_asr=0, **row) for row in rows] + others) == {
        "a": None,
        "b": 1,
    }
    assert math.isnan(line(table, defense="a")["rank_low"])


def test_one_conclusive_seed_is_enough_and_all_seeds_count():
    rows = [cell(student_asr=90, verdict="inconclusive"), cell(seed=1, student_asr=270)]
    assert ranks(rows) == {"none": 1}
    assert line(leaderboard(rows))["student_asr"] == pytest.approx(20)


def test_seeds_at_which_nobody_is_conclusive_cost_no_rank():
    rows = [
        *seeds(defense="a"),
        *seeds(defense="b"),
        cell(defense="c", seed=7, verdict="inconclusive"),
    ]
    assert ranks(rows) == {"a": 1, "b": 1, "c": None}


@pytest.mark.parametrize("name", ["dataset", "attack", "distiller", "teacher", "student", "preset"])
def test_only_the_same_task_is_ranked_together(name):
    rows = seeds(defense="a", student_asr=0) + seeds(
        defense="b", student_asr=800, **{name: "other"}
    )
    assert ranks(rows) == {"a": 1, "b": 1}
    assert comparisons(rows) == []


def test_ranks_do_not_depend_on_the_order_of_rows():
    of = {"x": (90, 99), "y": (90, 90), "z": (500, 501)}
    rows = [
        row for a in ("lba", "ckd") for d, hits in of.items() for row in setting(d, hits, attack=a)
    ]
    table = leaderboard(rows)
    for other in (rows[::-1], rows[5:] + rows[:5]):
        assert comparisons(other) == [pytest.approx(record) for record in comparisons(rows)]
        assert sorted(map(str, leaderboard(other).to_dict("records"))) == sorted(
            map(str, table.to_dict("records"))
        )


def test_a_runs_own_leaderboard_is_that_of_its_file(tmp_path):
    # thirds do not survive the rounding of the file unchanged, and 2.99996 points of ACC are 3.0000
    # there
    rows = [
        cell(defense=d, seed=s, student_asr=n + s)
        for d, n in (("a", 301), ("b", 307))
        for s in (0, 1, 2)
    ]
    rows += [
        cell(defense="c", seed=s, c3_acc=960, student_acc=930, student_asr=77) for s in (0, 1, 2)
    ]
    rows += [cell(defense="d", status="failed", seed=s) for s in (0, 1, 2)]
    write_results(rows, tmp_path / "results.csv")
    back = read_results(tmp_path).rows
    assert [r["finding"] for r in comparisons(back)] == [r["finding"] for r in comparisons(rows)]
    for name, write in {"l": write_leaderboard, "o": write_overall}.items():
        write(rows, tmp_path / f"{name}1.csv")
        write(back, tmp_path / f"{name}2.csv")
        one, two = (read(tmp_path / f"{name}{n}.csv") for n in (1, 2))
        assert [r["rank"] for r in one] == [r["rank"] for r in two]
        for first, second in zip(one, two, strict=True):
            for column, text in first.items():
                try:
                    assert float(second[column]) == pytest.approx(float(text), abs=2e-3)
                except ValueError:
                    assert second[column] == text


# -- the worst case over attacks ---------------------------------------------------------------


def test_worst_case_by_hand():
    hits = {"a": {"lba": 90, "ckd": 450}, "b": {"lba": 300, "ckd": 200}}
    rows = [
        row
        for d, own in hits.items()
        for k, n in own.items()
        for row in setting(d, (n, n), attack=k)
    ]
    rows += [
        row for d in "ab" for row in setting(d, (899, 899), attack="htba", verdict="inconclusive")
    ]
    table = overall(rows)
    assert table["defense"].tolist() == ["b", "a"]  # b's worst is 33.3 %, a's 50 %
    b, a = table.to_dict("records")
    assert (b["rank"], b["worst_attack"], b["student_asr"]) == (1, "lba", pytest.approx(100 / 3))
    assert (a["rank"], a["worst_attack"], a["student_asr"]) == (2, "ckd", 50.0)
    assert (a["rank_low"], a["rank_high"]) == pytest.approx((46.74, 53.26), abs=0.01)
    assert (a["n_attacks"], a["attacks"], a["missing_attacks"], a["n_seeds"]) == (
        2,
        "ckd, lba",
        "htba",
        2,
    )
    assert a["rank_reason"] == b["rank_reason"] == ""


def test_worst_cases_tie_by_the_same_rule():
    of = {"a": 90, "b": 108, "c": 135}
    rows = [
        row for d, n in of.items() for k in ("lba", "ckd") for row in setting(d, (n, n), attack=k)
    ]
    assert overall(rows)["rank"].tolist() == [1, 1, 3]
    assert overall(rows)["worst_attack"].tolist() == ["ckd"] * 3  # equally bad: the first by name


@pytest.mark.parametrize(("hits", "rank"), [((99, 288, 477), 1), ((108, 297, 486), 2)])
def test_worst_cases_are_paired_between_different_attacks(hits, rank):
    # as within one attack: 1, 2, 3 points are a tie, 2, 3, 4 none
    rows = setting("a", (90, 270, 450), attack="lba") + setting("a", (9, 9, 9), attack="ckd")
    rows += setting("b", (9, 9, 9), attack="lba") + setting(
        "b", [hits[n] for n in (0, 2, 1)], attack="ckd"
    )
    for row in rows[-2:]:
        row["seed"] = 3 - row["seed"]  # in another order: equal seeds meet, not equal places
    table = overall(rows)
    assert [(r["defense"], r["worst_attack"], r["rank"]) for r in table.to_dict("records")] == [
        ("a", "lba", 1),
        ("b", "ckd", rank),
    ]


def test_worst_cases_without_common_seeds_tie():
    rows = setting("a", (450, 450), attack="lba") + setting("b", (90, 90), attack="lba")
    late = setting("a", (9, 9), attack="ckd") + setting("b", (800, 800), attack="ckd")
    rows += [row | {"seed": row["seed"] + 5} for row in late]
    assert overall(rows)["worst_attack"].tolist() == ["lba", "ckd"]
    assert overall(rows)["rank"].tolist() == [1, 1]


def test_worst_acc_of_any_attack_counts():
    rows = setting("a", (90, 90), attack="lba", student_acc=955) + setting(
        "a", (9, 9), attack="ckd", student_acc=900
    )
    rows += [row for k in ("lba", "ckd") for row in setting("b", (500, 500), attack=k)]
    assert overall(rows)["defense"].tolist() == ["b", "a"]
    found = line(overall(rows), defense="a")
    assert (found["rank"], found["acc_lost"]) == (2, 6.0)
    assert found["rank_reason"].startswith("6.0 points of ACC lost")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "no rank against ckd (not measured)"),
        ({"status": "failed"}, "no rank against ckd (not measured: seed 0 failed, seed 1 failed)"),
        ({"verdict": None, "reason": "no verdict: x"}, "no rank against ckd (no verdict: x)"),
    ],
)
def test_fewer_attacks_are_no_advantage(row, reason):
    rows = seeds(defense="a", attack="lba", student_asr=0)
    rows += [each for k in ("lba", "ckd") for each in seeds(defense="b", attack=k, student_asr=800)]
    rows += seeds(defense="a", attack="ckd", **row) if row is not None else []
    table = overall(rows)
    a, b = line(table, defense="a"), line(table, defense="b")
    assert table["rank"].isna().tolist() == [False, True]
    assert (a["n_attacks"], a["missing_attacks"], a["rank_reason"]) == (1, "ckd", reason)
    assert (a["worst_attack"], a["student_asr"]) == ("lba", 0.0)
    assert (b["rank"], b["n_attacks"], b["missing_attacks"]) == (1, 2, "")


def test_no_attack_counts():
    found = line(overall([cell(verdict="inconclusive"), cell(seed=1, verdict="inconclusive")]))
    assert (found["rank_reason"], found["n_attacks"], found["n_seeds"]) == (
        "no rank against any attack",
        0,
        2,
    )
    assert found["missing_attacks"] == "lba"


# -- one defense against another ---------------------------------------------------------------


def compared(rows, metric="student_asr"):
    return [record for record in comparisons(rows) if record["metric"] == metric]


def test_comparison_by_hand():
    # 2, 3, 4 points: mean 3, s / sqrt(3) = 0.57735, t(0.975, 2) = 4.302653: half 2.484138; t =
    # sqrt(27), and with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)
    rows = (
        setting("b", (108, 297, 486), student_acc=940)
        + setting("a", (90, 270, 450))
        + [cell(defense="a", seed=9)]
    )
    rows += [
        cell(defense="b", seed=9, status="failed"),
        cell(defense="a", seed=10, student_asr=None),
    ]
    asr, acc = comparisons(rows)
    assert list(asr) == list(COLUMNS)
    assert {
        name: asr[name]
        for name in ("dataset", "attack", "distiller", "teacher", "student", "preset")
    } == {
        "dataset": "signs",
        "attack": "lba",
        "distiller": "fkd",
        "teacher": "wrn16_2",
        "student": "wrn16_1",
        "preset": "quick",
    }
    assert (asr["defense_a"], asr["defense_b"], asr["metric"], asr["n_seeds"]) == (
        "a",
        "b",
        "student_asr",
        3,
    )
    assert (asr["a"], asr["b"], asr["difference"]) == pytest.approx((30, 33, 3))
    assert (asr["low"], asr["high"]) == pytest.approx((3 - 2.484138, 3 + 2.484138), abs=1e-5)
    # the only one of its metric
    assert asr["p"] == asr["p_holm"] == pytest.approx(1 - math.sqrt(27 / 29))
    assert (asr["finding"], asr["same_teachers"]) == ("b higher", True)
    assert (acc["metric"], acc["difference"], acc["finding"]) == (
        "student_acc",
        pytest.approx(-1),
        "tie",
    )


def test_constant_differences_are_judged_by_the_least_certain_seed():
    # one of 900 more at 0.33 % and at 50 %: the latter is the less certain
    (small,) = compared(setting("a", (3, 450)) + setting("b", (4, 451)))
    assert (small["difference"], small["finding"]) == (pytest.approx(100 / 900), "tie")
    assert small["low"] == pytest.approx(100 / 900 - 4.6, abs=0.05)  # sqrt(3.2595^2 + 3.2597^2)
    (large,) = compared(setting("a", (800, 800)) + setting("b", (90, 90)))
    assert (large["finding"], large["p"] < 1e-20) == ("b lower", True)
    (none,) = compared(setting("a", (90, 91)) + setting("b", (90, 91)))
    assert (none["difference"], none["p"], none["finding"]) == (0, 1, "tie")


def test_holm_is_over_the_comparisons_of_a_metric_in_one_group(tmp_path):
    # b - a and b - c: 2, 3, 4 points, p = 0.0351 alone, three comparisons; c - a is 0
    hits = {"a": (90, 270, 450), "b": (108, 297, 486), "c": (90, 270, 450)}
    rows = [row for d, n in hits.items() for row in setting(d, n, attack="lba")]
    p = 1 - math.sqrt(27 / 29)
    alone = [record["p_holm"] for record in compared(rows)]
    assert alone == pytest.approx([3 * p, 1, 3 * p])
    assert {record["finding"] for record in compared(rows)} == {"tie"}
    assert {record["p_holm"] for record in compared(rows, "student_acc")} == {1}
    # a rank looks at one interval, uncorrected
    assert ranks(rows, attack="lba") == {"a": 1, "b": 3, "c": 1}
    write_paired(comparisons(rows), tmp_path / "p.csv")
    first = read(tmp_path / "p.csv")[0]
    assert (first["p"], first["p_holm"], first["same_teachers"]) == ("0.0351", "0.105", "True")
    # another group beside it changes nothing
    rows += [row for d in "ab" for row in setting(d, hits[d], attack="ckd")]
    both = compared(rows)
    assert [record["p_holm"] for record in both if record["attack"] == "lba"] == alone
    assert [record["p_holm"] for record in both if record["attack"] == "ckd"] == pytest.approx([p])


def test_tiny_error_probabilities_are_written_as_such(tmp_path):
    write_paired(comparisons(setting("a", (800, 800)) + setting("b", (90, 90))), tmp_path / "p.csv")
    assert 0 < float(read(tmp_path / "p.csv")[0]["p"]) < 1e-20


@pytest.mark.parametrize("digest", ["e" * 64, None])
def test_different_teachers_are_flagged(digest):
    rows = [
        *setting("a", (90, 91, 92)),
        *setting("b", (90, 91)),
        cell(defense="b", seed=2) | {"teacher_sha256": digest},
    ]
    assert [record["same_teachers"] for record in comparisons(rows)] == [False, False]
    # only the common seeds count
    assert [record["same_teachers"] for record in comparisons(rows[:-1])] == [True, True]


def test_one_common_seed_is_no_comparison(tmp_path):
    assert comparisons([]) == comparisons(seeds(defense="a")) == []
    rows = [
        cell(defense="a"),
        cell(defense="b", student_asr=0),
        cell(defense="b", seed=1),
        cell(defense="a", seed=2),
    ]
    assert comparisons(rows) == []
    write_paired(comparisons(rows), tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_c1_is_compared_like_a_defense():
    # ASR minus C1, points: 10 - 1, 11 - 1, 12 - 1, mean 10, s = 1, half = 4.302653 / sqrt(3) =
    # 2.484138
    rows = [cell(seed=s, student_asr=90 + 9 * s, c1_asr=9, student_acc=960) for s in (0, 1, 2)]
    asr, acc = against_control(rows)
    assert (asr["defense_a"], asr["defense_b"], asr["metric"], asr["finding"]) == (
        "C1",
        "none",
        "student_asr",
        "none higher",
    )
    assert (asr["a"], asr["b"]) == pytest.approx((1, 11))
    assert (asr["difference"], asr["low"], asr["high"]) == pytest.approx(
        (10, 10 - 2.484138, 10 + 2.484138), abs=1e-5
    )
    assert (acc["a"], acc["difference"], acc["finding"]) == (96.0, 0.0, "tie")


def test_no_control_nothing_to_compare_with():
    assert against_control([cell(seed=s, c1_asr=None, c1_acc=None) for s in (0, 1)]) == []


# -- reservations ------------------------------------------------------------------------------
#
#


def told(rows):
    return "\n".join(notes(rows, comparisons(rows)))


def test_notes():
    several = [cell(defense=d, seed=s) for d in "ab" for s in (0, 1)]
    assert told(several) == ""
    assert (
        told(several[::2])
        == "comparisons of two defenses need two seeds at which both were measured, and there are "
        "none"
    )
    assert told(several[:1]) == ""  # nobody to compare with
    assert "differ in torch_version: 2.14, 2.15" in told(
        [*several[:3], several[3] | {"torch_version": "2.14"}]
    )
    apart = told([*several[:3], several[3] | {"teacher_sha256": "e" * 64}])
    assert apart.endswith("their tasks differed: signs / lba / fkd / wrn16_2 / wrn16_1 / seed 1")
    assert "different teachers or controls" in told(
        [*several[:3], cell(defense="b", seed=1, c3_asr=700)]
    )
    # a failed cell knows none
    assert told([*several[:3], several[3] | {"teacher_sha256": None}]) == ""


# -- the command -------------------------------------------------------------------------------
#
#


def test_command_merges_runs_and_writes_three_files(tmp_path):
    none, nad, robust = (
        setting(d, (n, n + 1)) for d, n in (("none", 720), ("nad", 300), ("robustkd", 100))
    )
    a = save(tmp_path / "a", none + nad)
    b = save(tmp_path / "b", [row | {"wall_s": 99.0} for row in none] + robust)
    out = tmp_path / "board.csv"
    out.write_text("old")
    result = call(a, b / "results.csv", "--out", out)
    assert result.exit_code == 0, result.output
    assert [(r["rank"], r["defense"], r["n_seeds"]) for r in read(out)] == [
        ("1", "robustkd", "2"),
        ("2", "nad", "2"),
        ("3", "none", "2"),
    ]
    assert [r["worst_attack"] for r in read(tmp_path / "board-overall.csv")] == ["lba"] * 3
    assert [r["finding"] for r in paired(tmp_path) if r["metric"] == "student_asr"] == [
        "none higher",
        "robustkd lower",
        "robustkd lower",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a",
        "b",
        "board-overall.csv",
        "board.csv",
        "paired.csv",
    ]
    assert "signs / lba / fkd / wrn16_2 / wrn16_1 / quick" in result.output
    assert "worst case over attacks" in result.output
    text = " ".join(result.output.split())
    assert "8 rows from 2 files, 2 of them twice and counted once" in text
    assert "nad robustkd 33.4 11.2 -22.2 -25.9 to -18.5 4.2e-29 2 robustkd lower" in text
    assert "Comparisons are paired by seeds" in text
    assert "need two seeds" not in text


def test_command_with_one_seed_ranks_and_compares_nothing(tmp_path):
    a = save(tmp_path / "a", [cell(defense="a", student_asr=0), cell(defense="b", student_asr=900)])
    result = call(a, "--out", tmp_path / "l.csv")
    text = " ".join(result.output.split())
    assert result.exit_code == 0
    assert text.count("comparisons of two defenses need two seeds") == 1
    assert "one against another" not in text
    assert "one seed is no ranking" in text
    assert [r["rank"] for r in read(tmp_path / "l.csv")] == ["", ""]
    assert read(tmp_path / "paired.csv") == []


def test_command_says_tie_and_which_teachers_differ(tmp_path):
    other = [row | {"teacher_sha256": "e" * 64} for row in setting("b", (91, 99))]
    result = call(save(tmp_path / "a", setting("a", (90, 99)) + other), "--out", tmp_path / "l.csv")
    assert "tie (not the same teachers)" in " ".join(result.output.split())


def test_json_is_strict(tmp_path):
    a = save(
        tmp_path / "a",
        setting("a", (90, 99))
        + setting("\x1b[2J", (700, 720))
        + [cell(defense="c", status="failed")],
    )
    result = call(a, "--out", tmp_path / "l.csv", "--json")
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    found = json.loads(result.output, parse_constant=pytest.fail)
    assert found["files"] == [
        str(tmp_path / name) for name in ("l.csv", "l-overall.csv", "paired.csv")
    ]
    assert [(r["defense"], r["rank"], r["n_seeds"]) for r in found["leaderboard"]][::2] == [
        ("a", 1, 2),
        ("c", None, 0),
    ]
    assert [(r["defense"], r["worst_attack"]) for r in found["overall"]][:1] == [("a", "lba")]
    assert [(r["metric"], r["n_seeds"], r["same_teachers"]) for r in found["comparisons"]] == [
        ("student_asr", 2, True),
        ("student_acc", 2, True),
    ]
    assert (found["rows"], found["notes"]) == (5, [])


def test_command_writes_to_the_current_folder(tmp_path, monkeypatch):
    save(tmp_path / "a", [cell(seed=s) for s in (0, 1)])
    monkeypatch.chdir(tmp_path)
    result = call("a")
    assert result.exit_code == 0
    assert "note:" not in result.output
    assert {p.name for p in tmp_path.iterdir()} == {
        "a",
        "leaderboard.csv",
        "leaderboard-overall.csv",
        "paired.csv",
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preset": "paper"}, ["presets are never ranked together", "'quick' in ", "'paper' in "]),
        (
            {"dataset_digest": "e" * 64},
            ["dataset 'signs' has other images", "dddddddddddd", "eeeeeeeeeeee"],
        ),
        (
            {"config_digest": "e" * 64, "torch_version": "2.16"},
            ["other parameters", "config_digest", "torch_version", "line 2"],
        ),
        ({"config_digest": "e" * 64, "student_asr": 451}, ["other parameters"]),
        ({"student_ra": 301}, ["student_ra is 33.3333 in ", "and 33.4444 in ", "3 more columns"]),
        ({"reason": "x" * 500}, ["reason is because in ", "xxx..."]),
        ({"status": "failed"}, ["status is ok in ", "and failed in "]),
        (
            {"defense": "nad", "target_class": 2},
            ["target_class is 0 in ", "and 2 in ", "rank the two apart"],
        ),
        ({"defense": "nad", "clean_fraction": 0.05}, ["clean_fraction is 1.0 in ", "and 0.05 in "]),
    ],
)
def test_command_refuses_what_cannot_be_merged(tmp_path, change, words):
    a, b = save(tmp_path / "a", [cell()]), save(tmp_path / "b", [cell(**change)])
    result = call(a, b, "--out", tmp_path / "out.csv")
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    for word in [*words, f"{a}/results.csv", f"{b}/results.csv"]:
        assert word in result.output
    assert not (tmp_path / "out.csv").exists()


def test_command_does_not_replace_what_it_read(tmp_path):
    a = save(tmp_path / "a", [cell()])
    before = (a / "results.csv").read_bytes()
    result = call(a, "--out", a / "results.csv")
    assert (result.exit_code, "one of the runs" in result.output) == (2, True)
    (a / "x-overall.csv").write_bytes(before)
    result = call(a / "x-overall.csv", "--out", a / "x.csv")
    assert (result.exit_code, "one of the runs" in result.output) == (2, True)
    (a / "paired.csv").write_bytes(before)
    result = call(a / "paired.csv", "--out", a / "y.csv")
    assert (result.exit_code, "one of the runs" in result.output) == (2, True)
    assert {(a / name).read_bytes() for name in ("results.csv", "x-overall.csv", "paired.csv")} == {
        before
    }
    assert not (a / "y.csv").exists()


@pytest.mark.parametrize("out", [".", "/", "a", "no/such/folder/x.csv", "paired.csv"])
def test_command_says_where_it_cannot_write(tmp_path, monkeypatch, out):
    save(tmp_path / "a", [cell()])
    monkeypatch.chdir(tmp_path)
    result = call("a", "--out", out)
    assert result.exit_code == 2
    assert result.output.startswith((f"Error: --out {out} ", f"Error: --out {out}: "))
    assert "name a" in result.output


def test_command_needs_a_run():
    assert call().exit_code == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom kdbench.cli import main\nmain(['{}', '--help'], standalone_mode=False)\n"
        "heavy = [m for m in ('torch', 'pandas', 'numpy', 'scipy', 'rich') if m in "
        "sys.modules]\nassert not heavy, heavy\n"
    )
    for name in ("leaderboard", "compare"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


DEFENSES = ("defense", "defense_a", "defense_b")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_stays_text(tmp_path, text):
    of = {"none": 720, text: 90}
    a = save(
        tmp_path / "a",
        [row for d, n in of.items() for row in setting(d, (n, n), attack=text, reason=text)],
    )
    result = call(a, "--out", tmp_path / "l.csv")
    assert result.exit_code == 0, result.output
    assert not [c for c in result.output if not c.isprintable() and c != "\n"]
    shown = "".join("".join(c if c.isprintable() else " " for c in text).split())
    assert shown in "".join(result.output.split())  # nothing of it was taken for markup
    for path in (tmp_path / "l.csv", tmp_path / "l-overall.csv", tmp_path / "paired.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        kept = text.replace("\r\n", "\n").replace("\r", "\n")
        guarded = f"'{kept}" if kept[0] in "=+-@\t\n" else kept
        named = {
            frozenset(row[header.index(name)] for name in header if name in DEFENSES)
            for row in lines
        }
        both = {frozenset(pair) for pair in ((guarded, "none"), (guarded, "C1"), ("none", "C1"))}
        assert named == (
            both if path.name == "paired.csv" else {frozenset({guarded}), frozenset({"none"})}
        )
        for fields in lines:
            assert len(fields) == len(header)
            for field in fields:
                assert not field.startswith(("=", "+", "@", "\t", "\r"))
                assert not field.startswith("-") or math.isfinite(float(field))
