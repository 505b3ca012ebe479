"""``python -m kdbench.bench.work.executors.zygote``: a process that forks once for each job.

It has imported everything and loaded nothing. So the process of a job starts in milliseconds and
has never held anything of another job. The zygote itself sees only the name of a job's folder.

A line of JSON on standard input starts a job. Lines on standard output report what happens. When
standard input ends, the zygote ends its children and itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from pathlib import Path

# The first optimiser of a process imports it, which takes a second. Here that happens once, and not
# in each job.
import torch._dynamo  # noqa: F401

from kdbench.bench.work.executors import child
from kdbench.bench.work.job import LOG
from kdbench.untrusted.confine import die_with_parent


def main() -> None:
    """Serve until standard input ends."""
    # Ctrl-C reaches every process of the terminal. The coordinator decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The signal of a child that ends writes a byte to this pipe, which ends the wait in select.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, str] = {}
    pending = b""
    _say({"ready": os.getpid()})
    while True:
        ready, _, _ = select.select([0, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
        for pid, status in _reaped():
            if pid in running:
                _say({"job": running.pop(pid), "exit": os.waitstatus_to_exitcode(status)})
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                running[_fork(order)] = order["token"]
    for pid in running:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def _reaped() -> list[tuple[int, int]]:
    """(process id, status) of each child that has ended."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (child_and_status := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(child_and_status)
    return ended


def _fork(order: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here and in the child, since either may come first
        _say({"job": order["token"], "pid": pid})
        return pid
    code = 70
    try:
        _become(order)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _become(order: dict[str, str]) -> None:
    """Turn the child into the process of a job.

    It gets a process group and dies with its parent. Its output goes into a file. One pipe stays
    open for messages, and every other way back is closed.
    """
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    die_with_parent()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    folder = Path(order["folder"])
    events = os.dup(1)
    os.set_inheritable(events, False)
    null, log = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
    )
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, events)
    os.closerange(events + 1, 256)
    if order.get("device") is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = order["device"]
    child.run(folder, order["token"], events)


def _say(message: dict[str, object]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
