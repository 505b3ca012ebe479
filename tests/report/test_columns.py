"""The table of columns: one meaning a name, every schema readable, everything else follows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import get_args

import pytest

from kdbench.report.column import ROLES, ValueKind
from kdbench.report.columns import COLUMNS, RATES, SCHEMA, TABLE, columns_in, hits_of
from kdbench.report.compare import compare
from kdbench.report.leaderboard import leaderboard
from kdbench.report.merge import merge
from kdbench.report.paired import COLUMNS as PAIRED
from kdbench.report.paired import comparisons
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from kdbench.report.words import REASON_CODES, STATUSES, VERDICTS
from tests.report.report_rows import cell

OLD = Path(__file__).with_name("data")
PUBLISHED = sorted(Path(__file__).parents[2].glob("benchmarks/results/*/results.csv"))
SCHEMAS = range(1, SCHEMA + 1)


@pytest.mark.parametrize("column", [*TABLE, *PAIRED.values()], ids=lambda column: column.name)
def test_every_column_has_a_kind_and_a_meaning(column):
    assert column.kind in get_args(ValueKind)
    assert column.about
    assert (column.kind == "word") == bool(column.words)
    assert not column.out_of or COLUMNS[column.out_of].kind == column.kind == "whole"
    assert 1 <= column.since <= (column.until or SCHEMA) <= SCHEMA


@pytest.mark.parametrize("column", TABLE, ids=lambda column: column.name)
def test_every_column_of_the_results_has_a_role(column):
    """A new column needs one, so that the commands know what to do where rows differ in it."""
    assert column.role in ROLES
    assert bool(column.may_differ) == (column.role == "free"), "its reason stands beside it"


def test_a_file_that_was_cut_off_in_its_last_value_is_noticed():
    assert COLUMNS[list(COLUMNS)[-1]].kind == "digest"


def test_every_rate_has_its_count():
    assert {name for name in RATES if f"{name}_low" not in COLUMNS} == set()
    assert {RATES[name] for name in RATES if name.endswith("_acc")} == {"n_test"}
    assert {RATES[name] for name in RATES if not name.endswith("_acc")} == {"n_asr"}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_name_is_one_column_of_a_schema(schema):
    named = [
        column.name_in(schema)
        for column in TABLE
        if column.since <= schema <= (column.until or SCHEMA)
    ]
    assert len(named) == len(set(named)) == len(columns_in(schema))


def test_no_old_name_has_a_new_meaning():
    """A name that two columns have had is one that ended before the other began, and nothing of
    the one that ended is read."""
    meanings = {}
    for schema in SCHEMAS:
        for name, column in columns_in(schema).items():
            meanings.setdefault(name, set()).add(column.about)
    assert {name for name, texts in meanings.items() if len(texts) > 1} == {
        "peak_mem_mb",
        "config_digest",
    }
    for latest in (5, 6, 7, 8):
        before = {name for schema in range(1, latest) for name in columns_in(schema)}
        new = set(columns_in(latest)) - set(columns_in(latest - 1))
        assert new
        assert new & before == set()


def test_an_older_schema_has_the_columns_of_its_time():
    """Counted in the files of that time."""
    for schema, count in ((1, 49), (2, 83), (3, 85), (4, 99)):
        assert len(columns_in(schema)) == count
    with PUBLISHED[0].open(newline="", encoding="utf-8") as file:
        assert set(next(csv.reader(file))) == set(columns_in(4))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_every_published_file_is_read(path):
    with path.open(newline="", encoding="utf-8") as file:
        raw = list(csv.DictReader(file))
    rows = read_results(path).rows
    assert len(rows) == len(raw)
    for row, text in zip(rows, raw, strict=True):
        assert list(row) == list(COLUMNS)
        for old, column in columns_in(int(text["schema"])).items():
            value = row[column.name]
            if column.late and old not in text:
                assert value is None
                continue
            assert text[old].lstrip("'") == ("" if value is None else text[old].lstrip("'"))
            if column.kind in ("number", "whole") and value is not None:
                assert value == float(text[old])
        for name in ("setting_digest", "reason_code"):
            assert (row[name] is None) == (name not in text)


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_file_of_each_older_schema_is_read_under_todays_names(schema):
    first, second, failed = read_results(OLD / f"schema{schema}.csv").rows
    assert list(first) == list(COLUMNS)
    assert (first["schema"], first["seed"], second["seed"]) == (schema, 0, 1)
    assert (first["c1_asr"], first["c3_asr"], first["clean_acc"]) == (1.0, 80.0, 96.5)
    assert (first["student_asr"], hits_of(first, "student_asr")) == (10.0, 90)
    assert hits_of(second, "student_asr") == 91
    assert (failed["status"], failed["student_asr"]) == (
        "crashed" if schema > 2 else "diverged",
        None,
    )
    younger = [name for name, column in COLUMNS.items() if column.since > schema]
    assert younger
    assert {first[name] for name in younger} == {None}
    assert (first["student_asr_hits"] is None) == (schema == 1)


@pytest.mark.parametrize("schema", [1, 2])
def test_what_meant_something_else_is_not_read(schema):
    with (OLD / f"schema{schema}.csv").open(newline="", encoding="utf-8") as file:
        raw = next(csv.DictReader(file))
    row = read_results(OLD / f"schema{schema}.csv").rows[0]
    assert (raw["peak_mem_mb"], raw["config_digest"]) == ("900.0", "c" * 64)
    assert row["peak_mem_mb"] is row["config_digest"] is None


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_rows_of_an_older_schema_are_ranked_and_compared_among_themselves(schema):
    file = read_results(OLD / f"schema{schema}.csv")
    (record, *_) = leaderboard(merge([file])).to_dict("records")
    assert (record["defense"], record["n_seeds"]) == ("robustkd", 2)
    assert record["student_asr"] == pytest.approx(10.0556, abs=1e-4)
    assert comparisons(file.rows) == []
    found = compare(file, file)
    assert (found.shared, found.cells.changes, found.causes) == (3, [], [])
    assert found.cells.compared


def test_a_row_is_written_in_the_order_of_the_table(tmp_path):
    write_results([cell()], tmp_path / "results.csv")
    header = (tmp_path / "results.csv").read_text().splitlines()[0]
    assert header.split(",") == list(COLUMNS)


@pytest.mark.parametrize(
    ("column", "words"),
    [("status", STATUSES), ("verdict", VERDICTS), ("reason_code", REASON_CODES)],
)
def test_the_words_of_a_column_are_explained(column, words):
    text = COLUMNS[column].explained()
    assert COLUMNS[column].words == words
    assert all(f"{word}: {meaning}" in text for word, meaning in words.items())
