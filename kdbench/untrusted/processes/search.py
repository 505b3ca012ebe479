"""Where a process that this one starts imports from: the same places in the same order.

It is started by :func:`program`, which gives it this very kdbench and this process's ``sys.path``.
Nothing here may import more than Python's own library, since the search path is set by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import kdbench

_PROGRAM = """
import importlib.util, sys
where = [{folder!r}]
spec = importlib.util.spec_from_file_location("kdbench", {file!r}, submodule_search_locations=where)
sys.modules["kdbench"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["kdbench"])
from kdbench.untrusted.processes.search import begin
begin({module!r}, {search!r})
"""


#: What stands before the digest of a folder in place of its name.
_HIDDEN = "sha256:"


@dataclass(frozen=True)
class SearchPath:
    """``sys.path`` of a process, for one in another folder."""

    #: Its absolute entries, in their order. In place of the current folder and of that of the
    #: script stand their digests. Results may lie there, so another process has them only where its
    #: interpreter searches them by itself. It is not told their names otherwise, since a plugin can
    #: read what a process was told.
    entries: tuple[str, ...]

    @classmethod
    def here(cls) -> SearchPath:
        """That of this process."""
        doubtful = _doubtful()
        entries = dict.fromkeys(entry for entry in sys.path if os.path.isabs(entry))
        return cls(tuple(_hidden(e) if e in doubtful else e for e in entries))

    def inside(self, searched: Iterable[str]) -> list[str]:
        """The entries for a process that searches ``searched`` by itself."""
        known = {_hidden(entry): entry for entry in searched}
        named = (known.get(entry, entry) for entry in self.entries)
        return [entry for entry in named if not entry.startswith(_HIDDEN)]

    def as_json(self) -> dict[str, Any]:
        """The path as JSON can hold it."""
        return {"entries": list(self.entries)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SearchPath:
        """The path that :meth:`as_json` described."""
        return cls(tuple(values["entries"]))

    def adopt(self) -> None:
        """Search these places in this process."""
        sys.path[:] = self.inside(sys.path)
        importlib.invalidate_caches()


def _hidden(entry: str) -> str:
    return _HIDDEN + hashlib.sha256(os.fsencode(entry)).hexdigest()


def _doubtful() -> tuple[str, ...]:
    folders = []
    with contextlib.suppress(OSError):  # somebody may have removed the current folder
        folders.append(os.getcwd())
        if sys.argv and sys.argv[0]:
            script = os.path.abspath(sys.argv[0])
            folders += [os.path.dirname(path) for path in (script, os.path.realpath(script))]
    return tuple(dict.fromkeys(folders))


def search_variables() -> dict[str, str]:
    """Environment variables by which Python, once started, searches where this process's did.

    An entry of ``PYTHONPATH`` that is relative to the current folder is made absolute. The current
    folder itself is left out.
    """
    variables = {}
    if sys.flags.no_user_site:
        variables["PYTHONNOUSERSITE"] = "1"
    named = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    doubtful = _doubtful()
    entries = []
    with contextlib.suppress(OSError):
        entries = [os.path.abspath(entry) for entry in named.split(os.pathsep) if entry]
    if kept := [entry for entry in entries if entry not in doubtful]:
        variables["PYTHONPATH"] = os.pathsep.join(kept)
    return variables


def program(module: str) -> str:
    """The text of a program that calls ``main`` of a module of this kdbench."""
    file = os.path.abspath(kdbench.__file__)
    search = json.dumps(SearchPath.here().as_json())
    return _PROGRAM.format(folder=os.path.dirname(file), file=file, module=module, search=search)


def begin(module: str, search: str) -> None:
    """What :func:`program` does once it has kdbench."""
    SearchPath.from_json(json.loads(search)).adopt()
    importlib.import_module(module).main()
