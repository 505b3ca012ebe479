"""Means, ranks and the worst case against values computed by hand; the command ``kdbench leaderboard``."""

from __future__ import annotations

import csv
import math
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.report.leaderboard import leaderboard, overall, write_leaderboard, write_overall
from kdbench.report.notes import notes
from kdbench.report.ranking import assign_ranks
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report_rows import HOSTILE, cell


def ranks(rows, **only):
    """defense: rank (None without one)."""
    records = leaderboard(rows).astype({"rank": object}).to_dict("records")
    chosen = [r for r in records if all(r[name] == value for name, value in only.items())]
    return {r["defense"]: r["rank"] if isinstance(r["rank"], int) else None for r in chosen}


def line(table, **only):
    (found,) = (r for r in table.to_dict("records") if all(r[name] == value for name, value in only.items()))
    return found


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def call(*arguments):
    return CliRunner().invoke(main, ["leaderboard", *map(str, arguments)])


def save(folder, rows):
    folder.mkdir(exist_ok=True)
    write_results(rows, folder / "results.csv")
    return folder


# -- means ---------------------------------------------------------------------------------------------------------------------


def test_mean_and_t_interval_by_hand():
    # 10, 20, 30 %: mean 20, s = 10, t(0.975, 2) = 4.302653, half = 4.302653 * 10 / sqrt(3) = 24.841377
    found = line(leaderboard([cell(seed=s, student_asr=n) for s, n in enumerate((90, 180, 270))]))
    assert found["n_seeds"] == 3
    assert found["student_asr"] == pytest.approx(20)
    assert (found["student_asr_low"], found["student_asr_high"]) == pytest.approx((20 - 24.841377, 20 + 24.841377), abs=1e-5)
    assert (found["rank_low"], found["rank_high"]) == (found["student_asr_low"], found["student_asr_high"])
    assert found["verdict"] == "partly"


def test_one_seed_has_no_interval_and_failures_are_not_averaged(tmp_path):
    rows = [cell(student_asr=90), cell(seed=1, status="failed", student_asr=90.0)]
    found = line(leaderboard(rows))
    assert (found["n_seeds"], found["n_failed"], found["student_asr"], found["verdict"]) == (1, 1, 10.0, "partly")
    assert math.isnan(found["student_asr_low"])
    write_leaderboard(rows, tmp_path / "leaderboard.csv")
    (written,) = read(tmp_path / "leaderboard.csv")
    assert (written["student_asr"], written["student_asr_low"], written["rank"]) == ("10.0", "", "1")


def test_all_seeds_failed():
    found = line(leaderboard([cell(status="diverged")]))
    assert (found["n_seeds"], found["n_failed"], found["verdict"]) == (0, 1, "")
    assert math.isnan(found["student_asr"])
    assert found["rank_reason"] == "not measured: seed 0 diverged"


def test_disagreeing_verdicts_are_shares():
    rows = [cell(seed=s, verdict=v) for s, v in enumerate(("partly", "stopped", "stopped"))]
    assert leaderboard(rows)["verdict"].tolist() == ["stopped 2/3, partly 1/3"]


def test_the_share_removed_of_next_to_nothing_is_not_averaged():
    rows = [
        cell(seed=0, transferred=60.0, removed=95.0, verdict="stopped"),
        cell(seed=1, transferred=0.5, removed=-3000.0, verdict="inconclusive"),
        cell(seed=2, transferred=-0.5, removed=None, verdict="inconclusive"),
    ]
    found = line(leaderboard(rows))
    assert (found["removed"], found["n_removed"], found["n_seeds"]) == (95.0, 1, 3)
    assert found["transferred"] == 20.0


def test_order_is_by_group_then_rank_then_asr():
    rows = [
        cell(defense="worse", student_asr=600),
        cell(defense="unknown", status="failed"),
        cell(defense="vague", verdict="inconclusive", student_asr=1),
        cell(defense="lossy", student_asr=0, student_acc=900),
        cell(defense="better", student_asr=50),
        cell(attack="aaa", defense="x", student_asr=890),
    ]
    assert leaderboard(rows)["defense"].tolist() == ["x", "better", "worse", "lossy", "vague", "unknown"]


