"""results.csv read back: what was written survives, and what kdbench did not write is refused by
name and line."""

from __future__ import annotations

import os

import pytest

from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, SCHEMA
from kdbench.report.merge import merge
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report.report_rows import HOSTILE, cell, imported_cell, kept


@pytest.fixture
def edited(tmp_path):
    """Write two rows, replace a piece of the file's text, which must be there, and return its
    path."""

    def edit(old=None, new="", rows=None):
        path = tmp_path / "results.csv"
        write_results(rows or [cell(), cell(seed=1)], path)
        if old is not None:
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new, 1))
        return path

    return edit


def refused(path, *words):
    with pytest.raises(ConfigError) as caught:
        read_results(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_values_survive_with_their_types(tmp_path):
    rows = [
        cell(student_asr=301, wall_s=12.34567, peak_mem_mb=1e16, reason=None, target_class=3),
        cell(
            seed=7,
            status="failed",
            reason="evaluation: ValueError: a, b",
            peak_mem_mb=None,
            teacher_sha256=None,
        ),
        cell(seed=2, c1_asr=None, reason="0123"),
        imported_cell(seed=3),
    ]
    write_results(rows, tmp_path / "results.csv")
    found = read_results(tmp_path)
    assert found.path == tmp_path / "results.csv"
    assert found.lines == [2, 3, 4, 5]
    assert len(found.rows) == 4
    for row, back in zip(rows, found.rows, strict=True):
        assert list(back) == list(COLUMNS)
        for name, value in row.items():
            wanted = round(value, 4) if isinstance(value, float) else value
            assert (back[name], type(back[name])) == (wanted, type(wanted)), name


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_survives_the_round_trip(tmp_path, text):
    one, two = tmp_path / "1.csv", tmp_path / "2.csv"
    write_results([cell(attack=text, reason=text, device=text)], one)
    (row,) = read_results(one).rows
    assert {row["attack"], row["reason"], row["device"]} == {kept(text)}
    write_results([row], two)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("text", ["'=x", "''@x", "\r=1+1", "a\rb"])
def test_guarded_and_broken_text_survives_the_round_trip(tmp_path, text):
    write_results([cell(reason=text)], tmp_path / "r.csv")
    raw = (tmp_path / "r.csv").read_bytes()
    assert b"\r" not in raw, "a lone one is not quoted and would start a row of a spreadsheet"
    (row,) = read_results(tmp_path / "r.csv").rows
    assert row["reason"] == text.replace("\r", "\n")


def test_an_apostrophe_that_guards_nothing_stays(tmp_path):
    write_results([cell(reason="'quoted'", device="'")], tmp_path / "r.csv")
    (row,) = read_results(tmp_path / "r.csv").rows
    assert (row["reason"], row["device"]) == ("'quoted'", "'")


def test_lines_are_those_of_the_file(edited):
    path = edited(rows=[cell(reason="one\ntwo\nthree"), cell(seed=1), cell(seed=2)])
    assert read_results(path).lines == [2, 5, 6]


def test_long_reasons_are_read_and_the_limit_of_csv_stays(edited):
    import csv

    limit = csv.field_size_limit()
    path = edited(rows=[cell(reason="x" * 200_000)])
    assert len(read_results(path).rows[0]["reason"]) == 200_000
    assert csv.field_size_limit() == limit


def test_what_a_spreadsheet_does_to_a_file_is_read(edited):
    path = edited()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert [row["seed"] for row in read_results(path).rows] == [0, 1]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\xff", "binary file"),
        (b"a\0b", "binary file"),
        ("schéma".encode("latin-1"), "binary file or not in UTF-8"),
        (b"rank,defense\n1,none\n", "line 1: no column 'schema'"),
        (b"schema,a\n", "holds no row"),
        (b'schema,a\n3,"b\n', "line 2"),
        (b"schema,a\nschema,a\n", "line 2: the names of the columns again, so tables were put"),
        (
            f"schema,a\n{SCHEMA + 1},b\n".encode(),
            f"line 2: schema '{SCHEMA + 1}', and this kdbench reads schemas 1 to {SCHEMA}; install",
        ),
        (b"schema,a\n,b\n", "line 2: schema ''"),
        (b"schema,a\n0,b\n", "line 2: schema '0'"),
        (b"schema,a\n4.0,b\n", "line 2: schema '4.0'"),
        (b"schema,a\n2,b\n", "line 1: missing columns of schema 2: status, reason"),
        (
            f"schema,a\n{SCHEMA},b\n".encode(),
            f"line 1: missing columns of schema {SCHEMA}: status, reason",
        ),
        (b"schema,a\n3\n", "line 2: 1 fields under a header of 2"),
        (b"schema,a\n3,b\rc\n", "line 2"),
    ],
)
def test_files_that_are_no_results(tmp_path, content, word):
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    refused(path, word)


