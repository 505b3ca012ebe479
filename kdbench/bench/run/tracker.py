"""A run as a plugin's reporter hears it, in a walled process of its own.

A run waits for a reporter for some seconds, all in all. A reporter that raises, hangs, floods, lies
or dies gets no more events, and that is all.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench._files import jsonable
from kdbench.bench.run.events import AsEvents
from kdbench.errors import IntegrityError
from kdbench.loading.catalogue import Catalogue
from kdbench.loading.hosted import (
    NONSENSE,
    LostError,
    RaisedError,
    end_process,
    raised_error,
    wait_for,
)
from kdbench.untrusted.box import copy_file, file_names, remove_tree
from kdbench.untrusted.text import shown_name, strip_control

if TYPE_CHECKING:
    from collections.abc import Callable

    from kdbench.bench.plan.prepare import Prepared
    from kdbench.loading.answers import Answers, Registered
    from kdbench.loading.hosts import Hosts

#: Where a reporter's files go, in the folder of the results.
FOLDER = "reporters"
#: Seconds for a reporter to take up one event.
ANSWER_S = 60.0
#: Seconds that a run waits for a reporter, all in all.
PATIENCE_S = 30.0
#: The same for a run that is interrupted, at its end.
INTERRUPTED_S = 2.0
#: Bytes that may wait for a reporter which reads slowly, before the run waits for it.
MOST_WAITING = 4 << 20
#: Files that are copied, and bytes of all of them.
_MOST_FILES, _MOST_BYTES = 64, 64 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_REMOVAL_S = 5.0


class Tracker(AsEvents):
    """Hands the events of a run to a plugin's reporter. Nothing here raises but an interrupt.

    Args:
        entry: the reporter.
        hosts: start its process.
        run: what it is told of the run, see :class:`kdbench.reporter.ReportedRun`.
        tell: takes what a person should know of it.
    """

    def __init__(
        self,
        entry: Registered[Any],
        hosts: Hosts,
        run: Mapping[str, Any],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.name, self._tell = entry.value.name, tell
        #: What it was asked and has not answered, oldest first.
        self._waiting: list[str] = []
        self._loaded = False
        self._patience = PATIENCE_S
        #: Whether it gets no more events.
        self.lost = False
        self._host, self._box = hosts.begin_reporter(entry.plugin)
        self._out = self._box / "out"
        self._out.mkdir()
        self._ask("begin", name=self.name, run={**run, "folder": str(self._out)})

    def event(self, event: str, **values: Any) -> None:
        self._ask("event", of=event, event={"event": event, **values})

    def close(self, results: Path, patience_s: float = math.inf) -> None:
        """Let the reporter end, and copy what it wrote into the folder of the results.

        Args:
            patience_s: to wait for it, where less patience is left than usual.
        """
        self._patience = min(self._patience, patience_s)
        try:
            self._ask("end")
            with self._guarded():
                self._wait(lambda: bool(self._waiting) and not self.lost)
        finally:
            end_process(self._host.walled)
            for line in self._keep(results / FOLDER / self.name):
                self._tell(strip_control(f"reporter {self.name}: {line}"))
            remove_tree(self._box, _REMOVAL_S)

    def _ask(self, question: str, of: str = "", **values: Any) -> None:
        """Send a question. Whatever goes wrong is told, and ends the reporter."""
        if self.lost:
            return
        with self._guarded():
            line = json.dumps(jsonable({"ask": question, "with": values}), allow_nan=False)
            if not self._waiting:
                self._host.since = time.monotonic()
            self._waiting.append(of or question)
            self._host.walled.say(line.encode())
            self._hear()
            self._wait(lambda: self._host.walled.unsent > MOST_WAITING)

    def _wait(self, holds: Callable[[], bool]) -> None:
        """Let the run wait as long as something holds, and as patience is left."""
        while holds():
            start = time.monotonic()
            wait_for([self._host])
            self._hear()
            self._patience -= time.monotonic() - start
            if self._patience < 0:
                raise LostError("the run has waited long enough for it")

    def _hear(self) -> None:
        """Take in what the process wrote.

        Raises:
            LostError, KdbenchError, RaisedError, OSError: it is lost.
        """
        if self._loaded and not self._waiting:
            self._host.since = time.monotonic()  # it has nothing to say
        limits = self._host.limits
        doing = f"at {self._waiting[0]}" if self._waiting else "between two events"
        self._host.look(ANSWER_S if self._loaded else limits.import_s, doing)
        while (message := self._host.message()) is not None:
            if not self._loaded:
                self._take_report(message)
            elif "error" in message and self._waiting:
                raise raised_error(message["error"])
            elif message == {"answer": None} and self._waiting:
                self._waiting.pop(0)
            else:
                raise LostError(NONSENSE)

    def _take_report(self, message: Mapping[str, Any]) -> None:
        report = message.get("plugin")
        if message == {"loaded": True}:
            self._loaded = True
        elif not isinstance(report, dict):
            raise LostError(NONSENSE)
        elif report.get("status") != "ok":
            raise LostError(f"its plugin could not be loaded: {report.get('cause')}")

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """What goes wrong with the reporter costs the reporter."""
        try:
            yield
        except Exception as error:
            if self.lost:
                return
            self.lost = True
            self._host.walled.kill()
            at = f" at {self._waiting[0]}" if self._waiting else ""
            why = error.where if isinstance(error, RaisedError) else str(error)
            self._tell(
                strip_control(
                    f"reporter {self.name} gets no more events: it failed{at}: {why}. The run is "
                    "not affected"
                )[:1000]
            )

    def _keep(self, target: Path) -> Iterator[str]:
        """Copy the plain files that it left. What cannot be copied is said, and stays behind."""
        left, names = _MOST_BYTES, file_names(self._out, _MOST_FILES + 1)
        if len(names) > _MOST_FILES:
            yield f"it left more than {_MOST_FILES} files; only so many are kept"
        for name in names[:_MOST_FILES]:
            try:
                if not _NAME.fullmatch(name):
                    raise IntegrityError("a name is of A-Z, a-z, 0-9, _, . and -")
                target.mkdir(parents=True, exist_ok=True)
                (target / name).unlink(missing_ok=True)
                left -= copy_file(self._out, name, target / name, left, mode=0o644).bytes
            except (OSError, IntegrityError) as error:
                why = getattr(error, "strerror", None) or str(error)
                yield f"{shown_name(name[:100])} is not kept: {why}"


def reported(prepared: Prepared, folder: Path) -> dict[str, Any]:
    """What a reporter is told of a run, but for its folder."""
    from kdbench.bench.plan.machine import software

    return {
        "name": folder.resolve().name,
        "request": prepared.spec.model_dump(mode="json"),
        "versions": software(),
    }


@contextlib.contextmanager
def tracking(
    names: Iterable[str],
    registry: Answers,
    prepared: Prepared,
    folder: Path,
    tell: Callable[[str], None],
) -> Iterator[list[Tracker]]:
    """Reporters that live as long as a run.

    Args:
        names: of those that are wanted.
        registry: knows them. A :class:`Catalogue`, unless none is wanted.
        folder: of the results.
    """
    trackers: list[Tracker] = []
    patience_s = math.inf
    try:
        for name in names:
            assert isinstance(registry, Catalogue)
            run = reported(prepared, folder)
            trackers.append(Tracker(registry.reporter(name), registry.hosts, run, tell))
        yield trackers
    except BaseException:
        patience_s = INTERRUPTED_S  # whoever ends a run does not want to wait
        raise
    finally:
        for tracker in trackers:
            tracker.close(folder, patience_s)