def test_no_rows(tmp_path):
    assert leaderboard([]).empty
    assert overall([]).empty
    write_leaderboard([], tmp_path / "l.csv")
    write_overall([], tmp_path / "o.csv")
    assert (tmp_path / "l.csv").read_text().startswith("schema,dataset,attack")
    assert (tmp_path / "o.csv").read_text().startswith("schema,dataset,distiller")


# -- ranks ---------------------------------------------------------------------------------------------------------------------


def test_ties_of_one_seed_by_hand():
    # Wilson's intervals of n/900: 90: 8.21-12.13; 108: 10.04-14.29; 135: 12.82-17.48; 150: 14.37-19.24; 450: 46.74-53.26.
    # b overlaps a. c overlaps b, but not a, the best of the group: a new group. d overlaps c.
    rows = [cell(defense=d, student_asr=n) for d, n in (("e", 450), ("c", 135), ("a", 90), ("d", 150), ("b", 108))]
    assert ranks(rows) == {"a": 1, "b": 1, "c": 3, "d": 3, "e": 5}
    found = line(leaderboard(rows), defense="a")
    assert (found["rank_low"], found["rank_high"]) == pytest.approx((8.2068365, 12.1331753), abs=1e-6)


@pytest.mark.parametrize(("low", "rank"), [(12.0, 1), (12.000001, 2)])
def test_touching_intervals_overlap(low, rank):
    best = {"defense": "a", "student_asr": 10.0, "rank_low": 8.0, "rank_high": 12.0, "acc_lost": 0.0, "rank_reason": ""}
    other = best | {"defense": "b", "student_asr": 14.0, "rank_low": low, "rank_high": 16.0}
    assign_ranks([other, best])
    assert (best["rank"], other["rank"]) == (1, rank)


def test_several_seeds_tie_by_students_interval():
    # a: 10, 20 %: 15 +- 12.706205 * 7.071068 / sqrt(2) = 63.53. Far more than the test sample's; b (60, 61 %) lies within it.
    rows = [cell(defense=d, seed=s, student_asr=n[s]) for d, n in {"a": (90, 180), "b": (540, 549)}.items() for s in (0, 1)]
    assert ranks(rows) == {"a": 1, "b": 1}
    assert line(leaderboard(rows), defense="a")["rank_high"] == pytest.approx(15 + 63.531024, abs=1e-5)
    one_seed = [row for row in rows if row["seed"] == 0]
    assert ranks(one_seed) == {"a": 1, "b": 2}


def test_equal_seeds_have_the_test_samples_interval():
    # Three seeds of 0 % have no t interval. Wilson's of 0/900 ends at z^2 / (n + z^2) = 0.42501 %, so 1/900 = 0.11 % ties.
    rows = [cell(defense=d, seed=s, student_asr=n) for d, n in {"a": 0, "b": 1, "c": 20}.items() for s in (0, 1, 2)]
    assert ranks(rows) == {"a": 1, "b": 1, "c": 3}
    assert line(leaderboard(rows), defense="a")["rank_high"] == pytest.approx(0.425011, abs=1e-5)


def test_losing_more_than_three_points_of_acc_ranks_last():
    # undefended 96.0 %: 93.0 loses exactly 3, 92.9 more
    rows = [
        cell(defense="exact", student_asr=800, student_acc=930),
        cell(defense="over", student_asr=0, student_acc=929),
        cell(defense="worse", student_asr=100, student_acc=500),
        cell(defense="none", student_asr=805, student_acc=960),
    ]
    assert ranks(rows) == {"exact": 1, "none": 1, "over": 3, "worse": 4}
    found = line(leaderboard(rows), defense="over")
    assert found["acc_lost"] == 3.1
    assert found["rank_reason"] == "3.1 points of ACC lost, more than 3: after all that lose less"
    assert line(leaderboard(rows), defense="exact")["rank_reason"] == ""


def test_acc_lost_is_a_mean_over_seeds():
    rows = [cell(seed=0, student_acc=950), cell(seed=1, student_acc=900)]  # 1 and 6 points
    assert line(leaderboard(rows))["acc_lost"] == 3.5


