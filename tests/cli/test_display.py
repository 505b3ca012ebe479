"""The table of a run's results, and the lines under it."""

from __future__ import annotations

import pytest
from rich.console import Console

from kdbench.cli.display import cell_line, print_results, result_table, safe, safe_path
from kdbench.report.verdict import MEANING
from kdbench.report.words import SHOWN
from tests.cli.calls import RUN, call, row


def test_of_many_rows_a_terminal_gets_fifty_and_the_count_of_the_rest(capsys):
    reason = "no verdict: a control failed: too bad"
    rows = [row(seed=1000 + seed, reason=reason) for seed in range(60)]
    print_results(Console(width=120), rows, "the-folder")
    text = capsys.readouterr().out
    assert "1049" in text
    assert "1050" not in text
    assert text.count(reason) == 50
    assert "and 10 more rows: see results.csv there" in text
    print_results(Console(width=120), rows[:50], "the-folder")
    assert "more rows" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120])
def test_result_table_fits(capsys, width):
    rows = [
        row(),
        row(verdict="inconclusive"),
        row(status="failed", student_acc=None, distiller="kd", verdict=None),
    ]
    table = result_table(rows, width)
    assert all(len(list(column.cells)) == len(rows) for column in table.columns)
    assert len(table.columns) == (8 if width == 80 else 11)
    Console(width=width).print(table)
    text = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for part in ("97.1/100.0", "95.0/100.0/100.0", "not stopped", "failed", "-100.0"):
        assert part in text


def test_the_share_removed_of_next_to_nothing_is_not_shown(capsys):
    for verdict in ("not stopped", "inconclusive"):
        Console(width=120).print(
            result_table([row(transferred=0.2, removed=362.5, verdict=verdict)], 120)
        )
    shown = capsys.readouterr().out
    assert shown.count("362.5") == 1
    assert shown.index("362.5") < shown.index("inconclusive")


def test_reasons_and_path_are_printed(fake_run, tmp_path):
    fake_run.answer = [row(reason="[x] only 3 points")]
    result = call(*RUN, "--out", str(tmp_path / "o"))
    assert "[x] only 3 points" in result.output
    assert result.output.rstrip().endswith(str(tmp_path / "o"))


def test_that_too_little_travelled_is_said_once(fake_run, tmp_path):
    reason = "only 12.5 points of ASR transferred; 30 are needed to judge"
    few = {"verdict": "inconclusive", "reason": reason, "transferred": 12.5}
    few["reason_code"] = "few_transferred"
    more = reason + "; control C2 failed: boom"
    fake_run.answer = [
        row(**few),
        row(**few, seed=1),
        row(**few | {"reason": more, "reason_code": "c2_failed"}, seed=2),
        row(seed=3),
    ]
    shown = call(*RUN, "--out", str(tmp_path / "o")).output
    assert "2 cells are inconclusive: under 30 points" in shown
    assert shown.count("only 12.5 points") == 1
    assert "seed 2: only 12.5 points" in shown
    assert "boom" in shown
    assert "seed 3: because" in shown
    fake_run.answer = [row(**few)]
    shown = call(*RUN, "--out", str(tmp_path / "one")).output
    assert reason in shown
    assert "cells are inconclusive" not in shown


def test_the_name_of_a_file_can_be_told_from_every_other():
    assert safe_path("a\nb [bold]\udce9") == r"a\nb \[bold]\udce9"


def test_safe():
    assert safe("a\x1b[0m\nb[bold]") == r"a\x1b[0m b\[bold]"


def test_what_a_preset_gets_wrong_stands_under_the_table(capsys):
    remark = "robustkd: [x] too strong"
    rows = [row(preset="quick", preset_remark=remark, seed=seed) for seed in range(3)]
    print_results(Console(width=120), rows, "")
    shown = capsys.readouterr().out
    assert shown.count("  preset quick, robustkd: [x] too strong") == 1
    print_results(Console(width=120), [row()], "")
    assert "preset" not in capsys.readouterr().out


@pytest.mark.parametrize("verdict", ["stopped", "partly", "not stopped", "inconclusive"])
def test_a_verdict_is_said_in_words(verdict, capsys):
    print_results(Console(width=300), [{"status": "ok", "verdict": verdict}], "")
    printed = capsys.readouterr().out
    assert f"Verdict {verdict}: {MEANING[verdict]}." in printed
    assert printed.count("Verdict ") == 1


def test_a_student_without_a_defense_is_undefended(capsys):
    rows = [row(defense="none", verdict="not stopped"), row(defense="nad", verdict="partly")]
    print_results(Console(width=300), rows, "")
    printed = capsys.readouterr().out
    assert "not stopped" not in printed
    assert f"Verdict undefended: {SHOWN['undefended']}." in printed
    assert cell_line(rows[0]).endswith("| undefended")
