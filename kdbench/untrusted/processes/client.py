"""The coordinator's side: starts walled processes, hears them and ends them.

Nothing that a walled process does, or leaves undone, makes a call here raise, wait or grow.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdbench.untrusted.processes.environment import allowed_environment
from kdbench.untrusted.processes.identity import identity
from kdbench.untrusted.processes.lines import Lines
from kdbench.untrusted.processes.order import Exit, View, WallReport
from kdbench.untrusted.processes.search import program
from kdbench.untrusted.processes.tree import memory_mb, processes, processor_s
from kdbench.untrusted.wall.canary import Bait

#: Most bytes that one look takes.
_AT_ONCE = 1 << 20
#: Seconds until a stream that filled a whole look is looked at again. Less data pauses it less.
_PAUSE_S = 0.1
#: The module that forks.
_SERVER = "kdbench.untrusted.processes.server"
#: Seconds that a process has to end when it is told to.
_ENDING_S = 3.0


class _Stream:
    """The readable end of a socket, read a bounded part at a time."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end, self.lines, self.closed, self._next = end, Lines(), False, 0.0

    def paused_s(self) -> float:
        """Seconds until it is looked at again; 0 when it is its turn."""
        return max(0.0, self._next - time.monotonic())

    def close(self) -> None:
        self.closed = True
        self.end.close()

    def look(self) -> list[bytes]:
        """The complete lines that came since the last look. Never waits, never raises."""
        lines: list[bytes] = []
        if self.closed or self.paused_s():
            return lines
        taken = 0
        while taken < _AT_ONCE:
            try:
                data = self.end.recv(_AT_ONCE - taken)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.close()
                break
            taken += len(data)
            lines += self.lines.add(data)
        self._next = time.monotonic() + _PAUSE_S * taken / _AT_ONCE
        return lines


