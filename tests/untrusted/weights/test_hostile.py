"""Hostile files stay out.

The quick tests take a few of each family; KDBENCH_SOAK=1 takes all of them through the command
line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sizes import SOAK
from tests.untrusted.weights.files import build
from tests.untrusted.weights.good import MODEL
from tests.untrusted.weights.hostile import HOSTILE

soak = pytest.mark.skipif(not SOAK, reason="takes minutes; set KDBENCH_SOAK=1")
_QUICK = (
    "reduce: os.system",
    "legacy: os.system",
    "opcodes: BUILD of an OrderedDict",
    "bare pickle: protocol 4, called safetensors",
    "memory: a terabyte of bytes",
    "TorchScript, called safetensors",
    "zip: a member twice",
    "safetensors: a header of 100 MB",
    "tensor: methods replaced",
    "file: a pipe",
)
_MEMORY = 2 << 30
"""What a hostile file may take at most: bytes of the largest process."""
#: Runs a command from a small process. The kernel counts the memory of the process that starts one
#: as the new one's, and this one may be large.
_MEASURING = """
import os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(used.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _import_command(path):
    """The command line that imports a file as a teacher, but for its store."""
    command = [sys.executable, "-m", "kdbench", "import-teacher", path]
    return [*command, "--model", MODEL, "--dataset", "cifar10"]


def _refused(name, folder, capfd):
    """Import a hostile file by the command line; answers the seconds and bytes that it took."""
    path, canary = build(name, folder)
    started = time.monotonic()
    measured = folder / "measured"
    command = [*_import_command(path), "--store", folder / "store"]
    code = subprocess.call([sys.executable, "-c", _MEASURING, measured, *command])
    took = time.monotonic() - started
    said = capfd.readouterr()
    assert code == 4, said.err
    assert HOSTILE[name].why in said.err
    assert "weights_only=False" not in said.err
    assert said.out == ""
    assert not canary.exists()
    assert not (folder / "store").exists()
    return took, int(measured.read_text()) * 1024


@pytest.mark.parametrize("name", _QUICK)
def test_a_hostile_file_is_refused(tmp_path, capfd, name):
    _, used = _refused(name, tmp_path, capfd)
    assert used <= _MEMORY


@soak
@pytest.mark.parametrize("name", HOSTILE)
def test_every_hostile_file_is_refused_in_time(tmp_path, capfd, name):
    took, used = _refused(name, tmp_path, capfd)
    with capfd.disabled():
        print(f"\n{name}: {took:.1f} s, {used / 2**20:.0f} MiB", end=" ")
    assert used <= _MEMORY


def test_there_are_sixty_hostile_files():
    assert len(HOSTILE) >= 60
    assert set(_QUICK) <= set(HOSTILE)


def _unpickle(path):
    """What an unsuspecting user does, with a name that torch does not take for another format."""
    path = path.rename(path.with_suffix(".pth"))
    code = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, path], capture_output=True, timeout=600
    )


@pytest.mark.parametrize(
    "name",
    [
        name if name == "reduce: os.system" else pytest.param(name, marks=soak)
        for name, case in HOSTILE.items()
        if case.runs
    ],
)
def test_the_payloads_work(tmp_path, name):
    path, canary = build(name, tmp_path)
    assert not canary.exists()
    _unpickle(path)
    assert canary.exists()


@soak
def test_a_killed_parent_leaves_no_reader_behind(tmp_path):
    path, _ = build("time: keys of equal hash", tmp_path)
    parent = subprocess.Popen(
        [*_import_command(path), "--time-limit", "600", "--store", tmp_path / "store"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while not (children := listed.read_text().split()):
        time.sleep(0.1)
    assert len(children) == 1
    time.sleep(8)  # by then it reads
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # Where nobody collects it, what is dead stays listed.
    listed, end = Path("/proc", children[0], "stat"), time.monotonic() + 300
    while listed.exists() and listed.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "the reader lives on"
        time.sleep(0.1)
