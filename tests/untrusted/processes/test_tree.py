"""The memory of processes together."""

import os
import subprocess
import sys

import pytest

from kdbench.untrusted.processes.tree import memory_mb

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is read from /proc")
MAP = """
import mmap, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
own = bytearray(b"x") * (int(sys.argv[2]) << 20)
sum(mapped[:: mmap.PAGESIZE])
print("ready", flush=True)
sys.stdin.read()
"""


@LINUX
def test_a_file_that_several_have_open_counts_once(tmp_path):
    file = tmp_path / "library"
    file.write_bytes(os.urandom(1 << 20) * 100)
    command = [sys.executable, "-c", MAP, str(file), "50"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        for process in (first, second):
            assert process.stdout.readline() == b"ready\n"
        one, both = memory_mb([first.pid]), memory_mb([first.pid, second.pid])
        for process in (first, second):
            process.stdin.close()
    assert 150 < one < 200
    assert 45 < both - one < 90


def test_a_process_that_has_ended_takes_none():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert memory_mb([process.pid]) == 0
