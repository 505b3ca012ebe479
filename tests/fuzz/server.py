"""``python -m tests.fuzz.server``: runs a command in a fork for each line of its standard input.

Everything that a command imports is imported once. So a command costs a tenth of a second, and not
three. A line is JSON with the fields of :class:`Order`; the answer is a line of JSON with the
fields of :class:`Ending`.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import importlib.metadata
import io
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from typing import NoReturn

from kdbench import cli
from kdbench.untrusted.processes import client, server
from kdbench.untrusted.processes.environment import allowed_environment
from kdbench.untrusted.processes.tree import processes
from kdbench.untrusted.wall.parents import adopt_orphans
from tests.forked import pages

#: Seconds that processes of a command have to end after the command.
_ENDING_S = 5.0
#: Bytes of memory that a command may take besides what is imported.
_MEMORY = 3 << 30
#: Names of audit events whose first argument is a path that is made or changed.
_CHANGES = {"os.mkdir", "os.rename", "os.symlink", "os.link", "os.truncate", "os.chmod"}
#: Imported by a command only when it needs them.
_MODULES = (
    "matplotlib.figure",
    "pandas",
    "PIL.Image",
    "safetensors.torch",
    "scipy.stats",
    "timm",
    "torchvision",
)


@dataclass(frozen=True)
class Order:
    """A command to run."""

    arguments: list[str]
    """After the program's name. A lone surrogate stands for a byte that is not UTF-8."""
    environment: dict[str, str]
    """All variables."""
    folder: str
    """Current folder of the command. Its parent may be written, and nothing else."""
    output: str
    """Where standard output goes: ``file``, ``terminal``, ``full``, ``broken`` or ``closed``."""
    standard_input: str
    """``empty`` or ``closed``."""
    encoding: str
    """Encoding of standard output and standard error."""
    limit_s: float
    """Seconds after which it counts as hanging."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int | None
    """Its exit code, or the negative number of the signal that ended it. None: it hung."""
    out: str
    """Its standard output, where that went to a file or a terminal."""
    err: str
    """Its standard error."""
    outside: list[str]
    """Files and folders that it left outside its folder."""
    left: int
    """Processes that it left behind."""


class _Forked:
    """A zygote forked from this process. It has the methods of ``subprocess.Popen`` that a command
    calls."""

    def __init__(self, arguments: list[str], *, stdin: int, env: dict[str, str], **_: object):
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            os.chdir("/")
            os.environ.clear()
            os.environ.update(env)
            os.dup2(stdin, 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.closerange(3, 1024)
            sys.argv = ["server", *arguments[4:]]
            server.main()
            code = 0
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        until = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if until is not None and time.monotonic() >= until:
                raise client.subprocess.TimeoutExpired("zygote", timeout or 0.0)
            time.sleep(0.005)
        return self.returncode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _begin(zygote: client.Zygote) -> None:
    """Stands for ``Zygote._begin``, which starts an interpreter."""
    zygote._socket, theirs = socket.socketpair()
    with theirs:
        arguments = ["python", "-P", "-m", "server", *zygote._modules]
        zygote._process = _Forked(arguments, stdin=theirs.fileno(), env=allowed_environment())


def _import_everything() -> None:
    import kdbench

    for name in _MODULES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(kdbench.__path__, "kdbench."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for plugin in importlib.metadata.entry_points(group="kdbench"):
        plugin.load()


def _watch_changes(report: int, inside: str) -> None:
    """Write to ``report`` each path outside a folder that this process makes or changes."""

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _CHANGES:
            path = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
        else:
            return
        if not isinstance(path, str | bytes):
            return
        full = os.path.realpath(os.fsdecode(path))
        # A folder is opened to make a file in it that has no name.
        if not full.startswith((inside, "/dev/", "/proc/")) and not os.path.isdir(full):
            with contextlib.suppress(OSError):
                os.write(report, os.fsencode(full) + b"\0")

    sys.addaudithook(note)


def _streams(order: Order, terminal: int | None, errors: int) -> None:
    """Give this process the standard streams of the order."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(errors, 2)
    if order.output == "terminal":
        assert terminal is not None
        os.dup2(terminal, 1)
    elif order.output == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif order.output == "broken":
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
    else:
        os.dup2(os.open(f"{order.folder}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    sys.stdout = _text(1, order.encoding, "strict")
    sys.stderr = _text(2, order.encoding, "backslashreplace")
    # As Python does it for a stream that was closed when it started.
    if order.standard_input == "closed":
        os.close(0)
        sys.stdin = None  # type: ignore[assignment]
    if order.output == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _text(handle: int, encoding: str, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(handle, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors, line_buffering=raw.isatty() or handle == 2
    )


def _command(order: Order, terminal: int | None, errors: int, report: int) -> NoReturn:
    """Be the command."""
    os.setsid()
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    tempfile.tempdir = None
    _limit_memory()
    _streams(order, terminal, errors)
    _watch_changes(report, os.path.realpath(os.path.dirname(order.folder)) + "/")
    client.Zygote._begin = _begin  # type: ignore[method-assign]
    sys.argv = ["kdbench", *order.arguments]
    code = 1
    try:
        cli.main(prog_name="kdbench")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    _end(code)


def _limit_memory() -> None:
    """A command that wants all memory fails, and the machine goes on."""
    with open("/proc/self/status") as file:
        used = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData"))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, most))


def _end(code: int) -> NoReturn:
    """End as an interpreter does, but leave the many modules alone: that takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        print(f"Exception ignored in: <stdout>: {error}", file=sys.stderr)
        code = 120
    sys.stderr.flush()
    os._exit(code)


def _await(pid: int, terminal: int | None, limit_s: float) -> tuple[int | None, bytes]:
    """(exit code, what came from the terminal). The code is None where the limit passed."""
    until, handle, shown = time.monotonic() + limit_s, os.pidfd_open(pid), b""
    ends = [handle] if terminal is None else [handle, terminal]
    try:
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select(ends, [], [], left)
            if terminal in ready:
                try:
                    shown += os.read(terminal, 1 << 16)  # type: ignore[arg-type]
                except OSError:  # nobody has the other end any more
                    ends.remove(terminal)  # type: ignore[arg-type]
            elif handle in ready:
                _, status = os.waitpid(pid, 0)
                return os.waitstatus_to_exitcode(status), shown
        os.kill(pid, signal.SIGABRT)  # faulthandler says where it hangs
        os.waitpid(pid, 0)
        return None, shown
    finally:
        os.close(handle)


def _end_others() -> int:
    """Wait for what a command started, then end it: how many did not end."""
    until, below = time.monotonic() + _ENDING_S, [0]
    while below:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        below = list(processes(fresh_s=0.0).below(os.getpid()))
        below = [pid for pid in below if pid != os.getpid()]
        if time.monotonic() > until:
            for pid in below:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            return len(below)
        time.sleep(0.005 if below else 0)
    return 0


def serve(order: Order) -> Ending:
    """Run a command."""
    terminal, theirs = os.openpty() if order.output == "terminal" else (None, None)
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as report:
        pid = os.fork()
        if pid == 0:
            _command(order, theirs, errors.fileno(), report.fileno())
        if theirs is not None:
            os.close(theirs)
        code, shown = _await(pid, terminal, order.limit_s)
        left = _end_others()
        if terminal is not None:
            os.close(terminal)
        errors.seek(0)
        report.seek(0)
        paths = {os.fsdecode(path) for path in report.read().split(b"\0") if path}
        out = shown
        if os.path.exists(f"{order.folder}.out"):
            with open(f"{order.folder}.out", "rb") as file:
                out += file.read()
        return Ending(
            code,
            out.decode("utf-8", "backslashreplace"),
            errors.read().decode("utf-8", "backslashreplace"),
            sorted(path for path in paths if os.path.lexists(path)),
            left,
        )


def main() -> None:
    _import_everything()
    # One thread: a pool of threads would be lost in each fork.
    importlib.import_module("torch").set_num_threads(1)
    pages.settle()
    faulthandler.enable()
    adopt_orphans()
    requests = os.fdopen(os.dup(0), "r", encoding="ascii")
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    print("ready", file=answers, flush=True)
    for line in requests:
        print(json.dumps(asdict(serve(Order(**json.loads(line))))), file=answers, flush=True)


if __name__ == "__main__":
    main()
