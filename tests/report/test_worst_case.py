"""The worst case over attacks against values computed by hand."""

from __future__ import annotations

import pytest

from kdbench.report.leaderboard import overall
from tests.report.rankings import line, seeds, setting
from tests.report.report_rows import cell


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
