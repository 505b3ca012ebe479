"""The sentence that says what was found, for each of its rules."""

from __future__ import annotations

import pytest

from kdbench.page.finding import finding_of
from tests.page.runs import outcome
from tests.report.report_rows import cell, imported_cell


def found(*groups):
    """The finding of groups (count, outcome, values), with a seed for each cell of a group."""
    return finding_of(
        [
            outcome(name, seed=seed, **values)
            for count, name, values in groups
            for seed in range(count)
        ]
    )


def test_nothing_was_measured():
    finding = found((2, "failed", {"defense": "nad"}), (1, "timeout", {"defense": "anp"}))
    assert finding.headline == "None of the 3 cells could be measured."
    assert finding.reservations == ()
    alone = found((1, "failed", {"defense": "nad"}))
    assert alone.headline == "The only cell could not be measured."


def test_an_imported_teacher():
    finding = finding_of([imported_cell(seed=seed) for seed in range(2)])
    assert (
        finding.headline
        == "Nobody knows the trigger of an imported teacher, so there is no verdict."
    )


def test_missing_controls():
    finding = found((2, "no verdict", {"defense": "nad"}), (1, "failed", {"defense": "anp"}))
    assert finding.headline == "Control C1 or C3 is missing, so there is no verdict."
    assert finding.reservations == ("1 of 3 cells failed.",)


def test_no_defense():
    finding = found(
        (3, "not stopped", {"attack": "ckd"}),
        (1, "not stopped", {"attack": "lba"}),
        (2, "inconclusive", {"attack": "htba"}),
    )
    assert finding.headline == (
        "ckd travelled in 3 of 3 runs, lba travelled in 1 of 1 run and htba travelled in 0 of 2 "
        "runs. No defense was asked for."
    )


def test_too_little_travelled():
    few = found((6, "inconclusive", {"defense": "nad"}))
    start = "Too little of the backdoor travelled to judge a defense"
    assert few.headline == f"{start} in any of 6 runs."
    one = found((1, "inconclusive", {"defense": "nad"}))
    assert one.headline == f"{start}."
    assert one.reservations == ("One seed is no ranking.",)


def test_one_defense():
    finding = found(
        (3, "not stopped", {"attack": "lba", "defense": "robustkd"}),
        (2, "stopped", {"attack": "ckd", "defense": "robustkd"}),
    )
    assert finding.headline == "robustkd stopped lba in 0 of 3 runs and ckd in 2 of 2 runs."
    assert finding.reservations == ()


def test_what_was_inconclusive_is_said():
    finding = found((5, "not stopped", {"defense": "nad"}), (4, "inconclusive", {"attack": "ckd"}))
    assert finding.headline == "nad stopped lba in 0 of 5 runs."
    assert finding.reservations == (
        "In 4 of 9 runs too little of the backdoor travelled to judge.",
    )


def test_several_defenses_that_stop_nothing():
    finding = found(
        (10, "not stopped", {"defense": "nad"}),
        (6, "not stopped", {"defense": "anp", "attack": "ckd"}),
        (4, "partly", {"defense": "anp", "attack": "ckd"}),
    )
    assert finding.headline == "Of 2 defenses none stopped lba or ckd in any of 20 judged runs."
    assert finding.reservations == ("anp partly stopped ckd in 4 of 10 runs.",)


def test_some_that_stop_something():
    finding = found(
        (3, "not stopped", {"defense": "nad"}),
        (1, "stopped", {"defense": "anp"}),
        (2, "not stopped", {"defense": "robustkd"}),
    )
    assert finding.headline == "anp stopped lba in 1 of 1 run; 2 other defenses stopped nothing."


def test_many_that_stop_something_are_counted():
    groups = [(n, "stopped", {"defense": f"d{n}"}) for n in (1, 2, 3, 4)]
    finding = found(*groups, (5, "not stopped", {"defense": "weak"}))
    assert finding.headline == "4 of 5 defenses stopped lba in 10 of 15 judged runs."
    assert finding.reservations == (
        "d4 stopped lba in 4 of 4 runs, d3 stopped lba in 3 of 3 runs, d2 stopped lba in 2 of 2 "
        "runs and others stopped an attack in 1 run.",
    )


