"""Means over seeds against values computed by hand."""

from __future__ import annotations

import math

import pytest

from kdbench.report.leaderboard import leaderboard, overall, write_leaderboard, write_overall
from tests.report.rankings import line, read, seeds
from tests.report.report_rows import cell


def test_mean_and_t_interval_by_hand():
    # 10, 20, 30 %: mean 20, s = 10, t(0.975, 2) = 4.302653, half = 4.302653 * 10 / sqrt(3) =
    # 24.841377
    rows = [cell(defense="nad", seed=s, student_asr=n) for s, n in enumerate((90, 180, 270))]
    found = line(leaderboard(rows))
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
    rows = [
        cell(defense="nad", student_asr=90),
        cell(defense="nad", seed=1, status="failed", student_asr=90.0),
    ]
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
    words = ("partly", "stopped", "stopped")
    rows = [cell(defense="nad", seed=s, verdict=v) for s, v in enumerate(words)]
    assert leaderboard(rows)["verdict"].tolist() == ["stopped 2/3, partly 1/3"]


def test_a_student_without_a_defense_is_undefended_in_every_table():
    """Its column in results.csv follows from the counts, and is ``not stopped``."""
    rows = [cell(seed=s, student_asr=720, c3_asr=720) for s in (0, 1)]
    rows += [cell(seed=2, student_asr=90, c3_asr=90)]
    assert [row["verdict"] for row in rows] == ["not stopped", "not stopped", "inconclusive"]
    for table in (leaderboard(rows), overall(rows)):
        assert table["verdict"].tolist() == ["undefended 2/3, inconclusive 1/3"]


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
