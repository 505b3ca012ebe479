"""What changed between two files, against hand-computed values; the command ``kdbench compare``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

import kdbench
from kdbench.cli import main
from kdbench.errors import ConfigError
from kdbench.report.columns import SCHEMA
from kdbench.report.compare import compare
from kdbench.report.read import ResultsFile
from kdbench.report.tables import write_results
from tests.report.report_rows import HOSTILE, cell, kept


def compared(a, b):
    return compare(
        *(
            ResultsFile(Path(name), rows, list(range(2, len(rows) + 2)))
            for name, rows in (("A", a), ("B", b))
        )
    )


def changes(family):
    return {change.column: change for change in family.changes}


def call(*arguments):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def save(folder, rows):
    folder.mkdir(exist_ok=True)
    write_results(rows, folder / "results.csv")
    return folder


def flat(text):
    return " ".join(text.split())


def test_equal_files_have_no_changes():
    rows = [cell(seed=s, defense=d) for s in (0, 1) for d in "ab"]
    found = compared(rows, [dict(row, wall_s=1.0) for row in reversed(rows)])
    assert (found.shared, found.only_in_a, found.only_in_b, found.causes) == (4, [], [], [])
    assert (found.cells.changes, found.over_seeds.changes) == ([], [])
    assert (found.cells.compared, found.over_seeds.compared) == (4 * 6, 2 * 6)


def test_one_cell_by_hand():
    # 450 and 495 of 900: 50 and 55 %, Wilson's intervals 46.7403-53.2597 and 51.7354-58.2222, so
    # low = 5 - sqrt((55 - 51.7354)^2 + (53.2597 - 50)^2) = 0.3866, high = 5 + sqrt(3.2222^2 +
    # 3.2597^2) = 9.5834
    found = changes(
        compared(
            [cell(verdict="partly")],
            [cell(student_asr=495, verdict="not stopped", student_acc=951)],
        ).cells
    )
    asr = found["student_asr"]
    assert (asr.a, asr.b, asr.difference) == pytest.approx((50, 55, 5))
    assert (asr.low, asr.high) == pytest.approx((0.3866, 9.5834), abs=1e-4)
    assert asr.p < 0.05
    assert asr.p_holm == pytest.approx(6 * asr.p)  # six numbers compared, this the least likely
    assert asr.more_than_noise is False  # 0.034 alone
    assert (found["verdict"].a, found["verdict"].b, found["verdict"].difference) == (
        "partly",
        "not stopped",
        None,
    )
    assert found["student_acc"].difference == pytest.approx(0.1)
    assert found["student_acc"].more_than_noise is False
    assert set(found) == {"student_asr", "student_acc", "verdict", "removed"}


def test_holm_decides_and_counts_what_did_not_change():
    a, b = cell(), cell(student_asr=510)  # p 0.0047, times 6 numbers 0.028
    assert changes(compared([a], [b]).cells)["student_asr"].more_than_noise is True
    more = [cell(seed=s) for s in (1, 2)]  # times 18 numbers 0.084
    found = compared([a, *more], [b, *more]).cells
    assert (found.compared, changes(found)["student_asr"].more_than_noise) == (18, False)


def test_transferred_and_removed_by_their_intervals():
    # transferred +-3 in both, removed +-5 in both: 3 sqrt(2) = 4.2426, 5 sqrt(2) = 7.0711
    found = changes(
        compared(
            [cell(transferred=79.0)],
            [cell(transferred=69.0, transferred_low=66.0, transferred_high=72.0)],
        ).cells
    )
    moved = found["transferred"]
    assert (moved.difference, moved.low, moved.high) == pytest.approx(
        (-10, -10 - 4.2426, -10 + 4.2426), abs=1e-3
    )
    assert moved.more_than_noise is True
    gone = changes(compared([cell()], [cell(student_asr=459)]).cells)["removed"]
    assert gone.difference == pytest.approx(-100 * 9 / 711)
    assert gone.high - gone.difference == pytest.approx(7.0711, abs=1e-3)
    assert gone.more_than_noise is False


def test_inconclusive_rows_have_no_share_removed():
    found = compared([cell()], [cell(verdict="inconclusive")])
    assert found.cells.compared == 5
    gone = changes(found.cells)["removed"]
    assert (gone.b, gone.difference, gone.more_than_noise) == (None, None, None)


def test_a_failed_cell_is_a_change_of_status():
    found = compared([cell()], [cell(status="timeout")])
    by = changes(found.cells)
    assert (by["status"].a, by["status"].b) == ("ok", "timeout")
    assert (by["student_asr"].a, by["student_asr"].b, by["student_asr"].difference) == (
        50.0,
        None,
        None,
    )
    assert found.cells.compared == 0


def test_cells_in_one_file_only():
    found = compared([cell(), cell(seed=1)], [cell(seed=1), cell(seed=1, preset="paper")])
    assert found.shared == 1
    assert [(c["seed"], c["preset"]) for c in found.only_in_a] == [(0, "quick")]
    assert [(c["seed"], c["preset"]) for c in found.only_in_b] == [(1, "paper")]


def test_over_seeds_by_hand():
    # differences 9, 18, 27 of 900: 1, 2, 3 points: mean 2, s / sqrt(3) = 0.57735, t(0.975, 2) =
    # 4.302653: half 2.484138
    a = [cell(seed=s, student_asr=n) for s, n in enumerate((100, 450, 800))] + [cell(seed=8)]
    b = [cell(seed=s, student_asr=n) for s, n in enumerate((109, 468, 827))] + [
        cell(seed=9, student_asr=0)
    ]
    asr = changes(compared(a, b).over_seeds)["student_asr"]
    assert asr.cell["seeds"] == [0, 1, 2]
    assert "seed" not in asr.cell
    assert (asr.a, asr.b) == pytest.approx((50, 52))
    assert (asr.difference, asr.low, asr.high) == pytest.approx(
        (2, 2 - 2.484138, 2 + 2.484138), abs=1e-5
    )
    # t = sqrt(12), 2 degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    assert asr.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert asr.more_than_noise is False


def test_differences_that_do_not_vary_are_judged_by_the_least_certain_seed():
    steady = compared(
        [cell(seed=s, student_asr=450) for s in (0, 1, 2)],
        [cell(seed=s, student_asr=451) for s in (0, 1, 2)],
    )
    asr = changes(steady.over_seeds)["student_asr"]
    assert asr.difference == pytest.approx(100 / 900)
    assert asr.p > 0.9  # no t interval of width 0
    assert asr.more_than_noise is False
    fallen = compared(
        [cell(seed=s, student_asr=900) for s in (0, 1)],
        [cell(seed=s, student_asr=0) for s in (0, 1)],
    )
    assert changes(fallen.over_seeds)["student_asr"].more_than_noise is True
    # 1 of 900 more at 50 % and at 0.3333 %, as the file rounds them: equal differences all the same
    rounded = [0.0, 0.3333, 0.6667], [0.1111, 0.4444, 0.7778]
    files = [
        [cell(seed=s, student_asr=3 * s + n) | {"student_asr": v} for s, v in enumerate(vs)]
        for n, vs in enumerate(rounded)
    ]
    assert changes(compared(*files).over_seeds)["student_asr"].p > 0.5


def test_over_seeds_needs_two_shared_good_seeds():
    a = [cell(seed=0), cell(seed=1), cell(seed=2, status="failed")]
    b = [cell(seed=0, student_asr=0), cell(seed=2, student_asr=0), cell(seed=3, student_asr=0)]
    found = compared(a, b).over_seeds
    assert (found.compared, found.changes) == (0, [])
    verdicts = compared(
        [cell(seed=s) for s in (0, 1)], [cell(), cell(seed=1, verdict="stopped")]
    ).over_seeds
    assert [(c.column, c.a, c.b) for c in verdicts.changes] == [
        ("verdict", "not stopped", "stopped 1/2, not stopped 1/2")
    ]


def test_split_averages_no_seeds_of_other_numbers():
    rows = [cell(seed=seed, setting_digest=str(seed) * 64) for seed in (0, 1)]
    file = ResultsFile(Path("r.csv"), rows, [2, 3])
    assert compare(file, file, split=True).shared == 2
    assert compare(file, file, split=True).over_seeds.compared == 0


def test_causes():
    a = [cell(seed=s, torch_version="2.15") for s in (0, 1)]
    b = [
        cell(seed=s, torch_version="2.16", config_digest=str(s) * 64, target_class=s)
        for s in (0, 1)
    ]
    assert compared(a, b).causes == [
        {"column": "config_digest", "a": None, "b": None, "cells": 2},
        {"column": "torch_version", "a": "2.15", "b": "2.16", "cells": 2},
        {"column": "target_class", "a": 0, "b": 1, "cells": 1},
    ]


def test_other_images_are_not_comparable():
    with pytest.raises(
        ConfigError,
        match=r"dataset 'signs' has other images in A \(dddddddddddd\) than in B \(eeeeeeeeeeee\)",
    ):
        compared([cell()], [cell(dataset_digest="e" * 64)])
    assert compared([cell()], [cell(dataset="gtsrb", dataset_digest="e" * 64)]).shared == 0


def test_command_shows_what_changed(tmp_path):
    a = save(tmp_path / "a", [cell(seed=s, c3_asr=900) for s in (0, 1, 2)])
    b = save(
        tmp_path / "b",
        [cell(seed=s, c3_asr=900, student_asr=900, torch_version="2.16") for s in (0, 1, 3)],
    )
    result = call(a, b / "results.csv")
    text = flat(result.output)
    assert result.exit_code == 0
    assert f"A: {a}/results.csv" in result.output
    assert "cells in both: 2" in text
    assert "only in A: signs / lba / none / fkd / wrn16_2 / wrn16_1 / quick / seed 2" in text
    assert "only in B: signs / lba / none / fkd / wrn16_2 / wrn16_1 / quick / seed 3" in text
    assert "student_asr 50.0 100.0 +50.0 +46.7 to +53.3" in text
    assert (
        "single cells: 12 numbers compared, 4 of them changed, 4 by more than noise (Holm: " in text
    )
    assert "means over seeds: 6 numbers compared, 2 of them changed, 2 by more than noise" in text
    assert "verdict partly not stopped" in text
    assert "possible cause: torch_version differs in 2 of 2 cells: 2.15 in A, 2.16 in B" in text


def test_command_when_nothing_recorded_explains_it(tmp_path):
    a, b = save(tmp_path / "a", [cell()]), save(tmp_path / "b", [cell(student_asr=451)])
    assert "no cause is recorded" in call(a, b).output
    same = call(a, a)
    assert "6 numbers compared, 0 of them changed" in flat(same.output)
    assert "cause" not in same.output
    assert same.exit_code == 0


def test_command_lists_many_cells_shortly(tmp_path):
    a, b = (
        save(tmp_path / "a", [cell(seed=s) for s in range(30)]),
        save(tmp_path / "b", [cell(seed=99)]),
    )
    output = call(a, b).output
    assert output.count("only in A: signs") == 20
    assert "only in A: 10 more" in output


@pytest.mark.parametrize("options", [[], ["--json"], ["--split"]], ids=str)
def test_two_runs_without_a_common_cell_are_nothing_to_compare(tmp_path, options):
    a = save(tmp_path / "a", [cell(seed=seed) for seed in range(7)])
    b = save(tmp_path / "b", [cell(seed=9)])
    result = call(*options, a, b)
    assert result.exit_code == 2
    assert "nothing to compare" in result.stderr
    assert "seed is 0, 1, 2, 3, 4, ... in A, and 9 in B" in result.stderr
    if "--json" in options:
        assert json.loads(result.stdout)["shared"] == 0
    else:
        assert "only in B: signs / lba / none / fkd / wrn16_2 / wrn16_1 / quick / seed 9" in flat(
            result.stdout
        )


def test_names_that_only_differ_together_are_no_common_cell(tmp_path):
    a = save(tmp_path / "a", [cell(seed=0), cell(seed=1, defense="nad")])
    b = save(tmp_path / "b", [cell(seed=1), cell(seed=0, defense="nad")])
    result = call(a, b)
    assert result.exit_code == 2
    assert "share no cell: no name of theirs alone tells them apart" in result.stderr


def test_no_measured_change_goes_unsaid(tmp_path):
    a = save(tmp_path / "a", [cell()])
    b = save(tmp_path / "b", [cell(c2_acc=900, student_ra=100)])
    result = call(a, b)
    assert "also changed, not tested, of 1 cell: student_ra in 1, c2_acc in 1" in flat(
        result.output
    )
    found = json.loads(call("--json", a, b).output)
    others = ("student_ra", "c2_acc", "gain")
    assert found["others"] == [{"column": name, "cells": 1} for name in others]


def test_json_is_strict(tmp_path):
    a = save(
        tmp_path / "a", [cell(seed=s) for s in (0, 1)] + [cell(attack="\x1b[2J", reason="\x1b")]
    )
    b = save(
        tmp_path / "b",
        [cell(seed=s, student_asr=900) for s in (0, 1)] + [cell(seed=5, status="failed")],
    )
    result = call(a, b, "--json")
    found = json.loads(result.output, parse_constant=pytest.fail)
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert (found["a"], found["shared"], found["level"], found["correction"]) == (
        f"{a}/results.csv",
        2,
        0.05,
        "holm",
    )
    assert found["only_in_a"][0]["attack"] == r"\x1b[2J"
    assert (found["cells"]["compared"], found["over_seeds"]["compared"]) == (12, 6)
    (first, *_) = found["cells"]["changes"]
    assert set(first) == {
        *("cell", "column", "a", "b", "difference", "low", "high", "p", "p_holm", "more_than_noise")
    }
    assert first["cell"]["seed"] == 0
    assert (first["column"], first["a"], first["b"], first["more_than_noise"]) == (
        "student_asr",
        50.0,
        100.0,
        True,
    )


def test_command_refuses(tmp_path):
    a, b = save(tmp_path / "a", [cell()]), save(tmp_path / "b", [cell(dataset_digest="e" * 64)])
    newer = save(tmp_path / "newer", [cell(schema=SCHEMA + 1)])
    for arguments, word in (
        ((a, b), "not comparable"),
        ((a, newer), "install a newer kdbench"),
        ((a, tmp_path), "holds no results.csv"),
        ((a,), "Missing argument 'B'"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert word in result.output


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_stays_text(tmp_path, text):
    a = save(tmp_path / "a", [cell(defense=text, device=text), cell(attack=text)])
    b = save(tmp_path / "b", [cell(defense=text, student_asr=440)])
    result = call(a, b)
    assert result.exit_code == 0, result.output
    assert not [c for c in result.output if not c.isprintable() and c != "\n"]
    shown = "".join(kept(text).split())
    words = "".join(result.output.split())
    assert f"onlyinA:signs/{shown}/none" in words
    assert f"signs/lba/{shown}/fkd" in words
    assert f"1of1cell:{shown}inA,cpuinB" in words


def test_python_shows_what_the_command_prints(tmp_path):
    a = save(tmp_path / "a", [cell(seed=s, c3_asr=900) for s in (0, 1, 2)])
    rows = [cell(seed=s, c3_asr=900, student_asr=900, torch_version="2.16") for s in (0, 1, 3)]
    b = save(tmp_path / "b", rows)
    found = kdbench.compare(a / "results.csv", b / "results.csv")
    printed = call(a / "results.csv", b / "results.csv").output
    # The terminal breaks a setting into lines, where its table is narrow.
    said = [flat(line) for line in str(found).splitlines() if " / " not in line]
    assert len(said) > 10
    assert [line for line in said if line not in flat(printed)] == []
    assert repr(found) == (
        f"<Comparison of {a}/results.csv and {b}/results.csv: 2 cells in both, 12 numbers "
        "compared, 4 of them changed, 4 by more than noise>"
    )


def test_a_comparison_in_a_notebook_is_text():
    mark = "<script>x</script>\x1b[2J"
    a = [cell(attack=mark, torch_version=mark), cell(defense=mark)]
    b = [cell(attack=mark, student_asr=900, torch_version="2")]
    page = compared(a, b)._repr_html_()
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;") > 2
    assert "\x1b" not in str(compared(a, b))
    assert "<td>student_asr</td>" in page
