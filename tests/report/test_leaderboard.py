"""The command ``kdbench leaderboard``."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import pytest

from kdbench.report.tables import cell as written
from tests.report.rankings import call, paired, read, save, setting
from tests.report.report_rows import HOSTILE, cell, kept


def test_command_merges_runs_and_writes_three_files(tmp_path):
    none, nad, robust = (
        setting(d, (n, n + 1)) for d, n in (("none", 720), ("nad", 300), ("robustkd", 100))
    )
    a = save(tmp_path / "a", none + nad)
    b = save(tmp_path / "b", [row | {"wall_s": 99.0} for row in none] + robust)
    out = tmp_path / "board.csv"
    out.write_text("old")
    result = call(a, b / "results.csv", "--out", out)
    assert result.exit_code == 0, result.output
    assert [(r["rank"], r["defense"], r["n_seeds"]) for r in read(out)] == [
        ("1", "robustkd", "2"),
        ("2", "nad", "2"),
        ("3", "none", "2"),
    ]
    assert [r["worst_attack"] for r in read(tmp_path / "board-overall.csv")] == ["lba"] * 3
    assert [r["finding"] for r in paired(tmp_path) if r["metric"] == "student_asr"] == [
        "none higher",
        "robustkd lower",
        "robustkd lower",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a",
        "b",
        "board-overall.csv",
        "board.csv",
        "paired.csv",
    ]
    assert "signs / lba / fkd / wrn16_2 / wrn16_1 / quick" in result.output
    assert "worst case over attacks" in result.output
    text = " ".join(result.output.split())
    assert "8 rows from 2 files, 2 of them twice and counted once" in text
    assert "nad robustkd 33.4 11.2 -22.2 -25.9 to -18.5 4.2e-29 2 robustkd lower" in text
    assert "Comparisons are paired by seeds" in text
    assert "need two seeds" not in text


def test_command_with_one_seed_ranks_and_compares_nothing(tmp_path):
    a = save(tmp_path / "a", [cell(defense="a", student_asr=0), cell(defense="b", student_asr=900)])
    result = call(a, "--out", tmp_path / "l.csv")
    text = " ".join(result.output.split())
    assert result.exit_code == 0
    assert text.count("comparisons of two defenses need two seeds") == 1
    assert "one against another" not in text
    assert "one seed is no ranking" in text
    assert [r["rank"] for r in read(tmp_path / "l.csv")] == ["", ""]
    assert read(tmp_path / "paired.csv") == []


def test_command_says_tie_and_which_teachers_differ(tmp_path):
    other = [row | {"teacher_sha256": "e" * 64} for row in setting("b", (91, 99))]
    result = call(save(tmp_path / "a", setting("a", (90, 99)) + other), "--out", tmp_path / "l.csv")
    assert "tie (not the same teachers)" in " ".join(result.output.split())


def test_json_is_strict(tmp_path):
    a = save(
        tmp_path / "a",
        setting("a", (90, 99))
        + setting("\x1b[2J", (700, 720))
        + [cell(defense="c", status="failed")],
    )
    result = call(a, "--out", tmp_path / "l.csv", "--json")
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    found = json.loads(result.output, parse_constant=pytest.fail)
    assert found["files"] == [
        str(tmp_path / name) for name in ("l.csv", "l-overall.csv", "paired.csv")
    ]
    assert [(r["defense"], r["rank"], r["n_seeds"]) for r in found["leaderboard"]][::2] == [
        ("a", 1, 2),
        ("c", None, 0),
    ]
    assert [(r["defense"], r["worst_attack"]) for r in found["overall"]][:1] == [("a", "lba")]
    assert [(r["metric"], r["n_seeds"], r["same_teachers"]) for r in found["comparisons"]] == [
        ("student_asr", 2, True),
        ("student_acc", 2, True),
    ]
    assert (found["rows"], found["notes"]) == (5, [])


def test_command_writes_to_the_current_folder(tmp_path, monkeypatch):
    save(tmp_path / "a", [cell(seed=s) for s in (0, 1)])
    monkeypatch.chdir(tmp_path)
    result = call("a")
    assert result.exit_code == 0
    assert "note:" not in result.output
    assert {p.name for p in tmp_path.iterdir()} == {
        "a",
        "leaderboard.csv",
        "leaderboard-overall.csv",
        "paired.csv",
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preset": "paper"}, ["presets are never ranked together", "'quick' in ", "'paper' in "]),
        (
            {"dataset_digest": "e" * 64},
            ["dataset 'signs' has other images", "dddddddddddd", "eeeeeeeeeeee"],
        ),
        (
            {"config_digest": "e" * 64, "torch_version": "2.16"},
            ["other parameters", "config_digest", "torch_version", "line 2"],
        ),
        ({"config_digest": "e" * 64, "student_asr": 451}, ["other parameters"]),
        ({"student_ra": 301}, ["student_ra is 33.3333 in ", "and 33.4444 in ", "3 more columns"]),
        ({"reason": "x" * 500}, ["reason is because in ", "xxx..."]),
        ({"status": "failed"}, ["status is ok in ", "and failed in "]),
        (
            {"defense": "nad", "target_class": 2},
            ["target_class is 0 in ", "and 2 in ", "rank the two apart"],
        ),
        ({"defense": "nad", "clean_fraction": 0.05}, ["clean_fraction is 1.0 in ", "and 0.05 in "]),
        ({"defense": "nad", "transfer_fraction": 0.1}, ["transfer_fraction is 1.0 in "]),
        ({"defense": "nad", "unlabeled": 0.3}, ["unlabeled is None in ", "and 0.3 in "]),
    ],
)
def test_command_refuses_what_cannot_be_merged(tmp_path, change, words):
    a, b = save(tmp_path / "a", [cell()]), save(tmp_path / "b", [cell(**change)])
    result = call(a, b, "--out", tmp_path / "out.csv")
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    for word in [*words, f"{a}/results.csv", f"{b}/results.csv"]:
        assert word in result.output
    assert not (tmp_path / "out.csv").exists()


def test_command_does_not_replace_what_it_read(tmp_path):
    a = save(tmp_path / "a", [cell()])
    before = (a / "results.csv").read_bytes()
    result = call(a, "--out", a / "results.csv")
    assert (result.exit_code, "one of the runs" in result.output) == (2, True)
    (a / "x-overall.csv").write_bytes(before)
    result = call(a / "x-overall.csv", "--out", a / "x.csv")
    assert (result.exit_code, "one of the runs" in result.output) == (2, True)
    (a / "paired.csv").write_bytes(before)
    result = call(a / "paired.csv", "--out", a / "y.csv")
    assert (result.exit_code, "one of the runs" in result.output) == (2, True)
    assert {(a / name).read_bytes() for name in ("results.csv", "x-overall.csv", "paired.csv")} == {
        before
    }
    assert not (a / "y.csv").exists()


@pytest.mark.parametrize("name", ["leaderboard.csv", "leaderboard-overall.csv", "paired.csv"])
def test_a_table_that_nobody_named_is_not_overwritten(tmp_path, monkeypatch, name):
    save(tmp_path / "a", [cell()])
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("of another run")
    result = call("a")
    assert result.exit_code == 2
    assert f"{name} is already there; name another file with --out" in result.output
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]
    assert call("a", "--out", "leaderboard.csv").exit_code == 0
    assert (tmp_path / name).read_text() != "of another run"


@pytest.mark.parametrize("out", [".", "/", "a", "no/such/folder/x.csv", "paired.csv"])
def test_command_says_where_it_cannot_write(tmp_path, monkeypatch, out):
    save(tmp_path / "a", [cell()])
    monkeypatch.chdir(tmp_path)
    result = call("a", "--out", out)
    assert result.exit_code == 2
    assert result.output.startswith((f"Error: --out {out} ", f"Error: --out {out}: "))
    assert "name a" in result.output


def test_command_needs_a_run():
    assert call().exit_code == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom kdbench.cli import main\nmain(['{}', '--help'], standalone_mode=False)\n"
        "heavy = [m for m in ('torch', 'pandas', 'numpy', 'scipy', 'rich') if m in "
        "sys.modules]\nassert not heavy, heavy\n"
    )
    for name in ("leaderboard", "compare"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


DEFENSES = ("defense", "defense_a", "defense_b")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_stays_text(tmp_path, text):
    of = {"none": 720, text: 90}
    a = save(
        tmp_path / "a",
        [row for d, n in of.items() for row in setting(d, (n, n), attack=text, reason=text)],
    )
    result = call(a, "--out", tmp_path / "l.csv")
    assert result.exit_code == 0, result.output
    assert not [c for c in result.output if not c.isprintable() and c != "\n"]
    shown = "".join(kept(text).split())
    assert shown in "".join(result.output.split())  # nothing of it was taken for markup
    for path in (tmp_path / "l.csv", tmp_path / "l-overall.csv", tmp_path / "paired.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        guarded = str(written(text))
        named = {
            frozenset(row[header.index(name)] for name in header if name in DEFENSES)
            for row in lines
        }
        both = {frozenset(pair) for pair in ((guarded, "none"), (guarded, "C1"), ("none", "C1"))}
        assert named == (
            both if path.name == "paired.csv" else {frozenset({guarded}), frozenset({"none"})}
        )
        for fields in lines:
            assert len(fields) == len(header)
            for field in fields:
                assert all(c.isprintable() or c == "\n" for c in field)
                assert not field.startswith(("=", "+", "@", "\uff1d"))
                assert not field.startswith("-") or math.isfinite(float(field))
