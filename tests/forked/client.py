"""Asks for forked processes, and does with them what one does with ``subprocess.Popen``."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.forked import python
from tests.sizes import SOAK

_LENGTH = struct.Struct("=I")
_ROOT = Path(__file__).parents[2]
#: That of the server.
_ENVIRONMENT = dict(os.environ)
_COLD = SOAK or os.environ.get("KDBENCH_COLD") == "1"


class Forked:
    """A forked process. Its streams are files or descriptors, never pipes to the caller."""

    def __init__(self, address: str, request: dict[str, Any], streams: Sequence[int]) -> None:
        self.args, self.returncode = request["arguments"], None
        self._channel = _connected(address)
        self._answers = self._channel.makefile("rb")
        content = json.dumps(request).encode()
        socket.send_fds(self._channel, [_LENGTH.pack(len(content))], streams)
        self._channel.sendall(content)
        self.pid: int = json.loads(self._answers.readline())["pid"]

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._channel.settimeout(None)
            if timeout is not None and not _readable(self._channel, timeout):
                raise subprocess.TimeoutExpired(self.args, timeout)
            said = self._answers.readline()
            # Without a word the process that forked it has ended, and took it along.
            self.returncode = json.loads(said)["exit"] if said else -signal.SIGKILL
            self._answers.close()
            self._channel.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _connected(address: str) -> socket.socket:
    """A connection, as soon as somebody listens there."""
    end = time.monotonic() + 600
    while not os.path.exists(address):
        assert time.monotonic() < end, "the process that forks commands did not start"
        time.sleep(0.02)
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(address)
    return channel


def _readable(channel: socket.socket, seconds: float) -> bool:
    return bool(select.select([channel], [], [], seconds)[0])


class _Server:
    """The process that is forked. It begins to import when the first test asks."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="kdb-")
        self.address = os.path.join(self._folder, "s")
        script = str(Path(__file__).with_name("server.py"))
        self._process = subprocess.Popen(
            [sys.executable, script, self.address, str(_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
        )

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def _server() -> _Server:
    return _Server()


@contextlib.contextmanager
def served() -> Iterator[None]:
    """Let the zygotes of this process be forked. The server ends afterwards."""
    from kdbench.untrusted.processes import client

    if not _COLD:
        fork_zygotes(lambda: _server().address, _ENVIRONMENT)
    yield
    client.subprocess = subprocess
    if _server.cache_info().currsize:
        _server().close()
        _server.cache_clear()


def start(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    env: dict[str, str],
    cwd: str | os.PathLike[str],
    stdin: int | None = None,
    stdout: int,
    stderr: int,
    start_new_session: bool = False,
) -> Forked | subprocess.Popen[bytes]:
    """``subprocess.Popen`` of ``python -m kdbench ARGUMENT...``, or nearly so.

    Args:
        arguments: after ``python -m kdbench``.
        stdin: a descriptor, as the other two. None: nothing to read.
    """
    words = [sys.executable, "-m", "kdbench", *map(os.fspath, arguments)]
    here = {"cwd": os.fspath(cwd), "env": env, "start_new_session": start_new_session}
    with open(os.devnull, "rb") as nothing:
        streams = [nothing.fileno() if stdin is None else stdin, stdout, stderr]
        if not _COLD and python.same_start(env, _ENVIRONMENT):
            request = _request(words, _ENVIRONMENT, **here)
            return Forked(f"{_server().address}.large", request, streams)
        return subprocess.Popen(
            words,
            **here,
            **dict(zip(("stdin", "stdout", "stderr"), streams, strict=True)),
            # A shell without a terminal ignores SIGINT for what it runs in the background, and
            # children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def _request(
    arguments: Sequence[str],
    server: dict[str, str],
    *,
    env: dict[str, str],
    cwd: str,
    start_new_session: bool,
) -> dict[str, Any]:
    return {
        "arguments": list(arguments),
        "environment": env,
        "folder": cwd,
        "session": start_new_session,
        "server": server,
    }


def run(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    env: dict[str, str],
    cwd: str | os.PathLike[str],
    said: str = "",
    timeout: float = 1800,
) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` of ``python -m kdbench ARGUMENT...``. It takes ``said`` as its input."""
    with (
        tempfile.TemporaryFile() as told,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        told.write(said.encode())
        told.seek(0)
        streams = {"stdin": told.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
        process = start(arguments, env=env, cwd=cwd, **streams)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        return subprocess.CompletedProcess(process.args, code, *texts)


def fork_zygotes(address: Callable[[], str], server: dict[str, str]) -> None:
    """In this process, let a zygote be forked as well.

    Args:
        address: where the server is.
        server: its environment.
    """
    from kdbench.untrusted.processes import client

    def popen(arguments: Sequence[str], **options: Any) -> Forked | subprocess.Popen[bytes]:
        here = {name: options.pop(name) for name in ("env", "cwd", "start_new_session")}
        streams = {"stdin", "stdout"} == options.keys()
        if not (python.is_python(arguments) and streams and python.same_start(here["env"], server)):
            return subprocess.Popen(arguments, **options, **here)
        assert options["stdout"] == subprocess.DEVNULL
        with open(os.devnull, "wb") as nothing:
            streams = [options["stdin"], nothing.fileno(), 2]
            return Forked(f"{address()}.small", _request(arguments, {}, **here), streams)

    client.subprocess = types.SimpleNamespace(**vars(subprocess) | {"Popen": popen})