def test_paths_that_are_no_files(tmp_path):
    refused(tmp_path, "holds no results.csv")
    refused(tmp_path / "none.csv", "does not exist")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.csv").mkdir()
    refused(tmp_path / "run", "no regular file")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("status,reason", "reason,status,reason", ["fields under a header"]),
        ("n_test", "n_tests", ["line 1", "missing columns", "n_test;"]),
        ("signs,lba", "signs,lba,lba", ["line 2", "fields"]),
        ("wrn16_1,quick,1,", "wrn16_1,quick,0,", ["line 3", "seed 0 is on line 2 already"]),
        (
            "wrn16_1,quick,1,",
            "wrn16_1,quick,1.0,",
            ["line 3, column seed", "'1.0' is no whole number"],
        ),
        ("wrn16_1,quick,1,", "wrn16_1,quick,,", ["line 3: nothing in seed"]),
        ("signs,lba", "signs,", ["line 2: nothing in attack"]),
        ("ok,because", ",because", ["line 2: nothing in status"]),
        (",not stopped,12.5", ",Not stopped,12.5", ["line 2: unknown verdict Not stopped"]),
        (",not stopped,12.5", ",not stopped,nan", ["line 2, column wall_s", "'nan' is no number"]),
        (",not stopped,12.5", ",not stopped,inf", ["no number"]),
        (",not stopped,12.5", ",not stopped,1e999", ["no number"]),
        (",not stopped,12.5", ",not stopped,1_0", ["no number"]),
        (",not stopped,12.5", ",not stopped,'12.5", ["no number"]),
        (",not stopped,12.5", ",not stopped,\u0661", ["no number"]),
        (",not stopped,12.5", ",not stopped, 12.5", ["no number"]),
        (",1000,900,", ",1000,-900,", ["column n_asr", "no whole number"]),
        (",1000,900,", ",1000,440,", ["line 2: teacher_asr 100.0 cannot be 900 of 440 images"]),
        (",1000,900,", ",0,900,", ["cannot be 970 of 0 images"]),
        (",1000,900,", ",,900,", ["cannot be 970 of None images"]),
        (",450,", ",45,", ["line 2: student_asr 50.0 cannot be 45 of 900 images"]),
        (",450,", ",,", ["line 2: student_asr 50.0 cannot be None of 900 images"]),
    ],
)
def test_rows_that_kdbench_does_not_write(edited, old, new, words):
    refused(edited(old, new), *words)


@pytest.mark.parametrize(
    "name",
    [
        "teacher_acc",
        "student_acc",
        "student_asr",
        "c3_acc",
        "c1_asr",
        "transferred_low",
        "removed_high",
    ],
)
def test_a_judged_row_has_what_it_was_judged_by(edited, name):
    refused(edited(rows=[cell() | {name: None}]), f"line 2: nothing in {name}")


def test_more_hits_than_images(edited):
    rows = [cell() | {"student_asr": 200.0, "student_asr_hits": 1800}]
    refused(edited(rows=rows), "line 2: student_asr 200.0 cannot be 1800 of 900 images")


def test_a_column_may_not_come_twice_or_be_strange(edited):
    path = edited()
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(line + (",dataset" if n == 0 else ",signs") for n, line in enumerate(lines))
    )
    refused(path, f"line 1: repeated columns of schema {SCHEMA}: dataset")
    path.write_text("\n".join(line + (",note" if n == 0 else ",x") for n, line in enumerate(lines)))
    refused(path, f"line 1: unknown columns of schema {SCHEMA}: note")


def test_merge_keeps_each_cell_once_in_order(tmp_path):
    files = []
    for name, seeds in (("a", (0, 1)), ("b", (1, 2)), ("c", (0,))):
        write_results(
            [cell(seed=s, wall_s=float(len(files)), peak_mem_mb=None) for s in seeds],
            tmp_path / f"{name}.csv",
        )
        files.append(read_results(tmp_path / f"{name}.csv"))
    assert [(row["seed"], row["wall_s"]) for row in merge(files)] == [(0, 0.0), (1, 0.0), (2, 1.0)]


def test_many_foreign_columns_are_counted_once_and_five_are_named(tmp_path):
    path = tmp_path / "results.csv"
    write_results([cell()], path)
    foreign = [f"x{n}" for n in range(50_000)] + ["long" * 100]
    header, line = path.read_text().splitlines()
    path.write_text(f"{header},{','.join(foreign)}\n{line}{',' * len(foreign)}\n")
    with pytest.raises(ConfigError) as caught:
        read_results(path)
    message = str(caught.value)
    named = f"unknown columns of schema {SCHEMA}: x0, x1, x2, x3, x4 and 49996 more;"
    assert named in message
    assert len(message) < len(str(path)) + 200
    path.write_text(f"schema,{'long' * 100_000}\n{SCHEMA},\n")
    with pytest.raises(ConfigError) as caught:
        read_results(path)
    assert len(str(caught.value)) < len(str(path)) + 400


def test_a_file_larger_than_any_table_is_refused(tmp_path):
    with (tmp_path / "results.csv").open("wb") as file:
        file.truncate((1 << 28) + 1)
    refused(tmp_path, "it is larger than 256 MiB")


def test_a_number_of_many_digits_is_no_number(edited):
    refused(edited(",12.5,", "," + "1" * 500 + ","), "column wall_s", "is no number")
