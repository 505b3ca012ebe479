"""Walled processes do their work, and keep it to themselves."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from kdbench.untrusted.processes.environment import temporary_environment
from tests.untrusted.processes.run import ended, first, start

WALLS = {"all": (), "no namespaces": ("namespaces",), "no proc": ("proc",)}


@pytest.mark.parametrize("without", WALLS.values(), ids=WALLS)
def test_a_plugin_can_work(zygote, sandbox, without):
    # Workers of a data loader listen in the temporary folder, and a socket's path is short.
    box, log = sandbox / "b", sandbox / "log"
    box.mkdir()
    walled = start(
        zygote,
        "work",
        # Without namespaces they get neither sockets nor shared memory.
        {"box": str(box), "workers": 0 if without == WALLS["no namespaces"] else 2},
        write=(box,),
        without=without,
        log=log,
        environment=temporary_environment(box),
    )
    lines = ended(walled)
    assert lines, log.read_text()
    assert lines == [{"seen": 32, "threads": 2, "weights": 9, "picture": True, "program": "True\n"}]
    assert walled.exit.code == 0


def test_without_namespaces_a_plugin_has_no_worker_processes(zygote, sandbox):
    """Their sockets and shared memory would reach those of others."""
    box, log = sandbox / "b", sandbox / "log"
    box.mkdir()
    order = {"box": str(box), "workers": 2}
    tmp = temporary_environment(box)
    walled = start(
        zygote, "work", order, write=(box,), without=("namespaces",), log=log, environment=tmp
    )
    assert ended(walled) == []
    assert walled.exit.code != 0
    assert "PermissionError" in log.read_text()


def test_killing_everybody_kills_itself_at_most(zygote):
    neighbour = start(zygote, "sleep")
    first(neighbour)
    # It must not send root's signal to this very test, so it first looks where it lives.
    walled = start(zygote, "kill_everybody", {"kill": True})
    answers = ended(walled)
    if "namespaces" not in walled.report.text:
        pytest.skip("this kernel gives no namespaces")
    assert answers[-1] == "still here"
    assert walled.exit.code == 0
    neighbour.look()
    assert neighbour.exit is None
    neighbour.close()


def test_without_namespaces_it_may_signal_nobody(zygote):
    walled = start(zygote, "kill_everybody", {"kill": False}, without=("namespaces",))
    answers = ended(walled)
    if "landlock 7" not in walled.report.text:
        pytest.skip("this kernel has no Landlock 7")
    assert answers == [errno.EPERM, errno.EPERM, "still here"]


def test_processes_are_limited(zygote):
    walled = start(zygote, "multiply", processes=310)
    ((count, error),) = ended(walled)
    if "namespaces" not in walled.report.text:
        pytest.skip("this kernel gives no namespaces")
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if os.geteuid() == 0 and kernel < (6, 14):
        pytest.skip("this kernel has no such limit for root")
    assert count < 310
    assert error == "BlockingIOError"
    assert walled.exit.code == 0


def test_files_and_shared_memory_are_limited(zygote, tmp_path):
    walled = start(zygote, "fill", {"box": str(tmp_path)}, write=(tmp_path,), file_mb=8, shm_mb=4)
    answers = ended(walled)
    full = errno.ENOSPC if "namespaces" in walled.report.text else errno.EFBIG
    assert answers == [[errno.EFBIG, full]]
    assert (tmp_path / "file").stat().st_size == 8 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="it reads its memory in /proc")
def test_a_process_holds_nothing_of_its_neighbours(zygote, tmp_path):
    word = "a-secret-that-a-neighbour-was-told"
    neighbours = []
    for _ in range(3):
        walled = start(zygote, "sleep", {"secret": word}, environment={"SECRET": word})
        first(walled)
        neighbours.append(walled)
    # It finds what it was told itself, so the search works.
    alone = ended(start(zygote, "search", {"drow": word[::-1]}, confined=False))
    both = ended(start(zygote, "search", {"drow": word[::-1], "w": word}, confined=False))
    assert alone[0] < both[0]
    other = ended(start(zygote, "search", {"drow": "nowhere-to-be-seen!"[::-1]}, confined=False))
    assert alone == other
    for walled in neighbours:
        walled.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it counts descriptors in /proc")
def test_descriptors_that_it_sends_stay_nowhere(zygote):
    walled = start(zygote, "hand_over")
    before = len(os.listdir("/proc/self/fd"))
    assert ended(walled) == ["x"] * 50
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV])
def test_its_own_signals_end_it_without_namespaces(zygote, number):
    walled = start(zygote, "end", {"signal": int(number)}, without=("namespaces",))
    ended(walled)
    assert walled.exit.code == -number


@pytest.mark.parametrize("without", [(), ("landlock",), ("namespaces",)])
def test_of_a_folder_with_many_files_only_those_named_are_open(zygote, tmp_path, without):
    paths = [tmp_path / f"{n}.txt" for n in range(200)]
    for path in paths:
        path.write_text("text")
    order = {"paths": [str(path) for path in paths], "folder": str(tmp_path)}
    walled = start(zygote, "open_files", order, read=tuple(paths[:100]), without=without)
    ((opened, listed),) = ended(walled)
    if not {"namespaces", "landlock"} & set(walled.report.text.replace(",", "").split()):
        pytest.skip("this kernel has neither namespaces nor Landlock")
    assert opened == order["paths"][:100]
    assert listed in (0, 100)


@pytest.mark.parametrize("without", [(), ("landlock",)])
def test_a_folder_in_shared_memory_is_read_and_nothing_beside_it(zygote, without):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name, "data")
        (folder / "train").mkdir(parents=True)
        paths = [folder / "train" / "a.txt", Path(name, "secret.txt")]
        for path in paths:
            path.write_text("text")
        order = {"paths": [str(path) for path in paths], "folder": str(folder)}
        walled = start(zygote, "open_files", order, read=(folder,), without=without)
        ((opened, listed),) = ended(walled)
    if "namespaces" not in walled.report.text:
        pytest.skip("this kernel gives no namespaces")
    assert (opened, listed) == ([str(paths[0])], 1)
