"""The files that a run leaves: numbers against values computed by hand."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kdbench
from kdbench._files import write_record
from kdbench.report.columns import COLUMNS
from kdbench.report.pictures import amplification, strength, write_trigger_picture
from kdbench.report.tables import write_results


def row(**values):
    base = dict.fromkeys(COLUMNS) | {
        "schema": 1,
        "status": "ok",
        "dataset": "signs",
        "attack": "badnets",
        "defense": "none",
        "distiller": "fkd",
        "teacher": "wrn16_2",
        "student": "wrn16_1",
        "preset": "quick",
        "seed": 0,
        "student_asr": 50.0,
        "verdict": "stopped",
    }
    return base | values


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_have_exactly_the_columns(tmp_path):
    write_results([row(unheard_of=1)], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        header, line = csv.reader(file)
    assert header == list(COLUMNS)
    assert len(line) == len(header)
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


def test_numbers_are_rounded_and_missing_ones_empty(tmp_path):
    write_results(
        [
            row(
                student_asr=-1.234567,
                teacher_asr=math.nan,
                removed=None,
                seed=np.int64(3),
                student_acc=np.float32(0.5),
                transferred=-0.0,
            )
        ],
        tmp_path / "r.csv",
    )
    (line,) = read(tmp_path / "r.csv")
    assert line["student_asr"] == "-1.2346"
    assert line["teacher_asr"] == line["removed"] == ""
    assert (line["seed"], line["student_acc"], line["transferred"]) == ("3", "0.5", "0.0")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\r"])
def test_text_is_never_a_formula(tmp_path, start):
    text = f'{start}cmd|"x",y\nz'
    write_results([row(reason=text)], tmp_path / "r.csv")
    kept = text.replace("\r", "\n")
    assert read(tmp_path / "r.csv")[0]["reason"] == f"'{kept}"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("x;=1+1;=cmd|x", "x;'=1+1;'=cmd|x"),
        ("x; =1", "x;' =1"),
        ('x;"=1+1;"y', 'x;\'"=1+1;"y'),
        ("x\t=1", "x =1"),
        ("x|+1", "x|'+1"),
        ("x\n-1", "x\n'-1"),
        ("  =1", "'  =1"),
        ("\t@x", "' @x"),
        ("\u200b=1", r"\u200b=1"),
        *((f"{sign}1+1", f"'{sign}1+1") for sign in "\uff1d\uff0b\uff0d\uff20\u2212\ufe66"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("f\udcfft", "f\\udcfft"),
        ("a; b=1; c", "a; b=1; c"),
        ("90 % removed, -1.2 points", "90 % removed, -1.2 points"),
    ],
    ids=ascii,
)
def test_text_is_no_formula_wherever_a_spreadsheet_splits_it(tmp_path, text, written):
    write_results([row(reason=text)], tmp_path / "r.csv")
    assert read(tmp_path / "r.csv")[0]["reason"] == written


def test_one_module_writes_tables():
    """Another one could forget the guards."""
    root = Path(kdbench.__file__).parent
    writers = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"csv\.(writer|DictWriter)|\.to_csv\(", path.read_text())
    }
    assert writers == {"report/tables.py"}


def test_failed_write_keeps_the_old_file(tmp_path):
    class Bad:
        def __str__(self):
            raise RuntimeError("no text")

    path = tmp_path / "r.csv"
    write_results([row()], path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="no text"):
        write_results([row(), row(reason=Bad())], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.csv"]


@pytest.mark.parametrize(("largest", "k"), [(0.0, 1), (1.0, 1), (0.1, 5), (0.02, 25), (1e-6, 255)])
def test_amplification_stays_in_range(largest, k):
    assert amplification(torch.tensor([0.0, -largest])) == k


def test_the_strength_of_a_trigger():
    """A quarter of the values changes by 0.2, so the mean square is 0.01 and the PSNR 20 dB."""
    clean = torch.full((2, 1, 4, 4), 0.5)
    triggered = clean.clone()
    triggered[..., 0, :] = 0.3
    assert strength(clean, triggered) == {"psnr_db": 20.0, "linf": 0.2, "images": 2}
    assert strength(clean, clean) == {"psnr_db": None, "linf": 0.0, "images": 2}
    black, white = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert strength(black, white) == {"psnr_db": 0.0, "linf": 1.0, "images": 1}


@pytest.mark.parametrize(("count", "channels"), [(1, 3), (9, 3), (2, 1)])
def test_picture_is_written(tmp_path, count, channels):
    clean = torch.rand(count, channels, 16, 16)
    triggered = clean.clone()
    triggered[..., -3:, -3:] = 1
    path = tmp_path / "trigger.png"
    write_trigger_picture(clean, triggered, path, "implant $x in wrn, signs " * 3)
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width >= 300
    assert [p.name for p in tmp_path.iterdir()] == ["trigger.png"]


def test_picture_shows_the_trigger(tmp_path):
    clean = torch.zeros(1, 3, 8, 8)
    triggered = clean.clone()
    triggered[:, 0] = 1
    write_trigger_picture(clean, triggered, tmp_path / "a.png", "red")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    red = (pixels == (255, 0, 0)).all(1).sum()
    assert red > 0.02 * len(pixels)


def test_picture_of_unequal_shapes(tmp_path):
    with pytest.raises(ValueError, match="equal shapes"):
        write_trigger_picture(
            torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8), tmp_path / "a.png", "x"
        )


def test_run_json_is_strict_whatever_the_facts(tmp_path):
    write_record(
        {"facts": {"a": math.nan, "b": [math.inf, 1, np.float32(0.5)], "c": object, "d": None}},
        tmp_path / "run.json",
    )
    found = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)["facts"]
    assert (found["a"], found["b"], found["d"]) == (None, [None, 1, 0.5], None)
    assert isinstance(found["c"], str)


def test_run_json_has_an_item_a_line(tmp_path):
    record = {"stages": [{"b": 1, "a": [2]}, {"c": {}}], "empty": [], "config": {"x": 1}}
    write_record(record, tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    assert json.loads(text) == record
    assert '  {"a": [2], "b": 1},\n  {"c": {}}\n' in text
    write_record({}, tmp_path / "run.json")
    assert json.loads((tmp_path / "run.json").read_text()) == {}
