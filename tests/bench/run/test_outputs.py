"""A disk that ends, at every write of a run: what was computed is told and stays in the store."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from kdbench import _files
from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.events import Quiet
from kdbench.bench.run.outputs import Outputs
from kdbench.bench.store.artefacts import Store
from kdbench.errors import ConfigError
from kdbench.page.build import page_of
from kdbench.page.source import read_source
from tests.runs import ANY_TEACHER, go

SPEC = RunSpec(
    attacks=("badnets",),
    pairs=(("wrn10_1", "wrn10_1"),),
    numerics="fp32",
    controls=False,
    overrides={f"{stage}.epochs": "1" for stage in ("clean", "poison", "distill")} | ANY_TEACHER,
)


class Listening(Quiet):
    """Remembers how a run ended."""

    complaint, rows, order = "", None, ()

    def not_written(self, complaint):
        self.complaint, self.order = complaint, (*self.order, "complaint")

    def run_finished(self, rows, out):
        self.rows, self.order = rows, (*self.order, "table")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def run(registry, stripes, monkeypatch, store):
    """Runs the request, whose stages the store has after the first time."""
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)

    def run(out):
        heard = Listening()
        go(SPEC, registry, out, store=store, reporter=heard)
        return heard

    return run


def refuse(monkeypatch, out, number, at):
    """Let the system refuse to put a file into ``out`` from the write ``at`` on."""
    count, replace = iter(range(10_000)), os.replace

    def full(source, target):
        if str(target).startswith(str(out)) and next(count) >= at:
            raise OSError(number, os.strerror(number), str(source))
        return replace(source, target)

    monkeypatch.setattr(_files.os, "replace", full)


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES]
)
def test_at_the_first_write_the_run_is_refused(run, tmp_path, monkeypatch, number):
    refuse(monkeypatch, tmp_path / "out", number, 0)
    with pytest.raises(ConfigError, match=r"cannot be written to .*; name another folder"):
        run(tmp_path / "out")


def test_at_every_later_write_the_rows_are_there(run, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    assert whole.complaint == ""
    (row,) = whole.rows
    assert row["status"] == "ok"
    complaints = []
    for at in range(1, 10):
        with monkeypatch.context() as patch:
            refuse(patch, tmp_path / f"out{at}", errno.ENOSPC, at)
            heard = run(tmp_path / f"out{at}")
        assert heard.rows == whole.rows
        assert heard.order == ("complaint", "table")
        if not heard.complaint:
            break
        complaints.append(heard.complaint)
        assert f"could not be written to {tmp_path / f'out{at}'} (No space left" in heard.complaint
    assert len(complaints) >= 3
    assert "results.csv" in complaints[0]
    assert complaints[-2].startswith("run.json, report.html could not")
    assert complaints[-1].startswith("report.html could not")
    # The next call finds everything, and writes it elsewhere.
    again = run(tmp_path / "again")
    assert again.complaint == ""
    assert (tmp_path / "again" / "results.csv").read_bytes() == (
        tmp_path / "whole" / "results.csv"
    ).read_bytes()


@pytest.mark.parametrize("instead", ["nothing", "file"])
def test_a_folder_that_is_gone(run, tmp_path, monkeypatch, instead):
    out, cell_finished = tmp_path / "out", Listening.cell_finished

    def gone(self, row):
        shutil.rmtree(out)
        if instead == "file":
            out.write_text("")
        return cell_finished(self, row)

    monkeypatch.setattr(Listening, "cell_finished", gone)
    heard = run(out)
    assert [row["status"] for row in heard.rows] == ["ok"]
    assert "results.csv" in heard.complaint
    assert not out.is_dir()


def test_a_picture_or_a_log_that_cannot_be_written_is_told(tmp_path):
    outputs = Outputs(tmp_path)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    outputs.write("trigger-x.png", full)
    assert outputs.complaint() == f"trigger-x.png could not be written to {tmp_path} (No space " + (
        "left on device)"
    )
    outputs.write("trigger-x.png", lambda path: path.write_text(""))
    assert outputs.complaint() == ""


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name another folder"):
        Outputs(tmp_path / "file" / "out")


def test_a_run_ends_with_its_page(run, tmp_path):
    """The same page that `kdbench report` makes of the folder."""
    assert run(tmp_path / "out").complaint == ""
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page == page_of(read_source([tmp_path / "out"]))
    assert "badnets" in page


def test_an_interrupted_run_has_the_page_of_its_rows(run, tmp_path, monkeypatch):
    def interrupted(self, row):
        raise KeyboardInterrupt

    monkeypatch.setattr(Listening, "cell_finished", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    assert (tmp_path / "out" / "results.csv").exists()
    assert (tmp_path / "out" / "report.html").exists()


def test_whatever_is_wrong_with_the_page_the_rows_are_there(run, tmp_path, monkeypatch):
    def broken(source, path):
        raise ZeroDivisionError("of a page")

    monkeypatch.setattr("kdbench.page.build.write_page", broken)
    heard = run(tmp_path / "out")
    assert [row["status"] for row in heard.rows] == ["ok"]
    assert heard.complaint == f"report.html could not be written to {tmp_path / 'out'} (of a page)"
    assert (tmp_path / "out" / "results.csv").exists()


def test_without_a_row_there_is_no_page(tmp_path):
    outputs = Outputs(tmp_path)
    (tmp_path / "results.csv").write_text("schema\n")
    outputs.report()
    assert outputs.complaint().startswith("report.html could not be written")
    assert not (tmp_path / "report.html").exists()
