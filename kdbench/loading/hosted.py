"""One process that answers for plugins, as the coordinator sees it."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdbench import errors
from kdbench.errors import KdbenchError, OtherCodeError
from kdbench.loading.candidates import Plugin
from kdbench.untrusted.processes.client import Walled, wait
from kdbench.untrusted.processes.order import signal_name

#: Seconds between the end of a channel and the end of its process, on a machine that is busy.
_CLOSED_S = 10.0
NONSENSE = "its process said nonsense"
_ERRORS: Mapping[str, type[KdbenchError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, KdbenchError)
}


@dataclass(frozen=True)
class HostLimits:
    """What a process may take."""

    import_s: float = 60.0
    """Seconds to import one plugin after another: from one to the next."""
    answer_s: float = 60.0
    """Seconds for an answer."""
    dataset_s: float = 24 * 3600.0
    """Seconds to load a dataset. It may have to be downloaded."""
    check_s: float = 1800.0
    """Seconds for one check of the conformance kit."""
    checks: int = 1000
    """Most results of the conformance kit."""
    start_s: float = 180.0
    """Seconds until a process stands behind its wall. No plugin takes part in that."""
    memory_mb: float = 4096.0
    """Resident memory, MiB. Loading a dataset may take more."""
    file_mb: int = 64
    """Largest file that it may write, MiB. Files of images may be larger."""


class RaisedError(Exception):
    """A plugin raised what is no error of kdbench. The text is that of its error."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        #: The error with its type and its line.
        self.where = where


class LostError(Exception):
    """A process does not answer any more; the text says why."""


@dataclass
class Host:
    """One process, and what it said of its plugins so far."""

    plugins: Sequence[Plugin]
    walled: Walled
    limits: HostLimits
    memory_mb: float | None
    since: float
    """When it was last waited for in vain: it has to say something within a time from then."""
    loaded: list[Plugin] = field(default_factory=list)
    ready: bool = False
    """It has loaded its plugins."""
    lost: str = ""
    """Why it does not answer any more."""
    lines: deque[bytes] = field(default_factory=deque)
    _next_look: float = 0.0
    _silent_since: float | None = None
    """When its channel was first seen closed."""

    def look(self, seconds: float, doing: str) -> None:
        """Take in what it wrote.

        Raises:
            LostError: nothing more will come.
            OtherCodeError: it would run other code than this process.
        """
        self.walled.look()
        # After the look: what it wrote before it ended is heard first.
        self.lines += self.walled.hear()
        now = time.monotonic()
        if self.walled.overlong:
            raise LostError(f"its process said too much {doing}")
        if self.lines:
            self.since = now
            return
        if self.walled.exit is not None:
            if self.walled.exit.refusal:
                raise OtherCodeError(self.walled.exit.refusal)
            raise LostError(f"its process {_ending(self.walled.exit.code)} {doing}")
        if self.walled.silent:
            self._silent_since = self._silent_since or now
            if now > self._silent_since + _CLOSED_S:
                raise LostError(f"its process closed its channel {doing}")
        if self.walled.report is None:
            seconds = self.limits.start_s
        elif self.walled.reported_at is not None:
            self.since = max(self.since, self.walled.reported_at)
        if now > self.since + seconds:
            raise LostError(f"its process did not end in {seconds:g} s {doing}")
        if self.memory_mb is not None and now > self._next_look:
            self._next_look = now + 0.5
            if self.walled.memory_mb() > self.memory_mb:
                raise LostError(f"its process took more than {self.memory_mb:.0f} MiB {doing}")

    def message(self) -> dict[str, Any] | None:
        """The next message, None if there is none yet."""
        if not self.lines:
            return None
        try:
            message = json.loads(self.lines.popleft())
        except (ValueError, RecursionError):
            raise LostError(NONSENSE) from None
        if not isinstance(message, dict):
            raise LostError(NONSENSE)
        return message


def _ending(code: int | None) -> str:
    if code is None:
        return "ended"
    if code < 0:
        return f"was ended by {signal_name(code)}"
    return f"exited with code {code}"


def wait_for(hosts: Sequence[Host]) -> None:
    """Wait until a process has something to say, and no longer than a moment."""
    if not any(host.lines for host in hosts):
        wait([host.walled for host in hosts], 0.1)


def end_process(walled: Walled) -> bool:
    """End a process, and wait until all that it started has ended: whether it has."""
    walled.kill()
    deadline = time.monotonic() + 10
    while walled.exit is None and time.monotonic() < deadline:
        wait([walled], 0.1)
        walled.hear()
        walled.look()
    ended = walled.exit is not None
    walled.close()
    return ended


def raised_error(error: Any) -> Exception:
    """The error that a process tells of."""
    if not isinstance(error, dict):
        return LostError(NONSENSE)
    kind = str(error.get("kind"))[:100]
    text, where = (str(error.get(key, ""))[:4000] for key in ("text", "where"))
    if kind in _ERRORS:
        return _ERRORS[kind](text)
    if kind == "OSError":
        file = error.get("file")
        return OSError(0, text, str(file)[:1000]) if file is not None else OSError(0, text)
    return RaisedError(text, where)