def test_losers_do_not_tie_with_others():
    rows = [cell(defense="a", student_asr=90), cell(defense="b", student_asr=90, student_acc=100)]
    assert ranks(rows) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"status": "timeout"}, {"seed": 1, "status": "crashed"}], "not measured: seed 0 timeout, seed 1 crashed"),
        ([{"verdict": "inconclusive"}, {"seed": 1, "verdict": "inconclusive"}], "inconclusive at every seed"),
        ([{"verdict": None, "reason": "no verdict: the controls were skipped"}], "no verdict: the controls were skipped"),
        ([{"verdict": None, "reason": None}], "no verdict"),
        ([{"verdict": "inconclusive"}, {"seed": 1, "verdict": None}], "no conclusive verdict at any seed"),
        ([{}], "measured at fewer seeds than others: seed 1 missing"),
        ([{}, {"seed": 1, "status": "failed"}], "measured at fewer seeds than others: seed 1 failed"),
    ],
)
def test_what_has_no_rank_says_why(rows, reason):
    others = [cell(defense="b", seed=s) for s in (0, 1)]
    table = leaderboard([cell(defense="a", student_asr=0, **row) for row in rows] + others)
    assert line(table, defense="a")["rank_reason"] == reason
    assert ranks([cell(defense="a", student_asr=0, **row) for row in rows] + others) == {"a": None, "b": 1}
    assert math.isnan(line(table, defense="a")["rank_low"])


def test_one_conclusive_seed_is_enough_and_all_seeds_count():
    rows = [cell(student_asr=90, verdict="inconclusive"), cell(seed=1, student_asr=270)]
    assert ranks(rows) == {"none": 1}
    assert line(leaderboard(rows))["student_asr"] == pytest.approx(20)


def test_seeds_at_which_nobody_is_conclusive_cost_no_rank():
    rows = [cell(defense="a"), cell(defense="b"), cell(defense="c", seed=7, verdict="inconclusive")]
    assert ranks(rows) == {"a": 1, "b": 1, "c": None}


@pytest.mark.parametrize("name", ["dataset", "attack", "distiller", "teacher", "student", "preset"])
def test_only_the_same_task_is_ranked_together(name):
    rows = [cell(defense="a", student_asr=0), cell(defense="b", student_asr=800, **{name: "other"})]
    assert ranks(rows) == {"a": 1, "b": 1}


def test_ranks_do_not_depend_on_the_order_of_rows():
    rows = [cell(attack=a, defense=d, student_asr=n) for a in ("lba", "ckd") for d, n in (("x", 90), ("y", 90), ("z", 500))]
    table = leaderboard(rows)
    for other in (rows[::-1], rows[3:] + rows[:3]):
        assert sorted(map(str, leaderboard(other).to_dict("records"))) == sorted(map(str, table.to_dict("records")))


def test_a_runs_own_leaderboard_is_that_of_its_file(tmp_path):
    # thirds do not survive the rounding of the file unchanged, and 2.99996 points of ACC are 3.0000 there
    rows = [cell(defense=d, seed=s, student_asr=n + s) for d, n in (("a", 301), ("b", 307)) for s in (0, 1, 2)]
    rows += [cell(defense="c", seed=s, undefended_acc=960, student_acc=930, student_asr=77) for s in (0, 1, 2)]
    rows += [cell(defense="d", status="failed", seed=s) for s in (0, 1, 2)]
    write_results(rows, tmp_path / "results.csv")
    back = read_results(tmp_path).rows
    for name, write in {"l": write_leaderboard, "o": write_overall}.items():
        write(rows, tmp_path / f"{name}1.csv")
        write(back, tmp_path / f"{name}2.csv")
        one, two = (read(tmp_path / f"{name}{n}.csv") for n in (1, 2))
        assert [r["rank"] for r in one] == [r["rank"] for r in two]
        for first, second in zip(one, two, strict=True):
            for column, text in first.items():
                try:
                    assert float(second[column]) == pytest.approx(float(text), abs=2e-3)
                except ValueError:
                    assert second[column] == text


# -- the worst case over attacks -----------------------------------------------------------------------------------------------


