"""The table of all cells: its numbers are those of results.csv."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json

import pytest

from kdbench.page import cells as module
from kdbench.page.cells import cells_of
from kdbench.page.tasks import tasks_of
from kdbench.report.columns import COLUMNS
from kdbench.report.tables import write_results
from tests.page.runs import many, mixed, outcome
from tests.report.report_rows import cell


def cells(rows):
    return cells_of(rows, tasks_of(rows))


def unpacked(text):
    return gzip.decompress(base64.b64decode(text)).decode()


def test_numbers_are_written_as_in_the_file_and_rounded_for_the_eye():
    table = cells([cell(defense="nad", student_asr=301)])
    (line,) = table.lines
    shown = dict(zip([heading for heading, _ in table.headings], line.numbers, strict=True))
    assert shown["ASR"] == ("33.4444", "33.4")
    assert shown["C3 ASR"] == ("80.0", "80.0")
    # (720 - 301) / (720 - 9)
    assert shown["removed"] == ("58.9311", "58.9")


def test_what_is_inconclusive_removed_nothing_that_can_be_said():
    (line,) = cells([outcome("inconclusive", defense="nad")]).lines
    value, shown = line.numbers[-1]
    assert (value != "", shown) == (True, "–")


def test_a_failed_cell_has_its_status_and_no_numbers():
    (line,) = cells([outcome("out of memory", defense="nad")]).lines
    assert (line.word, line.mark.word) == ("out of memory", "failed")
    assert line.numbers[0] == ("", "")


def test_names_that_are_the_same_are_said_once():
    table = cells(mixed())
    assert table.names == ["attack", "defense"]
    assert ("dataset", "signs") in table.common
    assert table.lines[0].names == ["lba", "none"]


def test_the_file_in_the_page_is_results_csv(tmp_path):
    rows = mixed()
    write_results(rows, tmp_path / "results.csv")
    text = unpacked(cells(rows).file)
    assert text == (tmp_path / "results.csv").read_text()
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(rows)


def test_every_column_has_its_meaning():
    meanings = json.loads(unpacked(cells(mixed()).columns))
    assert list(meanings)[: len(COLUMNS)] == list(COLUMNS)
    assert meanings["status"] + meanings["status=ok"] == "how the measurement ended: measured"
    assert meanings["transferred"] == "C3 - C1, of ASR (points)"


def test_more_cells_than_lines_are_shown_by_setting(monkeypatch):
    monkeypatch.setattr(module, "MOST_LINES", 100)
    rows = many(120)
    table = cells(rows)
    assert table.per_setting
    assert (len(table.lines), table.total) == (24, 120)
    line = table.lines[1]
    assert (line.seed, line.setting) == ("5", 1)
    mean = (
        sum(
            row["student_asr"]
            for row in rows
            if row["defense"] == "nad" and row["student"] == "net0" and row["attack"] == "lba"
        )
        / 5
    )
    assert float(line.numbers[2][0]) == pytest.approx(mean, abs=1e-4)


def test_a_file_that_is_too_large_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PAYLOAD", 10)
    assert cells(mixed()).file == ""
