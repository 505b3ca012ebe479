"""What is said of an imported teacher: from counts alone."""

from __future__ import annotations

import pytest

from kdbench.report.notes import notes
from kdbench.report.remarks import OPTIONS, remark_of
from kdbench.report.words import REMARKS
from tests.report.report_rows import cell


def outputs(**changed):
    return {
        "largest": 10,
        "best": 80,
        "by_chance": 15,
        "assigned": [],
        "orders": {},
        "normalizations": {},
        "sample": [10, 100],
        **changed,
    }


@pytest.mark.parametrize(
    ("right", "facts", "word", "says"),
    [
        (80, outputs(), None, ""),
        (40, outputs(best=45), None, ""),
        (80, {}, None, ""),
        (10, outputs(orders={"number": 80}), "number_order", "80.0 % if its outputs count"),
        (70, outputs(orders={"number": 85}), None, ""),
        (
            10,
            outputs(best=62, orders={"text": 60, "number": 50}),
            "text_order",
            "--class-order text",
        ),
        (10, outputs(best=20, normalizations={"raw": 90}), "raw_input", "--std 1,1,1"),
        (72, outputs(normalizations={"raw": 49}, sample=[36, 50]), "raw_input", "98.0 %"),
        (10, outputs(best=20, normalizations={"dataset": 90}), "dataset_input", "without --mean"),
        (10, outputs(normalizations={"raw": 65}), "other_order", "80.0 %"),
        (10, outputs(normalizations={"raw": 75}), "raw_input", "75.0 %"),
        (10, outputs(), "other_order", "80.0 % if its outputs stand for other classes"),
        (10, outputs(best=32, by_chance=20), "near_chance", "near chance"),
        (19, outputs(best=20), "near_chance", "mean and std"),
        (20, outputs(best=20), None, ""),
    ],
)
def test_another_reading_must_be_far_better(right, facts, word, says):
    found, sentence = remark_of((right, 100), facts)
    assert found == word
    assert says in sentence
    assert bool(sentence) == (word is not None)


def test_few_images_are_no_evidence():
    few = outputs(largest=2, best=3, by_chance=2, orders={"number": 3})
    assert remark_of((2, 4), few)[0] == "near_chance"


def test_every_remark_is_a_word_of_the_table():
    assert set(OPTIONS) | {"other_order", "near_chance"} == set(REMARKS)


def test_a_ranking_counts_the_rows_and_names_the_teachers():
    rows = [cell(), cell(attack="imported:mine", seed=1, teacher_remark="near_chance")]
    (line,) = [line for line in notes(rows, []) if "read wrongly" in line]
    assert line.startswith("1 of 2 rows")
    assert line.endswith("imported:mine")
