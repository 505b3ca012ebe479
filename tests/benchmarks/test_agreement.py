"""The page on what shorter and longer trainings say: its tables, and the script that writes it."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from kdbench.bench.request.specfile import read_spec
from kdbench.report.tables import write_results
from tests.benchmarks.pages import BENCHMARKS, agreement, render
from tests.report.report_rows import cell


@pytest.fixture
def runs(tmp_path):
    """Two runs of two seeds: at quick ``nad`` stops the backdoor, at standard it does not."""
    for preset, nad, anp in (("quick", 45, 270), ("standard", 700, 180)):
        hits = {"none": 720, "nad": nad, "anp": anp}
        members = [
            cell(defense=defense, seed=seed, student_asr=count, preset=preset)
            for defense, count in hits.items()
            for seed in (0, 1)
        ]
        (tmp_path / preset).mkdir()
        write_results(members, tmp_path / preset / "results.csv")
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(agreement.main, list(map(str, arguments)))


def lines(page, kind):
    """The cells of a table of a page."""
    table = re.search(rf"<!-- table: agreement={kind} .*?-->\n(.*?)<!-- end -->", page, re.DOTALL)
    rows = [line.strip("| \n").split(" | ") for line in table[1].splitlines()]
    assert len({len(row) for row in rows}) == 1
    return rows[:1] + rows[2:]


def test_the_tables_of_a_page(runs):
    done = call(runs / "quick", runs / "standard")
    assert done.exit_code == 0, done.output
    page = done.output
    described = [row[:3] + row[5:] for row in lines(page, "sets")[1:]]
    assert described == [
        ["quick", "quick", "signs", "0, 1", "6"],
        ["standard", "standard", "signs", "0, 1", "6"],
    ]
    # quick: nad < anp < none; standard: anp < nad < none. Of three pairs one is turned round.
    assert lines(page, "summary")[1:] == [
        [
            *("quick", "standard", "nothing: 2 verdicts were compared, and 6 are needed", "nad"),
            *("1 of 2", "0.33", "0.33", "1"),
        ]
    ]
    assert lines(page, "verdicts")[1:] == [
        ["quick", "standard", "stopped", "0", "0", "1", "0", "0"],
        ["quick", "standard", "partly", "0", "1", "0", "0", "0"],
    ]
    # (720 - 270) / 711 and (720 - 180) / 711; (720 - 45) / 711 and (720 - 700) / 711
    assert lines(page, "defenses")[1:] == [
        ["quick", "standard", "anp", "1 of 1", "63", "76", "+13"],
        ["quick", "standard", "nad", "0 of 1", "95", "3", "-92"],
    ]
    (order,) = lines(page, "orders")[1:]
    assert order[2:] == [
        *("signs", "lba", "wrn16_2-wrn16_1", "fkd", "nad, anp, none", "anp, nad, none", "2, 2"),
        *("0.33", "1.000"),
    ]
    assert [row[4:] for row in lines(page, "cells")[1:]] == [
        ["anp", "partly 2/2", "partly 2/2", "30.0", "20.0", "63", "76"],
        ["nad", "stopped 2/2", "not stopped 2/2", "5.0", "77.8", "95", "3"],
        ["none", "not stopped 2/2", "not stopped 2/2", "80.0", "80.0", "-", "-"],
    ]
    assert lines(page, "seeds")[1][4:] == ["anp", "0: 30.0, 1: 30.0", "0: 20.0, 1: 20.0"]


def test_a_page_that_exists_keeps_its_words_and_gets_new_tables(runs):
    path = runs / "page.md"
    assert call(runs / "quick", runs / "standard", "--page", path).exit_code == 0
    before = path.read_text()
    assert "[quick](quick/), [standard](standard/)" in before
    path.write_text(before.replace("**Claim.**", "**Claim.** Mine."))
    done = call(runs / "standard", f"long={runs / 'quick'}", "--page", path)
    assert done.output == f"written: {path}\n"
    page = path.read_text()
    assert "**Claim.** Mine." in page
    assert lines(page, "summary")[1][:2] == ["standard", "long"]
    assert "quick=" not in page
    assert render.render(page) == page, "render.py writes the same tables"


def test_a_run_of_two_presets_is_two_sets(runs):
    both = [cell(defense="nad", student_asr=n, preset=p) for n, p in ((45, "quick"), (9, "long"))]
    write_results(both, runs / "results.csv")
    assert re.fullmatch(r"quick=(\S+) long=\1", agreement.sets_in_words([str(runs)]))
    assert call(runs).exit_code == 0


def test_what_no_set_measured_twice_is_no_cell(runs):
    more = [cell(defense="fineprune", preset="quick", dataset="gtsrb")]
    (runs / "more").mkdir()
    write_results(more, runs / "more" / "results.csv")
    page = call(runs / "quick", runs / "more", runs / "standard").output
    assert "fineprune" not in str(lines(page, "cells"))
    assert ["fineprune", "0: 50.0", "-"] in [row[4:] for row in lines(page, "seeds")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quick"], "needs two sets of runs"),
        (["nowhere", "quick"], "does not exist; name a results.csv or a run's folder"),
        (["a b=quick", "standard"], "is no name of a set"),
        (["quick", "a run"], "has a space or a comma in its path"),
        (["x=quick", "x=standard"], "presets are never ranked together"),
    ],
)
def test_what_cannot_be_used_is_said(runs, monkeypatch, arguments, says):
    monkeypatch.chdir(runs)
    (runs / "a run").mkdir()
    write_results([cell()], runs / "a run" / "results.csv")
    done = call(*arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("agreement=colours a=b c=d", "no table colours of an agreement; there are: sets, "),
        ("agreement=summary results/a", "results/a is no set of runs; write NAME=RUN,RUN"),
    ],
)
def test_a_comment_that_asks_for_nothing_there_is(marker, message):
    with pytest.raises(ValueError, match=message):
        render.render(f"<!-- table: {marker} -->\n<!-- end -->\n")


def test_the_request_has_the_attacks_and_defenses_of_the_question():
    request = read_spec(BENCHMARKS / "specs" / "agreement.toml")
    assert request["attacks"] == ["lba", "ckd"]
    assert request["defenses"] == [
        *("none", "robustkd", "robustkd.paper", "finetune", "nad", "fineprune", "anp")
    ]
    assert len(request["seeds"]) >= 4
