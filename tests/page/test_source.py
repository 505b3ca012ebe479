"""What a page takes of a run's folder, which may be a stranger's."""

from __future__ import annotations

import io
import json
import os

import pytest
from PIL import Image

from kdbench.errors import ConfigError
from kdbench.page.build import page_of
from kdbench.page.pictures import MOST_SHOWN, MOST_SHOWN_BYTES, read_pictures
from kdbench.page.source import Run, read_source
from tests.page.runs import mixed, write_run
from tests.report.report_rows import cell

NAME = "trigger-lba-wrn16_2-seed0.png"


def picture(path, size=(300, 200), noise=False):
    image = Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1])) if noise else None
    (image or Image.new("RGB", size, "red")).save(path)


def test_a_run_with_all_that_lies_beside_it(tmp_path):
    run = write_run(
        tmp_path / "run", mixed(), {"device": "cpu"}, {"7-distill.txt": "distill x\n\none\ntwo\n"}
    )
    picture(run / NAME)
    source = read_source([run])
    assert len(source.rows) == 18
    (only,) = source.runs
    assert (only.name, only.record) == ("run", {"device": "cpu"})
    (log,) = only.logs
    assert (log.name, log.title, log.lines) == (
        "logs/7-distill.txt",
        "distill x",
        ("", "one", "two"),
    )
    assert [each.about for each in source.pictures.shown] == ["lba-wrn16_2"]


def test_of_a_file_only_the_rows_are_taken(tmp_path):
    run = write_run(tmp_path / "run", mixed(), {"device": "cpu"})
    picture(run / NAME)
    source = read_source([run / "results.csv"])
    assert source.runs == (Run("run/results.csv", {}),)
    assert source.pictures.shown == ()


def test_several_runs_are_one_page(tmp_path):
    first = write_run(tmp_path / "first", [cell(seed=0)], {"device": "a"})
    second = write_run(tmp_path / "second", [cell(seed=0), cell(seed=1)])
    source = read_source([first, second])
    assert [row["seed"] for row in source.rows] == [0, 1]
    assert [run.name for run in source.runs] == ["first", "second"]


def test_runs_that_do_not_belong_together_are_refused(tmp_path):
    first = write_run(tmp_path / "first", [cell()])
    second = write_run(tmp_path / "second", [cell(seed=1, preset="paper")])
    with pytest.raises(ConfigError, match="presets are never ranked together"):
        read_source([first, second])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b"17",
        b'{"command": 3, "stages": "x", "datasets": [1, {}], "plugins": [], "started": "x"}',
        b'{"command": [[]], "stages": [{}, 1], "versions": 1, "papers": {"x": 1, "y": {}}}',
        b'{"started": 1e300, "finished": -1, "stages": [{"seconds": "x", "status": []}]}',
        b'{"started": NaN, "datasets": {"a": 1}, "spec": {"a": 1}, "note": ["a", 1]}',
        b'{"command": ["kdbench run"], "date": ["2026"], "papers": {"a.b": {"title": 1}}}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"command": ["run", "\\u001b[2J\\ud800<b>"]}',
    ],
)
def test_any_record_makes_a_page(tmp_path, content):
    run = write_run(tmp_path / "run", mixed())
    (run / "run.json").write_bytes(content)
    page = page_of(read_source([run]))
    assert "<h2>What was run</h2>" in page
    page.encode()


@pytest.mark.parametrize("name", ["run.json", NAME, "logs/7-distill.txt"])
@pytest.mark.parametrize("instead", ["link", "pipe", "folder", "large", "bytes"])
def test_nothing_of_a_folder_is_followed_or_waited_for(tmp_path, name, instead):
    """A link in the folder of a stranger would show a file of whoever reads it."""
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"device": "SECRET"}) + "\nSECRET\nSECRET")
    run = write_run(tmp_path / "run", mixed(), logs={"1-clean.txt": "x"})
    path = run / name
    if instead == "link":
        if name == NAME:
            Image.new("RGB", (9, 9)).save(secret, "PNG")
        path.symlink_to(secret)
    elif instead == "pipe":
        os.mkfifo(path)
    elif instead == "folder":
        path.mkdir()
    elif instead == "large":
        with path.open("wb") as file:
            file.truncate(1 << 33)
    else:
        path.write_bytes(b"\xff\x00\x1b[2J" * 100)
    source = read_source([run])
    assert source.pictures.shown == ()
    page = page_of(source)
    assert "SECRET" not in page
    assert "\x1b" not in page


def test_a_folder_of_logs_that_is_a_link(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "1-clean.txt").write_text("SECRET\nSECRET")
    run = write_run(tmp_path / "run", mixed())
    (run / "logs").symlink_to(secret)
    assert read_source([run]).runs[0].logs == ()


def test_the_end_of_a_log(tmp_path):
    lines = [f"line {n} \x1b[31m" + "x" * 1000 for n in range(100)]
    run = write_run(tmp_path / "run", mixed(), logs={"3-clean.txt": "\n".join(["title", *lines])})
    (log,) = read_source([run]).runs[0].logs
    assert len(log.lines) == 20
    assert log.lines[-1].startswith("line 99 \\x1b[31mxxx")
    assert max(map(len, log.lines)) == 400


def test_a_picture_is_written_anew_and_small(tmp_path):
    picture(tmp_path / NAME, (300, 200), noise=True)
    assert (tmp_path / NAME).stat().st_size > 2 * MOST_SHOWN_BYTES
    (shown,) = read_pictures([tmp_path]).shown
    assert len(shown.png) <= MOST_SHOWN_BYTES
    with Image.open(io.BytesIO(shown.png)) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert image.size == (shown.width, shown.height)


def test_a_picture_that_cannot_be_made_small_is_named(tmp_path):
    picture(tmp_path / NAME, (1000, 700), noise=True)
    pictures = read_pictures([tmp_path])
    assert (pictures.shown, pictures.left) == ((), (NAME,))


def test_one_picture_for_each_attack_the_rest_is_named(tmp_path):
    for number in range(MOST_SHOWN + 3):
        for seed in (10, 2):
            picture(tmp_path / f"trigger-a{number:02d}-wrn16_2-seed{seed}.png")
    pictures = read_pictures([tmp_path])
    assert len(pictures.shown) == MOST_SHOWN
    assert {shown.seed for shown in pictures.shown} == {2}
    assert len(pictures.left) == 2 * (MOST_SHOWN + 3) - MOST_SHOWN


@pytest.mark.parametrize("what", ["text", "bomb", "cut", "gif"])
def test_a_picture_that_is_none(tmp_path, what):
    path = tmp_path / NAME
    if what == "text":
        path.write_text("<svg onload=alert(1)>")
    elif what == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    elif what == "gif":
        Image.new("RGB", (9, 9)).save(path, "GIF")
    else:
        picture(path, noise=True)
        path.write_bytes(path.read_bytes()[:500])
    pictures = read_pictures([tmp_path])
    assert (pictures.shown, pictures.left) == ((), (NAME,))


@pytest.mark.parametrize(
    ("cells", "missing"), [(20, 2), (18, 0), (1, 0), (None, 0), ("many", 0)], ids=str
)
def test_a_run_says_how_many_of_its_cells_have_no_row(tmp_path, cells, missing):
    assert read_source([write_run(tmp_path / "run", mixed(), {"cells": cells})]).missing == missing
