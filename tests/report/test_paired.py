"""One defense against another, and what a reader must know of it."""

from __future__ import annotations

import math

import pytest

from kdbench.report.notes import notes
from kdbench.report.paired import COLUMNS, against_control, comparisons, write_paired
from tests.report.rankings import ranks, read, seeds, setting
from tests.report.report_rows import cell


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
