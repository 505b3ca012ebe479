"""Rows that were made without a wall are visible as such."""

from __future__ import annotations

import csv
import json
import re

import pytest
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.report.columns import COLUMNS
from kdbench.report.compare import compare
from kdbench.report.confinement import confinement_of, confinement_text, wall_warning, without_wall
from kdbench.report.leaderboard import leaderboard, overall
from kdbench.report.merge import merge
from kdbench.report.notes import notes
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report.report_rows import cell

WALL = "namespaces, landlock 7, seccomp"
INLINE = "none (inline: both sides in one process)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "^$"),
        (WALL, "^$"),
        ("landlock 7, seccomp (reached: stat, unix socket)", "gaps: a plugin can reach stat, unix"),
        ("none (reached: open, udp)", "no wall: a plugin can reach open, udp; see docs/threat"),
        ("none", "no wall: a plugin has all your rights"),
    ],
)
def test_who_starts_a_run_is_told_what_the_wall_is_not(text, words):
    assert re.search(words, wall_warning(text))
    assert "\n" not in wall_warning(text)


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ([WALL], WALL),
        ([WALL, WALL], WALL),
        ([WALL, INLINE], f"{WALL} / {INLINE}"),
        ([None, WALL], f"{WALL} / not recorded"),
        (["", ["x"], WALL], f"{WALL} / not recorded"),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_text_of_a_row_names_each_wall_of_its_stages(stages, text):
    assert confinement_text(stages) == text


def test_the_text_of_several_rows():
    rows = [cell(confinement=text) for text in (f"{INLINE} / {WALL}", WALL, None)]
    assert confinement_of(rows) == f"{WALL} / {INLINE} / not recorded"
    assert confinement_of([cell(confinement=None)]) is None


def test_the_column_is_text_of_schema_6():
    column = COLUMNS["confinement"]
    assert (column.kind, column.since) == ("text", 6)


def test_notes_name_the_rows_without_a_wall():
    good = [cell(seed=s, defense=d) for s in (0, 1) for d in ("none", "nad")]
    assert without_wall(good) == {}
    rows = [
        *good,
        cell(defense="robustkd", confinement=INLINE),
        cell(defense="robustkd", seed=1, confinement=f"{WALL} / {INLINE}"),
        cell(defense="anp", confinement="landlock 7, seccomp (reached: stat, unix socket)"),
        cell(defense="fineprune", confinement=None),
        cell(defense="failed", status="failed", confinement=None),
    ]
    told = notes(rows, [{}])
    assert told == [
        "2 of 9 rows were made without a wall between the defender and the trigger: robustkd",
        "1 of 9 rows were made behind a wall that let a trial through: anp",
        "1 of 9 rows do not say whether a wall kept the defender from the trigger: fineprune",
    ]


def test_a_ranking_has_the_walls_of_its_rows(tmp_path):
    rows = [cell(seed=s, defense=d) for s in (0, 1) for d in ("none", "nad")]
    rows[3]["confinement"] = INLINE
    for table in (leaderboard(rows), overall(rows)):
        walls = dict(zip(table["defense"], table["confinement"], strict=True))
        assert walls == {"none": WALL, "nad": f"{WALL} / {INLINE}"}
    write_results(rows, tmp_path / "results.csv")
    arguments = ["leaderboard", str(tmp_path), "--out", str(tmp_path / "l.csv")]
    result = CliRunner().invoke(main, arguments)
    assert "note: 1 of 4 rows were made without a wall" in " ".join(result.output.split())
    as_json = CliRunner().invoke(main, [*arguments, "--json"])
    assert any("without a wall" in note for note in json.loads(as_json.output)["notes"])
    with (tmp_path / "l.csv").open(newline="") as file:
        assert {row["confinement"] for row in csv.DictReader(file)} == {WALL, f"{WALL} / {INLINE}"}


def test_a_row_is_not_refused_for_its_wall_and_compare_shows_it(tmp_path):
    for name, text in (("a", WALL), ("b", INLINE)):
        (tmp_path / name).mkdir()
        write_results([cell(confinement=text)], tmp_path / name / "results.csv")
    files = [read_results(tmp_path / name) for name in "ab"]
    assert len(merge(files)) == 1
    (cause,) = compare(*files).causes
    assert cause == {"column": "confinement", "a": WALL, "b": INLINE, "cells": 1}
