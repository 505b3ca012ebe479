"""The process that reads foreign weights is not believed: what it answers, writes and tries."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save, save_file

from kdbench.errors import IntegrityError, KdbenchError, UsageError
from kdbench.untrusted.weights import door, process
from tests.untrusted.kernel import landlock
from tests.untrusted.weights.files import expected_tensors, read, save_zip
from tests.untrusted.weights.good import good


def _play(monkeypatch, tmp_path, script, seconds=300):
    """Read a good file with a process that follows a script instead of kdbench's."""
    monkeypatch.setattr(process, "program", lambda module: script)
    save_zip(tmp_path / "weights")
    return read(tmp_path / "weights", seconds=seconds)


_PLAYED = """
import json, os, sys, time
def say(**answer):
    print(json.dumps(answer), flush=True)
sys.stdin.readline()
say(confined="landlock 7")
say(kind="torch zip")
say(ready=True)
expected = json.loads(sys.stdin.readline())
done = {"wrappers": [], "prefixes": [], "converted": [], "absent": 0}
"""


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("say(done=done)", "left no weights behind"),
        ("os.symlink('/etc/passwd', 'weights'); say(done=done)", "left no weights behind"),
        ("os.mkfifo('weights'); say(done=done)", "left no weights behind"),
        ("open('weights', 'wb').write(b'x' * 1000); say(done=done)", "left no weights behind"),
        ("open('weights', 'wb').truncate(1 << 40); say(done=done)", "left no weights behind"),
        ("say(done={**done, 'wrappers': ['\\x1b[31m']})", "answered nonsense"),
        ("say(done={**done, 'absent': 'many'})", "answered nonsense"),
        ("say(done=[])", "answered nonsense"),
        ("print('{{' * 100)", "failed"),
        ("print('x' * 100_000)", "failed"),
        ("say(refused='\\x1b[31m' + 'x' * 10_000)", r"imported: \\x1b\[31mx{592}$"),
        ("os.kill(os.getpid(), 11)", "signal 11"),
        ("say(memory=True)", "more than 2 GiB"),
    ],
)
def test_whatever_the_reader_answers_is_checked(monkeypatch, tmp_path, script, says):
    with pytest.raises(IntegrityError, match=says):
        _play(monkeypatch, tmp_path, _PLAYED + script)


def test_a_reader_that_says_nothing_is_ended(monkeypatch, tmp_path):
    with pytest.raises(IntegrityError, match="longer than 1 s"):
        _play(monkeypatch, tmp_path, _PLAYED + "time.sleep(6000)", seconds=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fc.bias": None}, "1 missing"),
        ({"more": torch.zeros(1)}, "1 unknown"),
        ({"fc.bias": torch.zeros(11)}, "not asked for"),
        ({"fc.bias": torch.zeros(10).half()}, "not asked for"),
        ({"fc.bias": torch.full((10,), float("nan"))}, "NaN"),
        ({"final_norm.running_var": torch.full((64,), -1.0)}, "negative"),
    ],
)
def test_whatever_the_reader_writes_is_checked(tmp_path, change, says):
    state = {name: tensor for name, tensor in (good() | change).items() if tensor is not None}
    save_file(state, tmp_path / "weights")
    with pytest.raises(IntegrityError, match=says):
        door._read_back(tmp_path / "weights", expected_tensors(), good())


def test_a_network_s_tables_cannot_be_replaced(tmp_path):
    # Such numbers are places in memory to the network that uses them.
    network = {"index": torch.arange(4), "x": torch.zeros(1)}
    expected = {"index": ((4,), "int64"), "x": ((1,), "float32")}
    (tmp_path / "weights").write_bytes(
        save({"index": torch.tensor([0, 1, 2, 10**9]), "x": torch.zeros(1)})
    )
    with pytest.raises(IntegrityError, match="'index' is not what the network was built with"):
        door._read_back(tmp_path / "weights", expected, network)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("raise SystemExit('no such library')", "no such library"),
        ("print(1, flush=True)", "it said nothing"),
    ],
)
def test_a_process_that_cannot_start_is_not_the_file_s_fault(monkeypatch, tmp_path, script, says):
    with pytest.raises(KdbenchError, match=says) as caught:
        _play(monkeypatch, tmp_path, script)
    assert not isinstance(caught.value, IntegrityError | UsageError)


_TAKEN_OVER = """
import os
from pathlib import Path
import kdbench.untrusted.weights.kinds
from kdbench.errors import IntegrityError
def run():
    # What the system has may be run, confined as well; not what came in or was made here.
    Path("made").write_text("#!/bin/sh\\n")
    os.chmod("made", 0o700)
    os.posix_spawn("made", ["made"], {})
def taken_over(path):
    assert open(path, "rb").read(2) == b"PK"
    attempts = {
        "read": lambda: open("@/secret"), "write": lambda: open("@/canary", "w"),
        "list": lambda: os.listdir("@"),
        "parent": lambda: open(f"/proc/{os.getppid()}/environ"), "run": run,
    }
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
            done.append(name)
        except OSError:
            pass
    raise IntegrityError(f"did {done} with {sorted(os.environ)}")
kdbench.untrusted.weights.kinds.kind_of = taken_over
"""


def test_code_that_runs_in_the_reader_gets_nowhere(monkeypatch, tmp_path):
    """As if a reader had been taken over by the file, after it was confined."""
    (tmp_path / "secret").write_text("secret")
    start, call, rest = process.program("kdbench.untrusted.weights.child").rpartition("begin(")
    monkeypatch.setenv("KDBENCH_TOKEN", "secret")
    taken_over = _TAKEN_OVER.replace("@", str(tmp_path))
    with pytest.raises(IntegrityError, match="was not imported: did") as caught:
        _play(monkeypatch, tmp_path, start + taken_over + call + rest)
    said = str(caught.value)
    assert not re.search("HOME|USER|'PATH|TOKEN", said)
    if not landlock():
        pytest.skip("this kernel has no Landlock, so nothing else is kept from it")
    assert "did []" in said
    assert not (tmp_path / "canary").exists()
