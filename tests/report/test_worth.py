"""A table says where the student alone is as good as the distilled one."""

from __future__ import annotations

import pytest
from rich.console import Console

from kdbench.cli.display import print_results
from kdbench.report.notes import notes
from kdbench.report.worth import no_reason_to_distil
from tests.report.report_rows import cell, imported_cell


def seeds(*counts, **names):
    """A row for each (images right alone, images right distilled) of 1000."""
    return [
        cell(seed=n, c2_acc=alone, c3_acc=distilled, **names)
        for n, (alone, distilled) in enumerate(counts)
    ]


@pytest.mark.parametrize(
    ("counts", "is_worth_it"),
    [
        ([(940, 950)], True),
        ([(940, 949)], False),
        ([(960, 940)], False),
        ([(940, 945), (940, 965)], True),
        ([(940, 945), (940, 954)], False),
        ([(940, None)], True),
        ([(None, 940)], True),
    ],
)
def test_less_than_a_point_over_the_seeds_is_no_reason(counts, is_worth_it):
    assert (no_reason_to_distil(seeds(*counts)) == []) is is_worth_it


def test_the_sentence_names_both_numbers_and_whom_it_is_about():
    (sentence,) = no_reason_to_distil(seeds((978, 976), (980, 978)))
    assert sentence == (
        "no reason to distil here: the student alone has ACC 97.9, distilled 97.7 (signs / lba / "
        "fkd / wrn16_2-wrn16_1, 2 seeds); a deployer would not distil"
    )


@pytest.mark.parametrize("total", [1000, 7000])
def test_a_gain_of_one_point_is_worth_it_in_a_run_and_in_its_rounded_table(total):
    """The difference of two floats may be a little less than 1."""
    for right in range(1, total - total // 100):
        counts = right, right + total // 100
        exact = [100 * count / total for count in counts]
        for alone, distilled in (exact, [round(percent, 4) for percent in exact]):
            rows = [cell() | {"c2_acc": alone, "c3_acc": distilled}]
            assert no_reason_to_distil(rows) == [], counts


@pytest.mark.parametrize(("count", "last"), [(9, "in 1 more group"), (500, "in 492 more groups")])
def test_many_groups_are_counted(count, last):
    rows = [row for n in range(count) for row in seeds((940, 941), attack=f"mine{n}")]
    *named, rest = no_reason_to_distil(rows)
    assert len(named) == 8
    assert all("the student alone has ACC 94.0" in sentence for sentence in named)
    assert rest == f"no reason to distil {last} either: see the column gain"


def test_all_defenses_of_a_seed_count_once_and_attacks_apart():
    rows = [
        *seeds((940, 941), defense="none"),
        *seeds((940, 941), defense="nad"),
        *seeds((940, 999), attack="ckd"),
    ]
    (sentence,) = no_reason_to_distil(rows)
    assert "lba" in sentence
    assert "1 seed)" in sentence
    assert no_reason_to_distil([imported_cell(), cell(status="failed")]) == []


def test_a_run_and_a_leaderboard_say_so(capsys):
    rows = seeds((940, 941))
    (sentence,) = no_reason_to_distil(rows)
    assert sentence in notes(rows, [])
    console = Console(width=400)
    with console.capture() as printed:
        print_results(console, rows, "out")
    assert sentence in printed.get()
    with console.capture() as printed:
        print_results(console, seeds((940, 960)), "out")
    assert "no reason to distil" not in printed.get()
