"""What a forked process does to be as one that ran ``python``: its command line is ``[-P] (-m
MODULE | -c CODE) ARGUMENT...``."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import runpy
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Sequence
from typing import NoReturn

#: Variables that are read when a process starts or imports torch. A fork is too late for them.
_READ_AT_START = ("LANG", "LC_", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "PYTHON")
#: Exceptions to these: a fork can do as they say, or they say nothing of what tests look at.
_HARMLESS = ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE")


def is_python(arguments: Sequence[str]) -> bool:
    """Whether a command line is one that :func:`become` can do."""
    rest = list(arguments[1:])
    if rest[:1] == ["-P"]:
        rest = rest[1:]
    return arguments[0] == sys.executable and len(rest) > 1 and rest[0] in ("-m", "-c")


def same_start(here: dict[str, str], there: dict[str, str]) -> bool:
    """Whether two environments agree in what is read at the start of a process."""

    def read(environment: dict[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in environment.items()
            if name.startswith(_READ_AT_START) and name not in _HARMLESS
        }

    return read(here) == read(there)


def become(arguments: Sequence[str], environment: dict[str, str], folder: str) -> NoReturn:
    """Run a command line of Python, and end. Streams and signals are those of the process."""
    code = 1
    try:
        rest = list(arguments[1:])
        safe = rest[0] == "-P"
        kind, what, *own = rest[1:] if safe else rest
        _adopt_environment(environment)
        os.chdir(folder)
        _adopt_paths(environment, "" if safe else folder if kind == "-m" else "")
        _open_streams()
        tempfile.tempdir = None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _code_of(kind, what, own)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _code_of(kind: str, what: str, own: Sequence[str]) -> int:
    """The exit code of a program."""
    # It has as many frames for itself as one that was started.
    sys.setrecursionlimit(sys.getrecursionlimit() + _depth())
    try:
        if kind == "-m":
            sys.argv = ["-m", *own]
            if "." in what:  # it was imported, and runpy would warn of that
                sys.modules.pop(what, None)
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *own]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), vars(main))
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame := frame.f_back:
        depth += 1
    return depth


def _adopt_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # /proc shows the environment with which the process was started: tests look there.
    if sys.platform.startswith("linux"):
        with open("/proc/self/stat") as file:
            begin, end = map(int, file.read().rpartition(")")[2].split()[47:49])
        shown = "\0".join(f"{name}={value}" for name, value in environment.items()) + "\0"
        size = end - begin
        ctypes.memmove(begin, os.fsencode(shown)[: size - 1].ljust(size, b"\0"), size)


def _adopt_paths(environment: dict[str, str], first: str) -> None:
    named = environment.get("PYTHONPATH", "").split(os.pathsep)
    entries = [os.path.abspath(entry) for entry in named if entry]
    sys.path[:] = [*([first] if first else []), *entries, *_base]


def _open_streams() -> None:
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        old = getattr(sys, name)
        how = {"encoding": old.encoding, "errors": old.errors, "closefd": False}
        lines = 1 if name == "stderr" or os.isatty(number) else -1
        setattr(sys, name, open(number, mode, buffering=lines, **how))  # noqa: SIM115 - for good
        setattr(sys, f"__{name}__", getattr(sys, name))


#: Where Python searches by itself, without the folder of its script.
_base: list[str] = []


def remember_paths() -> None:
    """Call it once, in the process whose forks will become others."""
    given = {os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p}
    _base[:] = [entry for entry in sys.path[1:] if entry not in given]