def test_worst_case_by_hand():
    hits = {"a": {"lba": 90, "ckd": 450}, "b": {"lba": 300, "ckd": 200}}
    rows = [cell(defense=d, attack=k, student_asr=n) for d, own in hits.items() for k, n in own.items()]
    rows += [cell(defense=d, attack="htba", student_asr=899, verdict="inconclusive") for d in "ab"]
    table = overall(rows)
    assert table["defense"].tolist() == ["b", "a"]  # b's worst is 33.3 %, a's 50 %
    b, a = table.to_dict("records")
    assert (b["rank"], b["worst_attack"], b["student_asr"]) == (1, "lba", pytest.approx(100 / 3))
    assert (a["rank"], a["worst_attack"], a["student_asr"]) == (2, "ckd", 50.0)
    assert (a["rank_low"], a["rank_high"]) == pytest.approx((46.74, 53.26), abs=0.01)
    assert (a["n_attacks"], a["attacks"], a["missing_attacks"], a["n_seeds"]) == (2, "ckd, lba", "htba", 1)
    assert a["rank_reason"] == b["rank_reason"] == ""


def test_worst_cases_tie_by_the_same_rule():
    rows = [cell(defense=d, attack=k, student_asr=n) for d, n in (("a", 90), ("b", 108), ("c", 135)) for k in ("lba", "ckd")]
    assert overall(rows)["rank"].tolist() == [1, 1, 3]
    assert overall(rows)["worst_attack"].tolist() == ["ckd"] * 3  # equally bad: the first by name


def test_worst_acc_of_any_attack_counts():
    rows = [cell(defense="a", attack=k, student_asr=n, student_acc=acc) for k, n, acc in (("lba", 90, 955), ("ckd", 9, 900))]
    rows += [cell(defense="b", attack=k, student_asr=500) for k in ("lba", "ckd")]
    assert overall(rows)["defense"].tolist() == ["b", "a"]
    found = line(overall(rows), defense="a")
    assert (found["rank"], found["acc_lost"]) == (2, 6.0)
    assert found["rank_reason"].startswith("6.0 points of ACC lost")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "no rank against ckd (not measured)"),
        ({"status": "failed"}, "no rank against ckd (not measured: seed 0 failed)"),
        ({"verdict": None, "reason": "no verdict: x"}, "no rank against ckd (no verdict: x)"),
    ],
)
def test_fewer_attacks_are_no_advantage(row, reason):
    rows = [cell(defense="a", attack="lba", student_asr=0)]
    rows += [cell(defense="b", attack=k, student_asr=800) for k in ("lba", "ckd")]
    rows += [cell(defense="a", attack="ckd", **row)] if row is not None else []
    table = overall(rows)
    a, b = line(table, defense="a"), line(table, defense="b")
    assert table["rank"].isna().tolist() == [False, True]
    assert (a["n_attacks"], a["missing_attacks"], a["rank_reason"]) == (1, "ckd", reason)
    assert (a["worst_attack"], a["student_asr"]) == ("lba", 0.0)
    assert (b["rank"], b["n_attacks"], b["missing_attacks"]) == (1, 2, "")


def test_no_attack_counts():
    found = line(overall([cell(verdict="inconclusive"), cell(seed=1, verdict="inconclusive")]))
    assert (found["rank_reason"], found["n_attacks"], found["n_seeds"]) == ("no rank against any attack", 0, 2)
    assert found["missing_attacks"] == "lba"


# -- reservations --------------------------------------------------------------------------------------------------------------


def told(rows):
    return "\n".join(notes(rows, leaderboard(rows)))


def test_notes():
    several = [cell(defense=d, seed=s) for d in "ab" for s in (0, 1)]
    assert told(several) == ""
    assert "one seed is an indication only" in told(several[::2])
    assert "differ in torch_version: 2.14, 2.15" in told([*several[:3], several[3] | {"torch_version": "2.14"}])
    apart = told([*several[:3], several[3] | {"teacher_sha256": "e" * 64}])
    assert apart.endswith("their tasks differed: signs / lba / fkd / wrn16_2 / wrn16_1 / seed 1")
    assert "different teachers or controls" in told([*several[:3], cell(defense="b", seed=1, undefended_asr=700)])
    assert told([*several[:3], several[3] | {"teacher_sha256": None}]) == ""  # a failed cell knows none


# -- the command ---------------------------------------------------------------------------------------------------------------