def test_many_that_stop_something_partly_are_counted():
    groups = [(n, "partly", {"defense": f"d{n}"}) for n in (1, 2, 3, 4)]
    finding = found(*groups, (5, "not stopped", {"defense": "weak"}))
    assert finding.headline == "Of 5 defenses none stopped lba in any of 15 judged runs."
    assert finding.reservations == (
        "4 defenses partly stopped an attack, in 10 of 15 judged runs.",
    )


def test_of_many_attacks_those_that_were_stopped_are_named():
    groups = [(2, "not stopped", {"attack": f"a{n}", "defense": "nad"}) for n in range(4)]
    finding = found(*groups, (3, "stopped", {"attack": "weak", "defense": "nad"}))
    assert finding.headline == "nad stopped 1 of 5 attacks: weak in 3 of 3 runs."
    finding = found(*groups, (3, "not stopped", {"attack": "weak", "defense": "nad"}))
    assert finding.headline == "nad stopped none of 5 attacks in any of 11 runs."


def test_of_many_attacks_those_that_travelled_are_named():
    groups = [(2, "inconclusive", {"attack": f"a{n}"}) for n in range(4)]
    finding = found(*groups, (3, "not stopped", {"attack": "strong"}))
    assert finding.headline == (
        "1 of 5 attacks travelled: strong in 3 of 3 runs. No defense was asked for."
    )
    finding = found(*groups, (3, "inconclusive", {"attack": "strong"}))
    assert finding.headline == (
        "None of 5 attacks travelled in any of 11 runs. No defense was asked for."
    )


def test_of_several_distillers_the_one_is_named_under_which_an_attack_was_stopped():
    finding = found(
        (4, "not stopped", {"defense": "nad"}),
        (2, "stopped", {"defense": "nad", "distiller": "fkd.evalbn"}),
        (3, "partly", {"defense": "anp", "distiller": "fkd.weak"}),
    )
    assert finding.headline == (
        "nad stopped lba under fkd.evalbn in 2 of 2 runs; 1 other defense stopped nothing."
    )
    assert finding.reservations == ("anp partly stopped lba under fkd.weak in 3 of 3 runs.",)
    one = found(
        (4, "not stopped", {"defense": "nad"}),
        (2, "stopped", {"defense": "nad", "distiller": "fkd.evalbn"}),
    )
    assert one.headline == (
        "nad stopped lba under fkd in 0 of 4 runs and lba under fkd.evalbn in 2 of 2 runs."
    )


def test_the_undefended_control_is_no_defense():
    finding = found((2, "not stopped", {}), (2, "not stopped", {"defense": "nad"}))
    assert finding.headline == "nad stopped lba in 0 of 2 runs."


def test_one_seed_is_no_ranking():
    assert found((1, "stopped", {"defense": "nad"})).reservations == ("One seed is no ranking.",)
    assert found((2, "stopped", {"defense": "nad"})).reservations == ()


@pytest.mark.parametrize("changed", [None, "defense.nad.beta=2"])
def test_numbers_that_a_name_does_not_promise_stand_behind_it(changed):
    finding = finding_of([cell(defense="nad", changed=changed, seed=seed) for seed in range(2)])
    assert finding.headline.startswith("nad [beta=2] stopped" if changed else "nad stopped")


def test_a_run_that_is_not_finished_says_so_and_nothing_of_what_it_has_not_measured():
    finding = finding_of([cell(defense="none")], missing=2)
    assert finding.headline == "lba travelled in 1 of 1 run."
    assert finding.reservations[0] == "Not finished: 1 of 3 cells were measured."
    whole = finding_of([cell(defense="none")])
    assert whole.headline == "lba travelled in 1 of 1 run. No defense was asked for."
