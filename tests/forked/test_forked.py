"""A forked command is as one that was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests import forked
from tests.forked import pages, python


def anew(arguments, env, cwd):
    words = [sys.executable, "-m", "kdbench", *arguments]
    return subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--version"], ["list", "--nothing"], ["compare", "a", "b"]])
def test_it_says_and_returns_what_one_that_was_started_does(tmp_path, arguments):
    env = {**os.environ, "KDBENCH_STORE": str(tmp_path)}
    one, other = (run(arguments, env=env, cwd=tmp_path) for run in (forked.run, anew))
    assert (one.returncode, one.stdout, one.stderr) == (
        other.returncode,
        other.stdout,
        other.stderr,
    )


def test_it_takes_folder_and_paths_of_its_own(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "neighbour.py").write_text("")
    (tmp_path / "mine.py").write_text("import neighbour\nimport sys\nsys.exit('here')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    arguments = ["plugins", "--plugin-file", "mine.py"]
    done = forked.run(arguments, env=env, cwd=tmp_path)
    assert "here" in done.stdout + done.stderr


def test_its_end_by_a_signal_is_seen(tmp_path):
    env = dict(os.environ)
    with open(os.devnull, "wb") as nothing:
        streams = {"stdout": nothing.fileno(), "stderr": nothing.fileno()}
        process = forked.start(["list"], env=env, cwd=tmp_path, **streams)
        process.send_signal(signal.SIGSTOP)
        process.kill()
        assert process.wait(300) == -signal.SIGKILL
        assert process.poll() == -signal.SIGKILL


def test_what_a_fork_cannot_do_is_started_anew():
    here = {"PATH": "/bin", "LC_ALL": "C", "KDBENCH_STORE": "a"}
    assert python.same_start(here, here | {"KDBENCH_STORE": "b", "PYTHONPATH": "/x"})
    for name in ("LC_ALL", "PYTHONUTF8", "OMP_NUM_THREADS"):
        assert not python.same_start(here, here | {name: "1"})
    assert python.is_python([sys.executable, "-P", "-m", "kdbench"])
    assert not python.is_python([sys.executable, "-I", "-c", "1"])


def test_large_pages_change_nothing_of_what_a_process_holds():
    held = [os.urandom(1 << 23) for _ in range(2)]
    copies = [bytes(bytearray(each)) for each in held]
    pages.join()
    assert held == copies


def test_only_memory_of_its_own_is_joined():
    lines = (
        "55e0c1a00000-55e0c2e00000 rw-p 00000000 00:00 0          [heap]",
        "7f1a00000000-7f1a00400000 rw-p 00000000 00:00 0",
        "7f1a10000000-7f1a10400000 r--p 00000000 00:00 0",
        "7f1a20000000-7f1a20400000 rw-s 00000000 00:00 0          /dev/shm/letter",
        "7f1a30000000-7f1a30400000 rw-p 00000000 fe:00 7          /usr/lib/a library.so",
        "7ffc00000000-7ffc00400000 rw-p 00000000 00:00 0          [stack]",
    )
    assert list(pages.parse(lines)) == [
        (0x55E0C1A00000, 0x55E0C2E00000),
        (0x7F1A00000000, 0x7F1A00400000),
    ]
