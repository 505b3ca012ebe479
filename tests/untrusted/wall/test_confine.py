"""What a confined process can still do, and what it cannot; each attempt succeeds without the
confinement."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.untrusted.wall.confine import confine
from kdbench.untrusted.wall.paths import _holds_private, device_paths, interpreter_paths
from tests.untrusted.kernel import landlock, python

_SINCE = {"truncate": 3, "connect": 4, "listen": 4, "signal the parent": 6}
"""The first Landlock ABI that forbids an attempt, where that is not 1."""


def _probe(tmp_path, *, confined):
    out, elsewhere = tmp_path / f"out-{confined}", tmp_path / f"elsewhere-{confined}"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("secret")
    (elsewhere / "victim").write_text("victim")
    with socket.create_server(("127.0.0.1", 0)) as server:
        request = {
            "confined": confined,
            "out": str(out),
            "secret": str(elsewhere / "secret"),
            "port": server.getsockname()[1],
        }
        request["victim"] = str(elsewhere / "victim")
        command = [sys.executable, "-I", str(Path(__file__).with_name("probe.py"))]
        ran = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=120,
            cwd=elsewhere,
            env={"TMPDIR": str(out)},
        )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), elsewhere


def test_a_confined_process_trains_and_reaches_nothing_else(tmp_path):
    abi = landlock()
    if not abi:
        pytest.skip("this kernel has no Landlock")
    report, elsewhere = _probe(tmp_path, confined=True)
    assert report["how"] == f"landlock {abi}"
    assert report["trained"]
    assert report["kept"]
    reached = {name for name, outcome in report["done"].items() if outcome is True}
    assert reached == {name for name in report["done"] if abi < _SINCE.get(name, 1)}
    assert (elsewhere / "victim").read_text() == "victim"
    assert not (elsewhere / "new").exists()


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may make devices, so that attempt fails anyway"
)
def test_the_attempts_succeed_without_confinement(tmp_path):
    report, _ = _probe(tmp_path, confined=False)
    assert report["trained"]
    assert {name: outcome for name, outcome in report["done"].items() if outcome is not True} == {}


def test_confining_a_process_with_threads_is_refused():
    if not landlock():
        pytest.skip("this kernel has no Landlock")
    code = "import threading\nfrom kdbench.untrusted.wall.confine import confine\n"
    code += "threading.Timer(5, print).start()\nconfine([], [])"
    assert "RuntimeError: confine() restricts the calling thread only" in python(code).stderr


def test_without_landlock_it_says_none(monkeypatch):
    monkeypatch.setattr("kdbench.untrusted.wall.confine.sys.platform", "darwin")
    assert confine([], []) == "none"


@pytest.mark.parametrize(
    ("abi", "rights", "size"),
    [(1, 0x1FFF, 8), (2, 0x3FFF, 8), (3, 0x7FFF, 8), (4, 0x7FFF, 16), (5, 0xFFFF, 16)],
)
def test_an_older_kernel_is_asked_for_what_it_knows(monkeypatch, abi, rights, size):
    import struct

    rulesets = []

    class OldKernel:
        def syscall(self, number, attributes, length, *rest):
            if attributes is None:
                return abi
            if number == 444:
                rulesets.append((attributes, length.value))
                return os.open(os.devnull, os.O_RDONLY)
            return 0

        def prctl(self, *_):
            return 0

        capget = capset = prctl

    monkeypatch.setattr("kdbench.untrusted.wall.kernel.ctypes.CDLL", lambda *_, **__: OldKernel())
    monkeypatch.setattr("kdbench.untrusted.wall.confine._threads", lambda: 1)
    assert confine([], []) == f"landlock {abi}"
    ((attributes, length),) = rulesets
    assert len(attributes) == length == size
    assert struct.unpack("=Q", attributes[:8]) == (rights,)


def test_the_interpreter_needs_no_private_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", ["", "relative", str(tmp_path), "/", *sys.path])
    paths = interpreter_paths()
    assert Path(sys.prefix) in paths
    forbidden = [
        Path(folder)
        for folder in (
            "/",
            "/proc",
            "/dev",
            "/sys",
            "/etc",
            "/home",
            "/tmp",
            "/root",
            "/proc/1",
            "/dev/shm",
        )
    ]
    for folder in (
        *forbidden,
        tmp_path,
        tmp_path / "home",
        Path("/etc/shadow"),
        Path("/etc/ssl/private"),
    ):
        assert not [path for path in paths if folder.is_relative_to(path.resolve())], folder
    assert not any(_holds_private(path) for path in paths)


def test_devices_of_a_gpu_are_found_by_their_names(monkeypatch):
    threads = Path("/proc/self/task")
    assert all(path.is_char_device() for path in device_paths() if path != threads)
    monkeypatch.setattr(
        "kdbench.untrusted.wall.paths.Path.glob", lambda self, name: [self / name.replace("*", "0")]
    )
    monkeypatch.setattr(
        "kdbench.untrusted.wall.paths.Path.is_char_device", lambda self: self.name != "kfd"
    )
    assert device_paths() == [
        Path("/dev", name) for name in ("nvidia0", "nvidia-caps/0", "dri/render0")
    ] + [threads]
    monkeypatch.setattr(
        "kdbench.untrusted.wall.paths.Path.is_char_device", lambda self: self.name == "kfd"
    )
    assert device_paths() == [Path("/dev/kfd")]  # AMD's driver names no threads


@pytest.mark.parametrize(
    ("limited", "action", "error"),
    [
        ("memory_bytes=200 << 20", "bytes(300 << 20)", "MemoryError"),
        (
            "file_bytes=1000",
            "file = open(sys.argv[1], 'wb', 0); file.write(bytes(1000)); file.write(b'x')",
            "File too large",
        ),
        (
            "memory_bytes=200 << 20, address_space=True",
            "import mmap; mmap.mmap(-1, 300 << 20)",
            "Cannot allocate memory",
        ),
    ],
)
def test_limits_hold(tmp_path, limited, action, error):
    code = "import sys\nfrom kdbench.untrusted.wall.limits import limit\n{}\n" + action
    assert error in python(code.format(f"limit({limited})"), tmp_path / "file").stderr
    assert python(code.format("limit()"), tmp_path / "file").returncode == 0


def test_processor_time_is_limited():
    code = "from kdbench.untrusted.wall.limits import limit\nlimit(cpu_s=1)\nwhile True: pass"
    assert python(code).returncode < 0
