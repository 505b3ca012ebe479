"""A table that contradicts its own counts is refused, and none that a run makes is."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.cli import main
from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS
from kdbench.report.read import read_results
from kdbench.report.tables import cell as written
from kdbench.report.tables import write_results
from kdbench.report.verdict import shares, transfer, verdict
from tests.report.report_rows import N_ASR, N_TEST, cell, imported_cell


def forged(folder, row, **changes):
    """A results.csv with one row, in which someone changed columns afterwards."""
    path = folder / "results.csv"
    write_results([row], path)
    with path.open(newline="") as file:
        header, fields = csv.reader(file)
    values = dict(zip(header, fields, strict=True)) | changes
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, values.values()])
    return path


#: The row that is forged by default has verdict 'not stopped', 79 points transferred, 38 % removed.
CASES = [
    ("verdict", "stopped", "the counts make it not stopped"),
    ("verdict", "", "it is empty, but the counts make it not stopped"),
    ("transferred", "95.0", "make it 79.0000"),
    ("transferred", "79.0002", "make it 79.0000"),
    ("removed", "99.0", "make it 37.9747"),
    ("reason_code", "few_transferred", "it is few_transferred, but the other columns make it judg"),
    ("reason_code", "controls_skipped", "the other columns make it judged"),
    ("reason_code", "c2_failed", "the other columns make it judged"),
    ("reason_code", "", "it is empty, but the other columns make it judged"),
    ("status", "failed", "a cell that failed has none"),
    ("student_asr", "10.0", "cannot be 450 of 900 images"),
    ("student_asr_hits", "90", "cannot be 90 of 900 images"),
    ("student_asr_low", "49.9", "450 of 900 images make it 46.7403"),
    ("student_asr_high", "50.1", "make it 53.2597"),
    ("c3_acc_low", "", "it is empty, but 960 of 1000 images make it"),
    ("clean_acc", "97.05", "cannot be 970 of 1000 images"),
    ("clean_acc", "101.0", "cannot be 1010 of 1000 images"),
    ("cleansed_asr", "-1.0", "cannot be 0 of 900 images"),
    ("transferred_low", "83.0", "transferred_high is 82.0"),
    ("removed_high", "1.0", "removed_high is 1.0"),
    ("wall_s", "-1e300", "it cannot be below 0"),
    ("peak_mem_mb", "-5", "it cannot be below 0"),
    ("teacher_variance", "-0.1", "it cannot be below 0"),
    ("clean_fraction", "7.0", "a share is above 0 and at most 1"),
    ("clean_fraction", "0.0", "a share is above 0 and at most 1"),
    ("universal", "-0.5", "a percentage is from 0 to 100"),
    ("universal", "101.0", "a percentage is from 0 to 100"),
    ("transfer_fraction", "1.5", "a share is above 0 and at most 1"),
    ("transfer_fraction", "0.0", "a share is above 0 and at most 1"),
    ("unlabeled", "1.5", "a share is above 0 and at most 1"),
    ("unlabeled", "0.0", "a share is above 0 and at most 1"),
    ("gain", "5.0", "the counts make it 2.0000"),
    ("gain", "", "it is empty, but the counts make it 2.0000"),
    ("dormant", "5.0", "the counts make it -20.0000"),
    ("dormant", "", "it is empty, but the counts make it -20.0000"),
    ("flagged_classes", "7 x", "it is none, or classes with a space between them"),
    ("flagged_classes", "none", "flagged_classes and target_class make it no"),
    ("target_flagged", "yes", "flagged_classes and target_class make it empty"),
    ("held_out_acc", "100.5", "a percentage is from 0 to 100"),
    ("held_out_acc", "-1", "a percentage is from 0 to 100"),
    ("config_digest", "", "nothing in config_digest"),
    ("dataset_digest", "", "nothing in dataset_digest"),
]


@pytest.mark.parametrize(("column", "text", "words"), CASES)
def test_a_column_that_contradicts_the_counts_is_refused(tmp_path, column, text, words):
    path = forged(tmp_path, cell(), **{column: text})
    with pytest.raises(ConfigError) as caught:
        read_results(path)
    message = str(caught.value)
    assert f"{path}, line 2" in message
    assert words in message
    asked = column.removesuffix("_hits")
    assert (asked in message) or column in ("status", "removed_high")


@pytest.mark.parametrize("command", [["leaderboard"], ["compare"]])
def test_commands_that_read_tables_refuse_a_forged_one(tmp_path, command):
    path = forged(tmp_path, cell(), verdict="stopped", removed="100.0", student_asr="1.0")
    paths = [str(path)] * (2 if command == ["compare"] else 1)
    out = ["--out", str(tmp_path / "board.csv")] if command == ["leaderboard"] else []
    result = CliRunner().invoke(main, [*command, *paths, *out])
    assert result.exit_code == 2
    assert "line 2: student_asr 1.0 cannot be 450 of 900 images" in result.output


def test_an_inconclusive_row_cannot_be_made_conclusive(tmp_path):
    honest = cell(c3_asr=100, student_asr=50)
    assert honest["verdict"] == "inconclusive"
    with pytest.raises(ConfigError, match="column verdict: it is stopped, but the counts make it"):
        read_results(forged(tmp_path, honest, verdict="stopped", reason_code="judged"))


def test_a_verdict_needs_its_controls(tmp_path):
    lacking = cell(c1_asr=None)
    assert (lacking["verdict"], lacking["reason_code"]) == (None, "control_failed")
    assert read_results(forged(tmp_path, lacking)).rows[0]["verdict"] is None
    with pytest.raises(
        ConfigError, match=r"column transferred: it is 80\.0.*c1_asr of no.*nothing"
    ):
        read_results(forged(tmp_path, lacking, transferred="80.0"))
    with pytest.raises(ConfigError, match="nothing in c1_asr"):
        read_results(forged(tmp_path, lacking, verdict="stopped"))
    with pytest.raises(ConfigError, match="column reason_code: it is controls_skipped"):
        read_results(forged(tmp_path, lacking, reason_code="controls_skipped"))


def test_the_reason_of_a_row_without_controls(tmp_path):
    names = [name for name in COLUMNS if name.startswith(("c1_", "c2_", "c3_"))]
    names += [
        f"{name}{end}" for name in ("transferred", "removed") for end in ("", "_low", "_high")
    ]
    without = cell() | dict.fromkeys([*names, "gain", "dormant", "verdict"])
    for code in ("controls_skipped", "control_failed"):
        assert read_results(forged(tmp_path, without, reason_code=code)).rows
    with pytest.raises(ConfigError, match="controls_skipped"):
        read_results(forged(tmp_path, without, reason_code="judged"))
    assert read_results(forged(tmp_path, imported_cell())).rows
    with pytest.raises(ConfigError, match=r"column reason_code: .* imported_teacher"):
        read_results(forged(tmp_path, imported_cell(), reason_code="judged"))
    for name in ("universal", "held_out_acc"):
        with pytest.raises(ConfigError, match=f"column {name}: .* of an imported teacher"):
            read_results(forged(tmp_path, imported_cell(), **{name: "5.0"}))
    c2 = cell(c2_acc=None, c2_asr=None)
    assert c2["reason_code"] == "c2_failed"
    assert read_results(forged(tmp_path, c2)).rows


def hits(n):
    return st.lists(st.booleans(), min_size=n, max_size=n)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_row_that_the_judgement_of_a_run_makes_is_refused(tmp_path_factory, data):
    n = data.draw(st.integers(1, 40), "n_asr")
    student, c1, c3 = (np.array(data.draw(hits(n), name)) for name in ("student", "c1", "c3"))
    asr = {
        f"{name}_asr": int(of.sum()) for name, of in (("student", student), ("c1", c1), ("c3", c3))
    }
    acc = {f"{name}_acc": data.draw(st.integers(0, n), name) for name in ("student", "c1", "c3")}
    row = cell() | {"n_test": n, "n_asr": n}
    for rate in [name.removesuffix("_hits") for name in row if name.endswith("_hits")]:
        if row[rate] is not None:
            row |= _rate(rate, (asr | acc).get(rate, 0), n)
    moved = transfer(student, c1, c3, resamples=40)
    lost = 100.0 * acc["c3_acc"] / n - 100.0 * acc["student_acc"] / n
    judged, _ = verdict(moved.transferred, moved.removed, lost)
    row |= {
        "gain": row["c3_acc"] - row["c2_acc"],
        "dormant": row["c3_asr"] - row["teacher_asr"],
        "transferred": moved.transferred,
        "transferred_low": moved.transferred_interval[0],
        "transferred_high": moved.transferred_interval[1],
        "removed": moved.removed,
        "removed_low": moved.removed_interval and moved.removed_interval[0],
        "removed_high": moved.removed_interval and moved.removed_interval[1],
        "verdict": judged,
        "reason_code": "few_transferred" if judged == "inconclusive" else "judged",
    }
    path = tmp_path_factory.mktemp("row") / "results.csv"
    write_results([row], path)
    (back,) = read_results(path).rows
    assert {name: written(value) for name, value in row.items()} == {
        name: written(value) for name, value in back.items()
    }


def _rate(name, count, total):
    from kdbench._intervals import wilson

    low, high = wilson(count, total)
    percent = 100.0 * count / total
    return {name: percent, f"{name}_low": low, f"{name}_high": high, f"{name}_hits": count}


def test_shares_by_hand():
    assert shares(10.0, 0.0, 40.0) == (40.0, 75.0)
    assert shares(10.0, 40.0, 40.0) == (0.0, None)
    assert shares(10.0, 50.0, 40.0) == (-10.0, None)
    assert (N_TEST, N_ASR) == (1000, 900)
