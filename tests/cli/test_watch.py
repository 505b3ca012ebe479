"""What the displays show while a run goes on."""

from __future__ import annotations

import json
import sys
import time

import pytest

from kdbench.bench.kinds import Kind
from kdbench.cli.display import make_console
from kdbench.cli.watch import JsonDisplay, LiveDisplay, PlainDisplay, QuietDisplay
from kdbench.data.description import describe
from kdbench.training import Step
from tests.cli.calls import row
from tests.data.pictures import folder, save


def test_json_lines_hold_no_nan(capsys):
    display = JsonDisplay()
    display.run_started(1, 1, 1, "out")
    display.stage_started(1, Kind.CLEAN, "train")
    display._next[1] = 0
    display.step(1, Step(epoch=1, epochs=2, done=1, total=2, loss=float("nan"), images=4))
    display.stage_finished(1, Kind.CLEAN, "train", 1.23456, {"loss": float("inf"), "epochs": 3})
    display.cell_finished(row(removed=float("nan")))
    display.run_finished([row(), row(status="failed")], "out")
    lines = [
        json.loads(line, parse_constant=pytest.fail)
        for line in capsys.readouterr().out.splitlines()
    ]
    assert [line["event"] for line in lines] == [
        "run_started",
        "stage_started",
        "step",
        "stage_finished",
        "cell_finished",
        "run_finished",
    ]
    assert lines[3]["facts"] == {"loss": None, "epochs": 3}
    assert (lines[-1]["ok"], lines[-1]["cells"]) == (1, 2)


@pytest.fixture
def noon(monkeypatch):
    """It is always 12:34:56."""
    monkeypatch.setattr(time, "strftime", lambda form: form.replace("%H:%M:%S", "12:34:56"))


def test_plain_display(capsys, noon):
    display = PlainDisplay()
    display.run_started(9, 4, 1, "out")
    display.stage_started(3, Kind.DISTILL, "distill\x1b[2J wrn16_1")
    for done in range(1000):
        display.step(3, Step(epoch=1, epochs=2, done=done, total=1000, loss=1.0, images=4))
    display.stage_finished(
        3,
        Kind.DISTILL,
        "distill wrn16_1",
        41.2,
        {"acc": 97.1, "device": "cpu", "confinement": "none"},
    )
    display.stage_finished(4, Kind.EVALUATE, "measure: distill wrn16_1", 0.2, {})
    display.stage_failed(5, Kind.REPAIR, "repair", "boom")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "12:34:56 9 stages, 4 of them to run, 1 cell -> out",
        "12:34:56 [3/9] distill wrn16_1 | 41 s | acc 97.1",
        "12:34:56 [5/9] repair | FAILED: boom",
    ]
    display.stage_started(6, Kind.DISTILL, "distill\x1b[2J")
    display.stage_started(7, Kind.DISTILL, "another one at the same time")
    display._next[6] = 0
    for done in (5, 6):
        display.step(6, Step(epoch=1, epochs=2, done=done, total=10, loss=0.5, images=4))
        display.step(7, Step(epoch=1, epochs=2, done=done, total=10, loss=0.5, images=4))
    assert capsys.readouterr().out == (
        "12:34:56 [6/9] distill\\x1b[2J | epoch 1/2 | step 5/10 | loss 0.5\n"
    )


def test_progress_has_the_time_of_day_and_a_table_has_none(capsys, noon):
    display = PlainDisplay()
    display.expect({1: 90.0}, pace=1)
    display.run_started(1, 1, 1, "out")
    display.stage_waits(1, Kind.CLEAN, "train", "another run computes it")
    display.stage_taken(1, Kind.CLEAN, "train")
    display.cell_finished(row())
    progress = capsys.readouterr().out.splitlines()
    assert len(progress) == 5
    assert all(line.startswith("12:34:56 ") for line in progress)
    display.run_finished([row()], "out")
    assert "12:34:56" not in capsys.readouterr().out


def test_live_display_renders():
    console = make_console()
    display = LiveDisplay(console)
    display.stages, display.to_run = 5, 2
    display.stage_started(1, Kind.CLEAN, "train [red]x")
    display.stage_started(2, Kind.EVALUATE, "measure: y")
    for done in (1, 2, 3):
        loss = 0.25 if done == 2 else None
        display.step(1, Step(epoch=1, epochs=4, done=done, total=12, loss=loss, images=10))
    with console.capture() as capture:
        console.print(display.render())
    text = capture.get()
    for part in (
        "3/5 stages done | 3 in the store",
        "[1/5] train [red]x",
        "epoch 1/4",
        "loss 0.25",
        "left",
        "[2/5] measure: y",
    ):
        assert part in text
    for number in range(7):
        display.stage_finished(number, Kind.CLEAN, f"t{number}", 1.0, {})
    with console.capture() as capture:
        console.print(display.render())
    assert "t6" in capture.get()
    assert "t1 " not in capture.get()
    assert "train" not in capture.get()


@pytest.mark.parametrize("make", [QuietDisplay, PlainDisplay, LiveDisplay, JsonDisplay])
def test_step_is_cheap(make, monkeypatch, capsys):
    """A step calls few functions, and prints nothing before it is due."""
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    display = make()
    display.stages = 1
    display.stage_started(1, Kind.CLEAN, "x")
    steps = [Step(1, 1, done, 2000, 1.0, images=64) for done in range(1, 2001)]
    calls = 0
    capsys.readouterr()  # what it says of the stage

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        for step in steps:
            display.step(1, step)
    finally:
        sys.setprofile(None)
    assert 2000 <= calls <= 2000 * 10
    assert capsys.readouterr().out == ""


def test_quiet_says_why_a_cell_failed(capsys):
    display = QuietDisplay()
    display.cell_finished(row())
    display.cell_finished(row(status="failed", reason="boom"))
    display.run_finished([], "out")
    out, err = capsys.readouterr()
    assert out == "out\n"
    assert err.count("\n") == 1
    assert "failed: boom" in err


def test_a_note_on_the_dataset_is_shown(capsys):
    PlainDisplay().run_started(1, 1, 1, "out", note="a subset, not GTSRB")
    JsonDisplay().run_started(1, 1, 1, "out", note="a subset, not GTSRB")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "note: a subset, not GTSRB"
    assert json.loads(lines[2])["note"] == "a subset, not GTSRB"


def test_what_is_trained_on_is_shown(capsys, monkeypatch, tmp_path):
    tree = tmp_path / "set"
    for part, count in (("train", 6), ("test", 3)):
        for name in ("ant", "bee", "cat"):
            for k in range(count):
                save(tree / part / name / f"{k}.png", k)
    (tree / "train" / "bee" / "x.gif").write_bytes(b"")
    description = describe(folder(tree), "as requested")
    lines = [f"imagefolder:{tree}: images 8x8 (as requested), 3 classes", "left out 1 file or"]
    PlainDisplay().dataset(description)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert all(part in line for part, line in zip(lines, shown, strict=True))
    QuietDisplay().dataset(description)
    assert capsys.readouterr().out == ""
    console = make_console()
    monkeypatch.setattr(console, "width", 1000)
    LiveDisplay(console).dataset(description)
    assert capsys.readouterr().out.splitlines() == shown
    JsonDisplay().dataset(description)
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["image_size"], event["class_names"]) == (
        "dataset",
        8,
        ["ant", "bee", "cat"],
    )
    assert event["train"]["least"] == {"name": "ant", "images": 6}
    assert event["left_out"][0]["count"] == 1
