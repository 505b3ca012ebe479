"""Rows by task and setting, and the matrix of a task."""

from __future__ import annotations

import pytest

from kdbench.page.matrix import matrix_of
from kdbench.page.tasks import tasks_of
from tests.page.runs import mixed, outcome
from tests.report.report_rows import cell, imported_cell


def test_a_task_has_the_settings_that_share_its_numbers():
    rows = mixed() + [cell(student="wrn10_1", seed=seed) for seed in range(2)]
    first, second = tasks_of(rows)
    assert first.title == "signs, wrn16_2 to wrn16_1, fkd, preset quick"
    assert second.title == "signs, wrn16_2 to wrn10_1, fkd, preset quick"
    assert (first.short, second.short) == ("wrn16_2 to wrn16_1", "wrn16_2 to wrn10_1")
    assert tasks_of(mixed())[0].short == ""
    numbers = [setting.number for task in (first, second) for setting in task.settings]
    assert numbers == list(range(7))
    assert (first.attacks, first.defenses) == (["lba", "ckd"], ["none", "nad", "anp"])
    assert sum(len(setting.rows) for setting in first.settings) == len(first.rows) == 18


def test_the_undefended_control_is_the_first_defense():
    (task,) = tasks_of([cell(defense="nad"), cell(defense="none")])
    assert task.defenses == ["none", "nad"]


def test_settings_of_one_name_are_told_apart():
    digest = "9" * 64
    rows = [
        cell(defense="nad"),
        cell(defense="nad", defense_digest=digest, setting_digest=digest),
        cell(defense="anp", changed="defense.anp.steps=3", setting_digest="8" * 64),
    ]
    (task,) = tasks_of(rows)
    assert task.defenses == ["nad (333333333333)", "nad (999999999999)", "anp [steps=3]"]


def test_means_and_intervals_of_a_setting():
    (task,) = tasks_of([cell(seed=seed, student_asr=hits) for seed, hits in enumerate((90, 180))])
    (setting,) = task.settings
    assert setting.mean("student_asr") == pytest.approx(15.0)
    # Student's interval of 10 and 20: the mean, and 12.706 standard errors of 5.
    assert setting.interval("student_asr") == pytest.approx((15 - 63.53, 15 + 63.53), abs=0.01)
    (task,) = tasks_of([cell(student_asr=90)])
    (setting,) = task.settings
    # Of one seed it is Wilson's, of 90 in 900.
    assert setting.interval("student_asr") == pytest.approx((8.20, 12.13), abs=0.01)
    (task,) = tasks_of([outcome("failed")])
    assert task.settings[0].mean("student_asr") is task.settings[0].interval("student_asr") is None


def test_the_matrix_has_a_place_for_each_attack_and_defense():
    rows = [row for row in mixed() if (row["attack"], row["defense"]) != ("ckd", "anp")]
    matrix = matrix_of(tasks_of(rows)[0])
    assert matrix.attacks == ["lba", "ckd"]
    assert [defense for defense, _ in matrix.lines] == ["none", "nad", "anp"]
    places, others = zip(*(line for _, line in matrix.lines), strict=True)
    assert [place.mark.word for place in places] == ["undefended", "partly", "not stopped"]
    assert [(place.share, place.others) for place in places] == [
        ("", []),
        ("2 of 3 seeds", ["failed 1"]),
        ("2 of 3 seeds", ["inconclusive 1"]),
    ]
    assert places[0].rate == "ASR 80.0"
    assert [place and place.mark.word for place in others] == ["undefended", "stopped", None]


def test_of_two_outcomes_that_are_equally_frequent_the_one_that_claims_less_counts():
    names = ("stopped", "not stopped", "partly")
    (task,) = tasks_of([outcome(name, defense="nad", seed=n) for n, name in enumerate(names)])
    (setting,) = task.settings
    assert setting.outcome == "not stopped"
    assert setting.words == "not stopped 1/3, stopped 1/3, partly 1/3"
    assert setting.share == "not stopped 1/3"


def test_an_outcome_was_measured_if_as_many_seeds_were_as_failed():
    names = ("failed", "partly", "inconclusive")
    (task,) = tasks_of([outcome(name, defense="nad", seed=n) for n, name in enumerate(names)])
    assert task.settings[0].outcome == "inconclusive"


def test_without_an_asr_the_matrix_has_the_acc():
    rates = []
    for row in (imported_cell(), outcome("failed")):
        ((_, (place,)),) = matrix_of(tasks_of([row])[0]).lines
        rates.append(place.rate)
    assert rates == ["ACC 95.0", ""]
