"""Which code a process runs, and what becomes of one that would run other code."""

from __future__ import annotations

import pytest

from kdbench.bench.kinds import Kind
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.bench.work.job import Job
from kdbench.errors import OtherCodeError
from kdbench.loading.catalogue import Catalogue
from kdbench.loading.hosts import Hosts
from kdbench.untrusted.processes.identity import difference, identity
from kdbench.untrusted.processes.order import View
from tests.untrusted.processes.run import ended


def test_it_names_versions_and_places():
    known = identity()
    assert set(known) == {"Python", "kdbench", "code", "torch", "numpy", "torchvision", "timm"}
    assert " at /" in known["torch"]
    assert len(known["code"]) == 12
    assert "call it again" in difference(known, known | {"code": "0" * 12})


def test_it_sees_another_place(tmp_path, monkeypatch):
    """Only where it is not imported yet: what is imported stays what it is."""
    before = identity()
    monkeypatch.delitem(__import__("sys").modules, "timm", raising=False)
    (tmp_path / "timm.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = difference(before, identity())
    assert str(tmp_path / "timm.py") in text
    assert before["timm"] in text


@pytest.fixture
def misled(zygote, monkeypatch):
    """A zygote whose command has another torch than it."""
    other = identity() | {"torch": "1.0 at /elsewhere/torch/__init__.py"}
    monkeypatch.setattr(zygote, "_identity", other)
    return zygote


def test_a_process_with_other_code_never_begins(misled):
    walled = misled.start("walled_acts:sleep", {}, View())
    assert ended(walled) == []
    assert walled.report is None
    assert "torch 1.0 at /elsewhere/torch/__init__.py here" in walled.exit.refusal
    assert f"{identity()['torch']} there" in walled.exit.refusal


def test_the_command_says_so_at_once(misled):
    with pytest.raises(OtherCodeError, match=r"would run other code than the command: torch 1\.0"):
        Catalogue.load(Hosts(misled), [])


def test_a_job_says_so(misled, tmp_path):
    executor = LocalExecutor(zygote=misled)
    (tmp_path / "box" / "tmp").mkdir(parents=True)
    executor.start(Job("key", Kind.CLEAN, "title", tmp_path, {"device": "cpu"}))
    events = []
    while not events:
        events = executor.wait(1.0)
    executor.close()
    assert events[-1].outcome.status == "failed"
    assert "other code than the command" in events[-1].outcome.reason
