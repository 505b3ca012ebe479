"""A coordinator and its walled processes: what goes over, how they end, what they can hold up."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from kdbench.untrusted.processes.client import Zygote, wait
from kdbench.untrusted.processes.order import Exit
from tests.untrusted.processes.run import ended, first, start, until


def test_an_order_and_links_reach_the_process(zygote, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_STORE", "secret")
    mine, theirs = socket.socketpair()
    large = "x" * 3_000_000  # more than any buffer of a socket
    with mine, theirs:
        links = {"peer": theirs.fileno()}
        walled = start(zygote, "tell", {"a": large}, links=links, environment={"TMPDIR": "/x"})
        said, more = ended(walled)
        assert mine.recv(100) == b"from the process"
    assert walled.report is not None
    assert walled.pid
    assert walled.exit == Exit(0, walled.exit.peak_mb)
    assert walled.exit.peak_mb > 50
    assert said["order"] == {"a": large}
    assert said["links"] == ["peer"]
    assert said["environment"]["TMPDIR"] == "/x"
    assert "KDBENCH_STORE" not in said["environment"]
    # null, log twice, channel, link, and the folder that lists them
    assert more == {"handles": 6, "folder": "/"}


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"code": 0}, 0),
        ({"code": 3}, 3),
        ({"abort": True}, -signal.SIGABRT),
        *(
            ({"signal": int(number)}, -number)
            for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
        ),
    ],
)
def test_its_end_is_told_as_it_was(zygote, tmp_path, order, code):
    walled = start(zygote, "end", order, log=tmp_path / "log")
    ended(walled)
    assert walled.exit.code == code
    if code >= 0:
        assert (tmp_path / "log").read_text() == "a last word\n"
    if code in (-signal.SIGABRT, -signal.SIGSEGV):
        assert "walled_acts.py" in (tmp_path / "log").read_text()  # where it was


def test_an_entry_that_is_not_there_is_in_the_log(zygote, tmp_path):
    walled = start(zygote, "nothing", log=tmp_path / "log")
    ended(walled)
    assert walled.exit.code == 70
    assert "AttributeError" in (tmp_path / "log").read_text()


def test_it_is_killed_with_all_that_it_started(zygote):
    walled = start(zygote, "survive", {"mb": 200, "leaves": False})
    assert first(walled) == "survivor"
    assert walled.memory_mb() > 200
    walled.kill()
    ended(walled)
    assert walled.exit.code == -signal.SIGKILL
    assert walled.memory_mb() == 0


def test_a_survivor_counts_and_ends_with_its_job(zygote):
    walled = start(zygote, "survive", {"mb": 200, "leaves": True})
    assert first(walled) == "survivor"
    assert walled.memory_mb() > 200
    walled.say(b"end")
    # The survivor holds the channel open, so its end is the end of the survivor.
    ended(walled)
    assert walled.exit.code == 0


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_flood_takes_bounded_time_and_memory(zygote, end):
    walled = start(zygote, "flood", {"end": end})
    until(walled, lambda: walled.report is not None)
    bytes_heard, wakes, begin = 0, 0, time.monotonic()
    while (passed := time.monotonic() - begin) < 1.0:
        wait([walled], 1.0)
        bytes_heard += sum(map(len, walled.hear()))
        wakes += 1
    walled.kill()
    until(walled, lambda: walled.exit is not None)
    assert bytes_heard <= (passed * 10 + 2) * 2**20
    assert wakes < 500
    assert walled.exit.code == -signal.SIGKILL
    walled.close()


def test_saying_waits_for_nobody(zygote):
    walled = start(zygote, "sleep")
    first(walled)
    for _ in range(10):
        walled.say(b"x" * 1_000_000)
    walled.kill()
    ended(walled)


def test_what_is_said_arrives(zygote):
    walled = start(zygote, "repeat")
    walled.say(b'"' + b"x" * 2_000_000 + b'"')
    assert first(walled) == "x" * 2_000_000
    walled.close()


def test_the_end_of_the_zygote_is_the_end_of_all():
    zygote = Zygote()
    walled = start(zygote, "sleep")
    first(walled)
    supervisor = walled.pid
    zygote._process.kill()
    ended(walled)  # the process held the channel open
    assert walled.exit is not None
    _gone(supervisor)
    # The next start begins a new zygote.
    zygote._process.wait()
    again = start(zygote, "end", {"code": 0})
    ended(again)
    assert again.exit.code == 0
    zygote.close()


def test_closing_a_zygote_ends_all():
    zygote = Zygote()
    walled = start(zygote, "sleep")
    first(walled)
    supervisor = walled.pid
    zygote.close()
    ended(walled)
    _gone(supervisor)


def test_a_supervisor_that_is_killed_is_a_crash(zygote):
    walled = start(zygote, "sleep")
    first(walled)
    os.kill(walled.pid, signal.SIGKILL)
    ended(walled)
    assert walled.exit == Exit(None)


def _gone(pid):
    for _ in range(6000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")