class Walled:
    """A process that gave up its rights before it ran anything of a plugin."""

    def __init__(self, channel: socket.socket, control: socket.socket) -> None:
        #: Process id of its supervisor, once that is known.
        self.pid: int | None = None
        #: How it is walled in. Set before its entry is called, and not if the wall failed.
        self.report: WallReport | None = None
        #: When ``report`` came, of the monotonic clock.
        self.reported_at: float | None = None
        #: How it ended, once it did.
        self.exit: Exit | None = None
        #: The coordinator's end of its channel.
        self.channel = channel
        self._heard, self._control = _Stream(channel), _Stream(control)
        self._unsent = bytearray()
        #: The first process of its namespace, which runs nothing of a plugin.
        self._first: int | None = None

    @property
    def control(self) -> int:
        """The descriptor at which the supervisor speaks; -1 after the end."""
        return self._control.end.fileno()

    def streams(self) -> list[_Stream]:
        """What is still open; for :func:`wait`."""
        return [stream for stream in (self._control, self._heard) if not stream.closed]

    def look(self) -> None:
        """Take in what the supervisor said: ``pid``, ``report`` and ``exit``."""
        self._flush()
        for line in self._control.look():
            with contextlib.suppress(ValueError, LookupError, TypeError):
                self._take(json.loads(line))
        if self._control.closed:
            # The supervisor ended without a word: somebody killed it, or it never began.
            self.exit = self.exit or Exit(None)
        elif self.exit is not None:
            self._control.close()

    def hear(self) -> list[bytes]:
        """The complete lines that the process wrote to its channel since the last call.

        They are at most 1 MiB a call, and 10 MiB a second. A line over 8 MiB is left out. Wait for
        them with :func:`wait`.
        """
        return self._heard.look()

    @property
    def silent(self) -> bool:
        """Whether nothing more will come over the channel. It is closed then.

        Do not wait for it after the exit: another process may have got the process's end.
        """
        return self._heard.closed

    @property
    def overlong(self) -> bool:
        """Whether a line was left out because it is too long."""
        return self._heard.lines.dropped > 0

    @property
    def unsent(self) -> int:
        """Bytes that were said and that the process has not read yet."""
        return len(self._unsent)

    def say(self, line: bytes) -> None:
        """Send a line to the process. It waits here until the process reads."""
        self._unsent += line + b"\n"
        self._flush()

    def memory_mb(self) -> float:
        """Resident memory of the process and of all that it started, MiB."""
        if self.pid is None or self.exit is not None:
            return 0.0
        return memory_mb(pid for pid in processes().below(self.pid) if pid != self._first)

    def processor_s(self) -> float | None:
        """Processor time of the process and of all that it started; None where nobody knows."""
        if self.pid is None or self.exit is not None:
            return 0.0
        return processor_s(processes().below(self.pid))

    def kill(self) -> None:
        """End the process and all that it started. ``look`` will tell of its end."""
        # The supervisor reads the end of this stream.
        with contextlib.suppress(OSError):
            self._control.end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End it and forget it. Nothing more is heard."""
        self.kill()
        self.exit = self.exit or Exit(None)
        for stream in (self._heard, self._control):
            stream.close()

    def _take(self, message: dict[str, Any]) -> None:
        if "pid" in message:
            self.pid = int(message["pid"])
        elif "first" in message:
            self._first = int(message["first"])
        elif "wall" in message:
            wall = message["wall"]
            self.report = WallReport(str(wall["text"]), tuple(map(str, wall["reached"])))
            self.reported_at = time.monotonic()
        elif "exit" in message:
            refusal = str(message.get("refusal", ""))
            self.exit = Exit(message["exit"], float(message["peak_mb"]), refusal)

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self.channel.send(self._unsent[:_AT_ONCE])]
        except BlockingIOError:
            pass
        except OSError:  # it is gone
            self._unsent.clear()


def wait(processes: Iterable[Walled], timeout: float) -> None:
    """Wait until one of the processes has news, or until ``timeout`` seconds have passed."""
    poll = select.poll()
    for walled in processes:
        for stream in walled.streams():
            # A flood is not looked at for a while, so it must not wake anybody meanwhile.
            if pause := stream.paused_s():
                timeout = min(timeout, pause)
            else:
                poll.register(stream.end, select.POLLIN)
    poll.poll(math.ceil(timeout * 1000))


class Zygote:
    """A process with torch imported, which forks in milliseconds.

    Args:
        imports: modules that it imports besides torch, so that no child has to. None of a plugin.
        later: the same, as soon as nobody wants a child for a moment.
    """

    def __init__(self, imports: Sequence[str] = (), later: Sequence[str] = ()) -> None:
        self._modules = (*imports, "--", *later)
        self._bait = Bait()
        self._identity = identity()
        self._started: weakref.WeakSet[Walled] = weakref.WeakSet()
        self._begin()

    def start(
        self,
        entry: str,
        order: Mapping[str, Any],
        view: View,
        *,
        log: int | None = None,
        environment: Mapping[str, str] = {},
        links: Mapping[str, int] = {},
    ) -> Walled:
        """Start a walled process, which calls ``entry`` as ``function(channel, order, links)``.

        In the process, ``channel`` is a blocking stream socket and ``links`` are descriptors. Its
        current folder is ``/``. It does not wait: a failure shows as an :class:`Exit`.

        Args:
            entry: ``package.module:function``, imported behind the wall.
            order: for the function; what JSON can hold.
            view: what the process may reach.
            log: a descriptor that becomes its standard output and error; None drops both.
            environment: variables that are set behind the wall.
            links: further descriptors that the process gets. The caller closes its own.

        Raises:
            ValueError: JSON cannot hold the order.
            OSError: there are no more descriptors.
        """
        message = {
            "entry": entry,
            "order": dict(order),
            "view": view.as_json(),
            "environment": dict(environment),
            "links": list(links),
            "bait": self._bait.told,
            "identity": self._identity,
        }
        content = json.dumps(message, allow_nan=False).encode()
        channel, theirs = socket.socketpair()
        control, supervisors = socket.socketpair()
        walled = Walled(channel, control)
        self._started.add(walled)
        # A file, and not the channel, which would fill up before the process reads.
        with tempfile.TemporaryFile() as file, open(os.devnull, "r+b", 0) as null:
            file.write(content)
            file.flush()
            file.seek(0)
            out = null.fileno() if log is None else log
            handles = [file.fileno(), supervisors.fileno(), theirs.fileno(), out, *links.values()]
            # A zygote that died shows as the end of the control stream.
            self._send(handles)
        theirs.close()
        supervisors.close()
        return walled

    def close(self) -> None:
        """End every process that this zygote started, and the zygote."""
        busy = False
        for walled in list(self._started):
            walled.look()
            busy = busy or walled.exit is None
        self._socket.close()
        try:
            # Without a child it may still be importing what nobody needs any more.
            self._process.wait(_ENDING_S if busy else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for walled in list(self._started):
            walled.close()
        self._bait.close()

    def _begin(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # -P: the current folder, where the results may lie, is no place to import from.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program(_SERVER), *self._modules],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=allowed_environment(),
                cwd="/",
                start_new_session=True,
            )

    def _send(self, handles: list[int]) -> None:
        if self._process.poll() is not None:
            self._socket.close()
            self._begin()
        with contextlib.suppress(OSError):
            # One byte a message, since its descriptors come with its first byte.
            socket.send_fds(self._socket, [b"f"], handles)
