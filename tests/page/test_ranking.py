"""Rankings with ties, and the differences beside them."""

from __future__ import annotations

import pytest

from kdbench.page.ranking import rankings_of
from kdbench.page.tasks import tasks_of
from tests.page.runs import outcome
from tests.report.rankings import setting
from tests.report.report_rows import cell


def rankings(rows):
    return rankings_of(rows, tasks_of(rows))


def test_equal_ranks_are_marked_and_differences_are_those_of_the_table():
    rows = [
        *setting("none", (720, 700, 710)),
        *setting("nad", (300, 310, 320)),
        *setting("anp", (310, 300, 321)),
    ]
    made = rankings(rows)
    (table,) = made.tables
    assert [(line.rank, line.defense) for line in table.lines] == [
        ("1=", "nad"),
        ("1=", "anp"),
        ("3", "none"),
    ]
    nad = table.lines[0]
    # Paired: 300 - 720, 310 - 700, 320 - 710 of 900 are -46.67, -43.33 and -43.33 in the mean.
    assert nad.undefended.startswith("−44.4 (p = 0.00")
    # Against C1, which has 9 of 900: 33.33, 34.44 and 35.56, less 1.
    assert nad.control.startswith("+33.4 (p = 0.00")
    assert table.lines[2].undefended == ""
    assert len(made.pairs) == 3
    assert made.pairs_left == 0


def test_an_interval_of_a_rate_stays_within_0_and_100():
    (table,) = rankings(setting("nad", (0, 500))).tables
    assert table.lines[0].interval == "0.0 to 100.0"


def test_one_seed_has_no_rank_and_says_why():
    (table,) = rankings([cell(defense="nad"), outcome("failed", defense="anp")]).tables
    assert [(line.rank, line.defense, line.remark) for line in table.lines] == [
        ("", "nad", "one seed is no ranking"),
        ("", "anp", "not measured: seed 0 failed"),
    ]
    assert table.lines[1].seeds == "0 (1 failed)"


def test_what_was_not_compared_says_why():
    def line(rows, name="nad"):
        (table,) = rankings(rows).tables
        return next(line for line in table.lines if line.defense == name)

    none, nad = setting("none", (720, 700)), setting("nad", (300, 310))
    assert line([*none, nad[0]]).undefended == "1 seed in common, 2 are needed"
    assert line([*none, nad[0]]).control == "1 seed in common, 2 are needed"
    assert line(nad).undefended == "none was not measured"
    assert line([none[0], nad[1]]).undefended == "no seed in common, 2 are needed"
    failed = [outcome("failed", defense="nad", seed=seed) for seed in (0, 1)]
    assert line([*none, *failed]).undefended == "not measured"
    without = [row | {"c1_asr": None, "c1_asr_hits": None} for row in [*none, *nad]]
    assert line(without).control == "C1 was not measured"
    assert line([*none, *nad], "none").undefended == ""


def test_over_several_attacks_the_worst_counts():
    rows = [
        *setting("nad", (90, 91)),
        *setting("nad", (300, 310), attack="ckd", attack_digest="7" * 64),
    ]
    *_, table = rankings(rows).tables
    assert table.over_attacks
    assert [(line.defense, line.attack) for line in table.lines] == [("nad", "ckd")]


def test_over_several_attacks_every_verdict_is_said():
    rows = [
        row
        for attack, digest in (("lba", "6"), ("ckd", "7"))
        for hits, defense in (((18, 300, 700), "nad"), ((720, 720, 720), "none"))
        for row in setting(defense, hits, attack=attack, attack_digest=digest * 64)
    ]
    *_, table = rankings(rows).tables
    verdicts = {line.defense: line.verdict for line in table.lines}
    assert verdicts == {"nad": "stopped 1/3, partly 1/3, not stopped 1/3", "none": "undefended"}


def test_notes_are_those_of_the_leaderboard():
    made = rankings([cell(defense="nad", device="cpu"), cell(defense="anp", device="gpu", seed=1)])
    assert any(note.startswith("the rows differ in device") for note in made.notes)


@pytest.mark.parametrize(("count", "left"), [(20, 0), (120, 7140)])
def test_too_many_pairs_are_not_compared(count, left):
    rows = [
        cell(defense=f"d{n}", defense_digest=f"{n:064x}", setting_digest=f"{n:064x}", seed=seed)
        for n in range(count)
        for seed in range(2)
    ]
    made = rankings(rows)
    assert len(made.pairs) + made.pairs_left == count * (count - 1) // 2
    assert len(made.pairs) == (20 if count == 20 else 0)
    assert left in (0, made.pairs_left)
