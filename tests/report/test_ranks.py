"""Ranks and ties against values computed by hand."""

from __future__ import annotations

import math

import pytest

from kdbench.report.leaderboard import leaderboard, write_leaderboard, write_overall
from kdbench.report.paired import comparisons
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report.rankings import line, ranks, read, seeds, setting
from tests.report.report_rows import cell


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
