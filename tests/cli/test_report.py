"""``kdbench report``."""

from __future__ import annotations

from click.testing import CliRunner

from kdbench.cli import main
from kdbench.page.build import page_of
from kdbench.page.source import read_source
from tests.page.runs import mixed, write_run
from tests.report.report_rows import cell


def call(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_the_page_of_a_run(tmp_path):
    run = write_run(tmp_path / "run", mixed())
    result = call(run, "--out", tmp_path / "page.html")
    assert (result.exit_code, result.output) == (0, f"{tmp_path / 'page.html'}\n")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == page_of(read_source([run]))


def test_one_page_of_several_runs(tmp_path):
    first = write_run(tmp_path / "first", [cell(seed=0)])
    second = write_run(tmp_path / "second", [cell(seed=1)])
    assert call(first, second, "--out", tmp_path / "page.html").exit_code == 0
    assert "first, second" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_rows_that_were_made_with_other_numbers(tmp_path):
    first = write_run(tmp_path / "first", [cell(defense="nad")])
    other = cell(defense="nad", seed=1, setting_digest="9" * 64, defense_digest="9" * 64)
    second = write_run(tmp_path / "second", [other])
    result = call(first, second, "--out", tmp_path / "page.html")
    assert result.exit_code != 0
    assert "other numbers" in result.output
    assert call(first, second, "--out", tmp_path / "page.html", "--split").exit_code == 0


def test_figures_beside_the_page(tmp_path):
    run = write_run(tmp_path / "run", mixed())
    result = call(run, "--out", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert result.exit_code == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "table.tex",
        *(f"{name}.{end}" for name in ("scatter", "transfer") for end in ("pdf", "png")),
    }
    assert str(tmp_path / "figures" / "table.tex") in result.output


def test_places_that_cannot_be_written(tmp_path):
    run = write_run(tmp_path / "run", mixed())
    (tmp_path / "file").write_text("")
    for arguments, words in (
        (("--out", tmp_path), "is a folder; name a file"),
        (("--out", tmp_path / "none" / "page.html"), "cannot be written"),
        (("--figures", tmp_path / "file"), f"--figures {tmp_path / 'file'} cannot be written"),
    ):
        result = call(run, "--out", tmp_path / "page.html", *arguments)
        assert result.exit_code != 0
        assert words in result.output


def test_a_run_without_a_row(tmp_path):
    (tmp_path / "results.csv").write_text("schema,status\n")
    result = call(tmp_path, "--out", tmp_path / "page.html")
    assert result.exit_code != 0
    assert "holds no row" in result.output
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_nobody_named_is_not_overwritten(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", mixed())
    monkeypatch.chdir(tmp_path)
    assert call("run").exit_code == 0
    (tmp_path / "report.html").write_text("of another run")
    result = call("run")
    assert result.exit_code == 2
    assert "report.html is already there; name another file with --out, or write" in result.output
    assert (tmp_path / "report.html").read_text() == "of another run"
    assert call(run, "--out", "report.html").exit_code == 0
    assert (tmp_path / "report.html").read_text() != "of another run"


def test_what_is_read_is_not_overwritten(tmp_path):
    run = write_run(tmp_path / "run", mixed(), {"cells": 18})
    for name in ("results.csv", "run.json"):
        before = (run / name).read_bytes()
        for given in (run, run / "results.csv"):
            result = call(given, "--out", run / name)
            assert result.exit_code == 2
            assert "which is one of the runs; name another file" in result.output
            assert (run / name).read_bytes() == before