def test_command_merges_runs_and_writes_both_files(tmp_path):
    a = save(tmp_path / "a", [cell(defense="none", student_asr=720), cell(defense="nad", student_asr=300)])
    b = save(tmp_path / "b", [cell(defense="none", student_asr=720, wall_s=99.0), cell(defense="robustkd", student_asr=100)])
    out = tmp_path / "board.csv"
    out.write_text("old")
    result = call(a, b / "results.csv", "--out", out)
    assert result.exit_code == 0, result.output
    assert [(r["rank"], r["defense"], r["n_seeds"]) for r in read(out)] == [
        ("1", "robustkd", "1"),
        ("2", "nad", "1"),
        ("3", "none", "1"),
    ]
    assert [r["worst_attack"] for r in read(tmp_path / "board-overall.csv")] == ["lba"] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "board-overall.csv", "board.csv"]
    assert "signs / lba / fkd / wrn16_2 / wrn16_1 / quick" in result.output
    assert "worst case over attacks" in result.output
    assert "4 rows from 2 files, 1 of them twice and counted once" in " ".join(result.output.split())
    assert "one seed is an indication only" in " ".join(result.output.split())


def test_command_writes_to_the_current_folder(tmp_path, monkeypatch):
    save(tmp_path / "a", [cell(seed=s) for s in (0, 1)])
    monkeypatch.chdir(tmp_path)
    result = call("a")
    assert result.exit_code == 0
    assert "indication" not in result.output
    assert {p.name for p in tmp_path.iterdir()} == {"a", "leaderboard.csv", "leaderboard-overall.csv"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preset": "paper"}, ["presets are never ranked together", "'quick' in ", "'paper' in "]),
        ({"dataset_digest": "e" * 64}, ["dataset 'signs' has other images", "dddddddddddd", "eeeeeeeeeeee"]),
        (
            {"config_digest": "e" * 64, "torch_version": "2.16"},
            ["other parameters", "config_digest", "torch_version", "line 2"],
        ),
        ({"config_digest": "e" * 64, "student_asr": 451}, ["other parameters"]),
        ({"student_ra": 301}, ["student_ra is 33.3333 in ", "and 33.4444 in ", "3 more columns"]),
        ({"reason": "x" * 500}, ["reason is because in ", "xxx..."]),
        ({"status": "failed"}, ["status is ok in ", "and failed in "]),
        ({"defense": "nad", "target_class": 2}, ["target_class is 0 in ", "and 2 in ", "rank the two apart"]),
        ({"defense": "nad", "clean_fraction": 0.05}, ["clean_fraction is 1.0 in ", "and 0.05 in "]),
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
    assert (a / "results.csv").read_bytes() == (a / "x-overall.csv").read_bytes() == before


@pytest.mark.parametrize("out", [".", "/", "a", "no/such/folder/x.csv"])
def test_command_says_where_it_cannot_write(tmp_path, monkeypatch, out):
    save(tmp_path / "a", [cell()])
    monkeypatch.chdir(tmp_path)
    result = call("a", "--out", out)
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: --out {out} ")
    assert "name a" in result.output


def test_command_needs_a_run():
    assert call().exit_code == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom kdbench.cli import main\nmain(['{}', '--help'], standalone_mode=False)\n"
        "heavy = [m for m in ('torch', 'pandas', 'numpy', 'scipy', 'rich') if m in sys.modules]\nassert not heavy, heavy\n"
    )
    for name in ("leaderboard", "compare"):
        done = subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_stays_text(tmp_path, text):
    a = save(tmp_path / "a", [cell(attack=text, defense=d, student_asr=n, reason=text) for d, n in (("none", 720), (text, 90))])
    result = call(a, "--out", tmp_path / "l.csv")
    assert result.exit_code == 0, result.output
    assert not [c for c in result.output if not c.isprintable() and c != "\n"]
    shown = "".join("".join(c if c.isprintable() else " " for c in text).split())
    assert shown in "".join(result.output.split())  # nothing of it was taken for markup
    for path in (tmp_path / "l.csv", tmp_path / "l-overall.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        kept = text.replace("\r\n", "\n").replace("\r", "\n")
        guarded = f"'{kept}" if kept[0] in "=+-@\t\n" else kept
        assert [fields[header.index("defense")] for fields in lines] == [guarded, "none"]
        for fields in lines:
            assert len(fields) == len(header)
            for field in fields:
                assert not field.startswith(("=", "+", "@", "\t", "\r"))
                assert not field.startswith("-") or math.isfinite(float(field))
