"""What a spreadsheet or an editor did to results.csv is named as that, with the line, and with no
other advice than to use the file as it was written."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile

import pytest

from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, SCHEMA
from kdbench.report.leaderboard import write_leaderboard, write_overall
from kdbench.report.paired import comparisons, write_paired
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report.report_rows import cell

ADVICE = "use the file as kdbench wrote it"


@pytest.fixture
def path(tmp_path):
    write_results([cell(), cell(seed=1, reason="a, b")], tmp_path / "results.csv")
    return tmp_path / "results.csv"


def refused(path, *words):
    with pytest.raises(ConfigError) as caught:
        read_results(path)
    message = str(caught.value).replace(str(path), "FILE")
    for word in words:
        assert word in message
    assert message.endswith(ADVICE)
    assert "again with this version" not in message
    assert "\n" not in message


def records(path):
    return list(csv.reader(io.StringIO(path.read_text())))


def saved(table, **options):
    """The table as a program saves it that separates, quotes or ends lines in its own way."""
    text = io.StringIO()
    csv.writer(text, **{"lineterminator": "\n", **options}).writerows(table)
    return text.getvalue()


def with_commas(text):
    return text.replace(".", ",") if text.replace(".", "").isdigit() else text


def without_zero(text):
    return text[:-2] if re.fullmatch(r"[0-9]{2,}\.0", text) else text


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/"), text)
    return file.getvalue()


SAVED = {
    "semicolons": (lambda t: saved(t, delimiter=";"), "line 1: its fields are separated by semi"),
    "semicolons, all quoted": (
        lambda t: saved(t, delimiter=";", quoting=csv.QUOTE_ALL),
        "line 1: its fields are separated by semicolons",
    ),
    "semicolons and decimal commas": (
        lambda t: saved([[with_commas(f) for f in line] for line in t], delimiter=";"),
        "separated by semicolons",
    ),
    "tabs": (lambda t: saved(t, delimiter="\t"), "line 1: its fields are separated by tabs"),
    "sep=": (lambda t: "sep=;\n" + saved(t, delimiter=";"), "line 1: a spreadsheet put 'sep=;'"),
    "decimal commas": (
        lambda t: saved([[with_commas(f) for f in line] for line in t]),
        "line 2, column teacher_acc: '97,0' is no number (it has a decimal comma)",
    ),
    "decimal commas without quotes": (
        lambda t: "".join(",".join(map(with_commas, line)) + "\n" for line in t),
        "a number has a decimal comma, or a text with a comma has no quotes",
    ),
    "a line of commas": (
        lambda t: saved([*t, [""] * len(t[0])]),
        "line 4: it is empty but for commas",
    ),
    "columns without a name": (
        lambda t: saved([[*line, "", ""] for line in t]),
        "line 1: 2 columns have no name",
    ),
    "no header": (lambda t: saved(t[1:]), "the line with the names of the columns was removed"),
    "no schema": (
        lambda t: saved([line[1:] for line in t]),
        "line 1: the column 'schema' was removed",
    ),
    "a column removed": (
        lambda t: saved([line[:2] + line[3:] for line in t]),
        f"line 1: missing columns of schema {SCHEMA}: reason;",
    ),
    "a column renamed": (
        lambda t: saved([[f.replace("student_acc", "acc") for f in t[0]], *t[1:]]),
        "unknown columns",
    ),
    "capitals": (
        lambda t: saved([[f.capitalize() for f in t[0]], *t[1:]]),
        "line 1: the names of its columns were changed",
    ),
    "cut in a line": (
        lambda t: saved(t)[:-90],
        "line 3: ",
        f"fields under a header of {len(COLUMNS)}: the file was cut",
    ),
    "cut in the last value": (
        lambda t: saved(t)[:-9],
        "line 3: the file ends in this line, which is not whole",
    ),
    "cut in a text": (
        lambda t: saved(t)[: saved(t).index('"a, b') + 3],
        "line 3: the file ends within a text in quotes",
    ),
    "old line ends": (
        lambda t: saved(t, lineterminator="\r"),
        "line 1: its lines end with a lone carriage return",
    ),
    "UTF-16": (lambda t: saved(t).encode("utf-16"), 'line 1: it is in UTF-16 ("Unicode text"'),
    "UTF-16 without a mark": (lambda t: saved(t).encode("utf-16-le"), "line 1: it is in UTF-16"),
    "Latin-1": (
        lambda t: saved(t).replace("a, b", "\xe9").encode("latin-1"),
        "line 3: it is a binary file or not in UTF-8 (byte 0xe9)",
    ),
    "xlsx": (
        lambda _: zipped(**{"[Content_Types].xml": "x", "xl__workbook.xml": "x"}),
        "line 1: it is a spreadsheet's own file (.xlsx)",
    ),
    "ods": (
        lambda _: zipped(mimetype="application/vnd.oasis.opendocument.spreadsheet"),
        "line 1: it is a spreadsheet's own file (.ods)",
    ),
    "xls": (lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a spreadsheet's own file (.xls)"),
    "zip": (lambda t: zipped(results=saved(t)), "line 1: it is a zip archive"),
    "gzip": (lambda t: gzip.compress(saved(t).encode()), "line 1: it is packed with gzip"),
    "HTML": (lambda _: "<!DOCTYPE html>\n<html><table>", "line 1: it is an HTML page"),
    "JSON": (lambda _: '{\n "schema": 6\n}', "line 1: it is JSON"),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_file_that_another_program_saved_is_named_as_that(path, name):
    make, *words = SAVED[name]
    content = make(records(path))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(path, *words)


VALUES = [
    (
        "schema",
        f"{SCHEMA}.0",
        f"line 2: schema '{SCHEMA}.0' is no whole number (a spreadsheet wrot",
    ),
    ("seed", "1.0", "line 2, column seed: '1.0' is no whole number (a spreadsheet wrote a whole"),
    ("seed", "1E+05", "exponent notation of a spreadsheet"),
    ("seed", "1,000", "thousands are set apart"),
    ("seed", "1.000", "thousands are set apart"),
    ("seed", "1\u00a0000", "thousands are set apart"),
    ("seed", "1\u2019000", "thousands are set apart"),
    ("seed", "01.02.2024", "took it for a date"),
    ("seed", " 1", "blanks around it"),
    ("seed", "TRUE", "a spreadsheet's switch"),
    ("n_test", "1000.0", "a spreadsheet wrote a whole number as a fraction"),
    ("student_acc", "9.50E+01", "'9.50E+01' is no number (exponent notation"),
    ("student_acc", "95,0", "it has a decimal comma"),
    ("student_acc", "95.0%", "it has a percent sign"),
    ("student_acc", "95.1", "(a spreadsheet rounded it; kdbench writes 4 decimals)"),
    ("c1_acc_low", "94.6", "(a spreadsheet rounded it"),
    ("removed", "38", "(a spreadsheet rounded it"),
    ("wall_s", "#NUM!", "an error of a spreadsheet"),
    ("wall_s", "####", "an error of a spreadsheet, or a column that was too narrow"),
    ("wall_s", "Dec 05", "took it for a date"),
    ("wall_s", "'12.5", "it has an apostrophe before it"),
    ("config_digest", "1.20E+46", "is no SHA-256 (a spreadsheet took it for a number)"),
    ("config_digest", "12e45678", "is no SHA-256 (a spreadsheet took it for a number)"),
    ("config_digest", "c" * 63, "it has lost digits"),
    ("config_digest", "C" * 64, "its letters became capitals"),
    ("status", "TRUE", "unknown status TRUE (a spreadsheet's switch)"),
    ("attack", "02-Mar", "took it for a date"),
    ("attack", "1E+05", "took it for a number"),
    ("defense", "TRUE", "a spreadsheet's switch"),
    ("torch_version", "02.09.2001", "took it for a date"),
    ("verdict", "stopped", "column verdict: it is stopped, but the counts make it not stopped"),
    ("student_asr", "1", "cannot be 450 of 900 images"),
]


@pytest.mark.parametrize(("column", "value", "words"), VALUES)
def test_a_value_that_a_spreadsheet_or_a_hand_changed_is_named(path, column, value, words):
    table = records(path)
    if column == "student_acc" and value == "95.1":
        write_results([cell(n_test=1001, student_acc=952, c1_acc=None)], path)
        table = records(path)
    table[1][table[0].index(column)] = value
    path.write_text(saved(table))
    refused(path, *words)


FINE = {
    "columns in another order": lambda t: saved([line[::-1] for line in t]),
    "all quoted": lambda t: saved(t, quoting=csv.QUOTE_ALL),
    "a mark and other line ends": lambda t: "\ufeff" + saved(t, lineterminator="\r\n"),
    "blank lines": lambda t: "\n" + saved(t).replace("\n", "\n\n"),
    "no line end at the end": lambda t: saved(t)[:-1],
    "numbers without .0": lambda t: saved([list(map(without_zero, line)) for line in t]),
}


@pytest.mark.parametrize("name", FINE)
def test_what_loses_nothing_is_read(path, name):
    before = read_results(path).rows
    path.write_text(FINE[name](records(path)), newline="")
    assert read_results(path).rows == before


def test_another_table_of_kdbench_is_named(tmp_path):
    rows = [cell(seed=seed, defense=name) for seed in (0, 1) for name in ("none", "nad")]
    write_leaderboard(rows, tmp_path / "a.csv")
    write_overall(rows, tmp_path / "b.csv")
    write_paired(comparisons(rows), tmp_path / "c.csv")
    for name, words in (("a", "a ranking (lead"), ("b", "a ranking over"), ("c", "(paired.csv)")):
        with pytest.raises(ConfigError, match=r"name a results\.csv or a run's folder") as caught:
            read_results(tmp_path / f"{name}.csv")
        assert words in str(caught.value)


def test_a_folder_of_runs_names_them(tmp_path):
    for number in range(7):
        (tmp_path / f"run{number}").mkdir()
        write_results([cell()], tmp_path / f"run{number}" / "results.csv")
    with pytest.raises(ConfigError) as caught:
        read_results(tmp_path)
    assert f"so name these: {tmp_path}/run0, {tmp_path}/run1" in str(caught.value)
    assert str(caught.value).endswith("run4 and 2 more")


def test_no_version_that_kdbench_writes_is_taken_for_a_date(path):
    for version in ("0.1.0", "1.0", "2.9.1+cu128", "2026.1.5", "10.11.12", "1.0.dev3"):
        row = cell(kdbench_version=version, torch_version=version)
        write_results([row], path)
        assert read_results(path).rows[0]["torch_version"] == version


def test_the_words_know_every_kind_of_column():
    assert {column.kind for column in COLUMNS.values()} == {
        *("whole", "number", "digest", "word", "text")
    }
