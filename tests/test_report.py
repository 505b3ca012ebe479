"""The files that a run leaves: numbers against values computed by hand."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.report.columns import COLUMNS
from kdbench.report.leaderboard import leaderboard, write_leaderboard
from kdbench.report.pictures import amplification, write_trigger_picture
from kdbench.report.record import write_record
from kdbench.report.tables import write_results


def row(**values):
    base = dict.fromkeys(COLUMNS) | {
        "schema": 1, "status": "ok", "dataset": "signs", "attack": "badnets", "defense": "none", "distiller": "fkd",
        "teacher": "wrn16_2", "student": "wrn16_1", "preset": "quick", "seed": 0, "student_asr": 50.0,
        "verdict": "stopped",
    }  # fmt: skip
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


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_is_never_a_formula(tmp_path, start):
    text = f'{start}cmd|"x",y\nz'
    write_results([row(reason=text)], tmp_path / "r.csv")
    assert read(tmp_path / "r.csv")[0]["reason"] == f"'{text}"


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


def test_mean_and_t_interval_by_hand():
    # 10, 20, 30: mean 20, s = 10, t(0.975, 2) = 4.302653, half = 4.302653 * 10 / sqrt(3) = 24.841377
    table = leaderboard([row(seed=s, student_asr=v) for s, v in enumerate((10.0, 20.0, 30.0))])
    (line,) = table.to_dict("records")
    assert line["n_seeds"] == 3
    assert line["student_asr"] == pytest.approx(20)
    assert line["student_asr_low"] == pytest.approx(20 - 24.841377, abs=1e-5)
    assert line["student_asr_high"] == pytest.approx(20 + 24.841377, abs=1e-5)
    assert line["verdict"] == "stopped"


def test_one_seed_has_no_interval_and_failures_are_not_averaged(tmp_path):
    rows = [row(student_asr=10.0), row(seed=1, status="failed", student_asr=90.0, verdict="not stopped")]
    (line,) = leaderboard(rows).to_dict("records")
    assert (line["n_seeds"], line["n_failed"], line["student_asr"], line["verdict"]) == (1, 1, 10.0, "stopped")
    assert math.isnan(line["student_asr_low"])
    write_leaderboard(rows, tmp_path / "leaderboard.csv")
    (written,) = read(tmp_path / "leaderboard.csv")
    assert (written["student_asr"], written["student_asr_low"], written["removed"]) == ("10.0", "", "")


def test_all_seeds_failed():
    (line,) = leaderboard([row(status="diverged", student_asr=None, verdict=None)]).to_dict("records")
    assert (line["n_seeds"], line["n_failed"], line["verdict"]) == (0, 1, "")
    assert math.isnan(line["student_asr"])


def test_disagreeing_verdicts_are_shares():
    rows = [row(seed=s, verdict=v) for s, v in enumerate(("partly", "stopped", "stopped"))]
    assert leaderboard(rows)["verdict"].tolist() == ["stopped 2/3, partly 1/3"]


def test_removed_is_averaged_over_the_seeds_that_have_it():
    (line,) = leaderboard([row(removed=80.0), row(seed=1, removed=None)]).to_dict("records")
    assert (line["removed"], line["n_removed"], line["n_seeds"]) == (80.0, 1, 2)


def test_leaderboard_order():
    rows = [
        row(defense="worse", student_asr=60.0),
        row(defense="unknown", student_asr=None, status="failed"),
        row(defense="better", student_asr=5.0),
        row(attack="aaa", defense="x", student_asr=99.0),
    ]
    assert leaderboard(rows)["defense"].tolist() == ["x", "better", "worse", "unknown"]


def test_no_rows(tmp_path):
    assert leaderboard([]).empty
    write_leaderboard([], tmp_path / "l.csv")
    assert (tmp_path / "l.csv").read_text().startswith("schema,dataset,attack")


@pytest.mark.parametrize(("largest", "k"), [(0.0, 1), (1.0, 1), (0.1, 5), (0.02, 25), (1e-6, 255)])
def test_amplification_stays_in_range(largest, k):
    assert amplification(torch.tensor([0.0, -largest])) == k


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
        write_trigger_picture(torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8), tmp_path / "a.png", "x")


def test_the_share_removed_of_next_to_nothing_is_not_averaged():
    rows = [
        row(seed=0, transferred=60.0, removed=95.0, verdict="stopped"),
        row(seed=1, transferred=0.5, removed=-3000.0, verdict="inconclusive"),
    ]
    (line,) = leaderboard(rows).to_dict("records")
    assert line["removed"] == 95.0
    assert (line["n_removed"], line["n_seeds"]) == (1, 2)
    assert line["transferred"] == 30.25


def test_run_json_is_strict_whatever_the_facts(tmp_path):
    write_record({"facts": {"a": math.nan, "b": [math.inf, 1, np.float32(0.5)], "c": object, "d": None}}, tmp_path / "run.json")
    found = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)["facts"]
    assert (found["a"], found["b"], found["d"]) == (None, [None, 1, 0.5], None)
    assert isinstance(found["c"], str)
