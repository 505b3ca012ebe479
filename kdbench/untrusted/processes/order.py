"""What a walled process may reach, and what its supervisor tells of it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_PATHS = ("read", "write", "listed")


@dataclass(frozen=True)
class View:
    """What a walled process may reach. It reaches nothing else of the machine."""

    #: Files and folders that it may read, besides those of the interpreter.
    read: tuple[Path, ...] = ()
    #: Folders in which it may do anything.
    write: tuple[Path, ...] = ()
    #: Folders that it may list, to find modules in them. What it may open there is in ``read``.
    listed: tuple[Path, ...] = ()
    #: Whether it computes on the machine's GPUs.
    devices: bool = False
    #: Whether it keeps the machine's network, in order to download.
    network: bool = False
    #: False builds no wall at all. For tests.
    confined: bool = True
    #: Most MiB in its /dev/shm; None is half of the machine's memory.
    shm_mb: int | None = None
    #: Most processes and threads at one time.
    processes: int | None = 4096
    #: Largest file that it may write, MiB.
    file_mb: int | None = None
    #: Parts of the wall that are left out, to test the others: of "namespaces", "landlock",
    #: "seccomp", and "proc" for the namespace's view of the processes.
    without: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The view as JSON can hold it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        paths = {name: [str(path) for path in values[name]] for name in _PATHS}
        return values | paths | {"without": list(self.without)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> View:
        """The view that :meth:`as_json` described."""
        paths = {name: tuple(map(Path, values[name])) for name in _PATHS}
        return cls(**{**values, **paths, "without": tuple(values["without"])})


@dataclass(frozen=True)
class WallReport:
    """How a process is walled in, said by core code before a plugin is imported."""

    #: For a row's column ``confinement``: the layers, and what was reached in spite of them.
    text: str
    #: Names of the attempts that should have failed and did not.
    reached: tuple[str, ...] = ()


def signal_name(code: int) -> str:
    """The signal of a negative exit code: ``SIGKILL``, or its number where it has no name."""
    names = {int(number): number.name for number in signal.Signals}
    return names.get(-code, f"signal {-code}")


@dataclass(frozen=True)
class Exit:
    """How a walled process ended."""

    #: Its exit code, or the negative number of the signal that ended it. None where nobody knows.
    code: int | None
    #: Its largest resident memory, MiB.
    peak_mb: float = 0.0
    #: Why it was ended before it began: it would have run other code than the coordinator.
    refusal: str = ""
