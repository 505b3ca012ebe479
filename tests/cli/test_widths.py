"""At 80 and at 120 columns no line is too long, and no word is broken."""

from __future__ import annotations

import itertools
import time

import pytest

from kdbench._progress import Step
from kdbench.bench.kinds import Kind
from kdbench.cli.display import print_results
from kdbench.cli.watch import LiveDisplay
from kdbench.report.verdict import MEANING
from tests.cli.calls import RUN, call, row
from tests.cli.widths import WIDE, WIDTHS, assert_whole, of_width, terminal


def both(show, capsys, width):
    """What is shown at a width, and where there is room for all."""
    texts = []
    for columns in (width, WIDE):
        capsys.readouterr()
        show(terminal(columns))
        texts.append(capsys.readouterr().out)
    return texts


def much_at_once(console, monkeypatch):
    """A run in which much happens at once, and each look at the clock takes a second."""
    clock = itertools.count(100.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    display = LiveDisplay(console)
    display.stages, display.to_run = 1234, 1200
    display.expect({number: 4000.0 for number in range(1, 1200)}, pace=2)
    titles = [
        "distill timm/resnet18 from pyramid200 with ckd.adaptive_sim cleansed by robustkd by fkd",
        "anp: repair wrn16_1 from wrn28_4 with badnets",
        "train clean wrn10_1",
    ]
    for number, title in enumerate(titles, 1):
        display.stage_started(number, Kind.DISTILL, title)
        for done in (1, 2, 3):
            step = Step(epoch=17, epochs=200, done=done, total=40_000, loss=0.12345, images=64)
            display.step(number, step)
    display.stage_waits(
        7, Kind.CLEAN, titles[0], "another run of this store computes it (process 1234567)"
    )
    facts = {"poisons": 135, "mean_opacity": 0.03516, "universal": 0, "loss": 0.2151}
    display.stage_finished(4, Kind.DISTILL, titles[0], 12345.0, facts)
    display.stage_failed(5, Kind.REPAIR, titles[1], "OSError: no space left on the device " * 4)
    display.stage_taken(6, Kind.CLEAN, titles[0])
    display.cell_finished(row())
    return display


@WIDTHS
def test_the_live_display(capsys, width, monkeypatch):
    def show(console):
        picture = much_at_once(console, monkeypatch).render()
        monkeypatch.undo()
        console.print(picture)

    narrow, wide = both(show, capsys, width)
    assert_whole(narrow, wide, width)
    lines = narrow.splitlines()
    assert lines[0].startswith("kdbench 37/1234 stages done")
    assert lines[0].rstrip().endswith("left")
    now = [line.rstrip() for line in lines if line.startswith("now: ")]
    assert len(now) == 3
    assert all(line.endswith("left") for line in now)
    assert sum(line.startswith("waits: ") for line in lines) == 1


@WIDTHS
def test_the_table_that_ends_a_run(capsys, width, tmp_path):
    rows = [row(verdict=verdict, reason="too little travelled " * 8) for verdict in MEANING]
    rows.append(row(status="failed", teacher="timm/resnet18", student="torchvision/resnet50"))
    (tmp_path / "report.html").touch()
    narrow, wide = both(lambda console: print_results(console, rows, ""), capsys, width)
    assert_whole(narrow, f"{wide} setting", width)  # a heading at 80 columns only
    print_results(terminal(width), rows, str(tmp_path))
    results, report = capsys.readouterr().out.splitlines()[-2:]
    # They can be copied whole.
    assert (results, report) == (f"results: {tmp_path}", f"report: {tmp_path}/report.html")


def test_a_page_that_is_not_there_is_not_named(capsys, tmp_path):
    print_results(terminal(80), [row()], str(tmp_path))
    assert "report:" not in capsys.readouterr().out


@WIDTHS
@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("list", "attacks", "lba"),
        ("list", "models", "wrn16_1"),
        ("plugins",),
        ("plan", *RUN[1:], "--attack", "lba", "--defense", "robustkd"),
    ],
    ids=" ".join,
)
def test_commands(monkeypatch, width, command, tmp_path):
    store = ["--store", str(tmp_path)] if command[0] in ("plan", "list") else []
    of_width(monkeypatch, width)
    narrow = call(*command, *store)
    assert narrow.exit_code == 0
    of_width(monkeypatch, WIDE)
    assert_whole(narrow.stdout, call(*command, *store).stdout, width)


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("120", 120), ("", 120), ("0", 120)])
def test_a_table_in_a_file_is_as_wide_as_columns_says(monkeypatch, columns, width):
    """Or 120 columns wide, where it says nothing that is a width."""

    def shown(columns):
        monkeypatch.setenv("COLUMNS", columns)
        return call("list", "presets").stdout

    narrow = shown(columns)
    assert_whole(narrow, shown(str(WIDE)), width)
    assert max(len(line.rstrip()) for line in narrow.splitlines()) > width - 15


def test_a_kind_of_which_there_is_nothing_has_no_table(monkeypatch, tmp_path):
    of_width(monkeypatch, 80)
    assert call("list", "teachers", "--store", str(tmp_path)).stdout == "teachers: none\n"
