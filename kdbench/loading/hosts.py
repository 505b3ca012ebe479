"""The coordinator's side of the processes that answer for plugins.

There is one for all of kdbench's own plugins, and one for each other distribution or file. Whatever
such a process does, the worst that follows is that its own plugins are broken.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from kdbench import errors
from kdbench.errors import ContractError, KdbenchError
from kdbench.loading.candidates import Definition, Plugin, broken
from kdbench.loading.facts import PluginReport
from kdbench.untrusted.processes.client import Walled, Zygote, wait
from kdbench.untrusted.processes.environment import allowed_environment, temporary_environment
from kdbench.untrusted.processes.order import View
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from kdbench.data import Dataset, DatasetRequest

#: What :meth:`Zygote.start` calls in such a process.
ENTRY = "kdbench.loading.host:serve"
#: The same for one that runs the conformance kit.
CHECKS = "kdbench.testing.host:serve"
#: Seconds between the end of a channel and the end of its process.
_CLOSED_S = 2.0
#: Largest file of a blank network, MiB.
_NETWORK_MB = 8192
_NONSENSE = "its process said nonsense"
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


class _LostError(Exception):
    """A process does not answer any more; the text says why."""


class Starter(Protocol):
    """What starts the processes: a :class:`kdbench.untrusted.processes.client.Zygote`."""

    def start(
        self,
        entry: str,
        order: Mapping[str, Any],
        view: View,
        *,
        log: int | None = None,
        environment: Mapping[str, str] = {},
        links: Mapping[str, int] = {},
    ) -> Walled: ...


@dataclass
class _Host:
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

    def look(self, seconds: float, doing: str) -> None:
        """Take in what it wrote. Raises _LostError where nothing more will come."""
        self.walled.look()
        # After the look: what it wrote before it ended is heard first.
        self.lines += self.walled.hear()
        now = time.monotonic()
        if self.lines:
            self.since = now
            return
        if self.walled.exit is not None:
            raise _LostError(f"its process {_ending(self.walled.exit.code)} {doing}")
        if self.walled.silent and now > self.since + _CLOSED_S:
            raise _LostError(f"its process closed its channel {doing}")
        if self.walled.report is None:
            seconds = self.limits.start_s
        elif self.walled.reported_at is not None:
            self.since = max(self.since, self.walled.reported_at)
        if now > self.since + seconds:
            raise _LostError(f"its process did not end in {seconds:g} s {doing}")
        if self.memory_mb is not None and now > self._next_look:
            self._next_look = now + 0.5
            if self.walled.memory_mb() > self.memory_mb:
                raise _LostError(f"its process took more than {self.memory_mb:.0f} MiB {doing}")

    def message(self) -> dict[str, Any] | None:
        """The next message, None if there is none yet."""
        if not self.lines:
            return None
        try:
            message = json.loads(self.lines.popleft())
        except (ValueError, RecursionError):
            raise _LostError(_NONSENSE) from None
        if not isinstance(message, dict):
            raise _LostError(_NONSENSE)
        return message


def _ending(code: int | None) -> str:
    if code is None:
        return "ended"
    if code < 0:
        names = {int(number): number.name for number in signal.Signals}
        return f"was ended by {names.get(-code, f'signal {-code}')}"
    return f"exited with code {code}"


class Hosts:
    """Starts the processes, and asks them.

    Args:
        starter: forks them.
        limits: what each may take.
    """

    def __init__(self, starter: Starter | Zygote, limits: HostLimits | None = None) -> None:
        self.starter, self.limits = starter, limits or HostLimits()
        self._hosts: list[_Host] = []
        #: Plugins that one process has loaded.
        self._together: list[Sequence[Plugin]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="kdbench-hosts-"))
        self._count = 0

    def begin(self, plugins: Iterable[Plugin]) -> None:
        """Start a process for each distribution and each file. It imports its plugins at once."""
        groups: dict[tuple[str, Path | None], list[Plugin]] = defaultdict(list)
        for plugin in plugins:
            groups[plugin.distribution, plugin.path if plugin.is_file else None].append(plugin)
        memory_mb = self.limits.memory_mb
        self._hosts = [self._start(group, memory_mb=memory_mb) for group in groups.values()]

    def describe(self) -> list[Plugin]:
        """The plugins of :meth:`begin`, with what they define, or why they are broken."""
        plugins: list[Plugin] = []
        waiting = list(self._hosts)
        while waiting:
            _wait(waiting)
            for host in list(waiting):
                try:
                    self._load(host)
                except _LostError as why:
                    waiting.remove(host)
                    again, lost = self._without_one(host, str(why))
                    plugins += lost
                    waiting += again
                if host.ready:
                    waiting.remove(host)
                    plugins += host.loaded
                    self._together.append(host.loaded)
        return plugins

    def ask(self, plugin: Plugin, question: str, **arguments: Any) -> Any:
        """Ask the process of a plugin, which :meth:`begin` has started.

        Raises:
            KdbenchError: what the process raised; ContractError if it did not answer.
            RaisedError: it raised something else.
        """
        host = self._host_of(plugin)
        return _answer(self._parts(host, plugin, question, arguments, self.limits.answer_s))

    def check(self, plugin: Plugin, kind: str, name: str, variant: str) -> Iterator[Any]:
        """Results of the conformance kit for a method, each as soon as it is there."""
        reads = (plugin.path,) if plugin.is_file and plugin.path is not None else ()
        with self._alone(plugin, View(read=reads), CHECKS) as host:
            arguments = {"kind": kind, "name": name, "variant": variant}
            yield from self._parts(host, plugin, "check", arguments, self.limits.check_s)

    def load_dataset(self, plugin: Plugin, name: str, request: DatasetRequest) -> Dataset:
        """Load a plugin's dataset in a process of its own.

        The process may read the folder of the dataset. It reaches the network, and writes the
        folder, only with ``--download``.

        Raises:
            KdbenchError: what the process raised; ContractError if what it left cannot be used.
            RaisedError: it raised something else.
            OSError: as it raised it.
        """
        from kdbench.loading.images import LARGEST, read_dataset

        data = () if request.data_dir is None else (request.data_dir.absolute(),)
        values = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(request).items()
        }
        if data:
            values["data_dir"] = str(data[0])
        view = View(
            read=data,
            write=data if request.download else (),
            network=request.download,
            file_mb=LARGEST >> 20,
        )
        written = self.written(
            plugin, "dataset", view, self.limits.dataset_s, dataset=name, request=values
        )
        with written as (answer, box):
            return read_dataset(request, answer, box)

    @contextlib.contextmanager
    def written(
        self,
        plugin: Plugin,
        question: str,
        view: View | None = None,
        seconds: float | None = None,
        **arguments: Any,
    ) -> Iterator[tuple[Any, Path]]:
        """Ask a process of its own that writes into a folder: (its answer, the folder).

        The process has ended by then, with all that it started. So nobody changes the files any
        more. The folder is removed in the end.
        """
        box = self._box()
        view = view or View(file_mb=_NETWORK_MB)
        view = replace(view, write=(box, *view.write))
        try:
            with self._alone(plugin, view, ENTRY) as host:
                asked = {**arguments, "box": str(box)}
                answer = _answer(
                    self._parts(host, plugin, question, asked, seconds or self.limits.answer_s)
                )
            yield answer, box
        finally:
            shutil.rmtree(box, ignore_errors=True)

    def close(self) -> None:
        """End all processes. One that is asked later is started again."""
        for host in self._hosts:
            host.walled.close()
        self._hosts = []
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- one process -------------------------------------------------------------------------------

    def _box(self) -> Path:
        """A new folder for one process."""
        self._count += 1
        box = self._folder / str(self._count)
        box.mkdir(parents=True)
        return box

    def _start(
        self,
        plugins: Sequence[Plugin],
        view: View | None = None,
        entry: str = ENTRY,
        memory_mb: float | None = None,
    ) -> _Host:
        from kdbench.loading.orders import plugin_order

        view = view or View(file_mb=self.limits.file_mb)
        box = view.write[0] if view.write else self._box()
        paths = [path for path in _import_paths() if path.exists()]
        view = replace(
            view,
            read=(*view.read, *paths),
            write=view.write or (box,),
            file_mb=view.file_mb or self.limits.file_mb,
        )
        order = {"plugins": [plugin_order(p) for p in plugins], "paths": [str(p) for p in paths]}
        walled = self.starter.start(entry, order, view, environment=temporary_environment(box))
        return _Host(plugins, walled, self.limits, memory_mb, time.monotonic())

    @contextlib.contextmanager
    def _alone(
        self, plugin: Plugin, view: View, entry: str, memory_mb: float | None = None
    ) -> Iterator[_Host]:
        """A further process with one plugin loaded. It has ended when this returns."""
        host = self._start([plugin], view, entry, memory_mb)
        try:
            self._finish(host, plugin)
            if host.loaded[0].status != "ok":
                raise _contract_error(plugin, host.loaded[0].cause)
            yield host
        finally:
            _end(host.walled)

    def _host_of(self, plugin: Plugin) -> _Host:
        """The process that has a plugin loaded, started again if it was ended."""
        for host in self._hosts:
            if any(_same(other, plugin) for other in host.loaded):
                return host
        together = next(group for group in self._together if any(_same(p, plugin) for p in group))
        host = self._start(together, memory_mb=self.limits.memory_mb)
        self._hosts.append(host)
        self._finish(host, plugin)
        return host

    def _finish(self, host: _Host, plugin: Plugin) -> None:
        """Wait until a process has loaded its plugins. ``plugin`` is whom a message names."""
        try:
            while not host.ready:
                _wait([host])
                self._load(host)
        except _LostError as why:
            host.lost = str(why)
            raise _contract_error(plugin, str(why)) from None

    def _load(self, host: _Host) -> None:
        """Take in what a process says of its plugins."""
        left = host.plugins[len(host.loaded) :]
        host.look(self.limits.import_s, "while it was imported")
        while (message := host.message()) is not None:
            if message == {"loaded": True} and not left:
                host.ready = True
                return
            if not left:
                raise _LostError(_NONSENSE)
            host.loaded.append(_reported(left[0], message))
            left = left[1:]

    def _without_one(self, host: _Host, why: str) -> tuple[list[_Host], list[Plugin]]:
        """(a new process for the other plugins of a lost one, the plugins that are broken)."""
        host.walled.close()
        host.lost = why
        self._hosts.remove(host)
        culprit = min(len(host.loaded), len(host.plugins) - 1)
        rest = [p for at, p in enumerate(host.plugins) if at != culprit]
        lost = broken(host.plugins[culprit], why)
        again = [self._start(rest, memory_mb=host.memory_mb)] if rest else []
        self._hosts += again
        return again, [lost]

    def _parts(
        self,
        host: _Host,
        plugin: Plugin,
        question: str,
        arguments: Mapping[str, Any],
        seconds: float,
    ) -> Generator[Any, None, Any]:
        """The parts of an answer. The generator's value is the answer itself."""
        try:
            if host.lost:
                raise _LostError(host.lost)
            host.walled.say(json.dumps({"ask": question, "with": arguments}).encode())
            host.since = time.monotonic()
            while True:
                _wait([host])
                host.look(seconds, "while it was asked")
                while (message := host.message()) is not None:
                    if "part" in message:
                        yield message["part"]
                    elif "answer" in message:
                        return message["answer"]
                    else:
                        raise _raised(message.get("error"))
        except _LostError as why:
            host.lost = str(why)
            host.walled.close()
            raise _contract_error(plugin, str(why)) from None


def _answer(parts: Generator[Any, None, Any]) -> Any:
    """The answer, its parts left out."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value


def _wait(hosts: Sequence[_Host]) -> None:
    """Wait until a process has something to say, and no longer than a moment."""
    if not any(host.lines for host in hosts):
        wait([host.walled for host in hosts], 0.1)


def _end(walled: Walled) -> None:
    """End a process, and wait until all that it started has ended."""
    walled.kill()
    deadline = time.monotonic() + 10
    while walled.exit is None and time.monotonic() < deadline:
        wait([walled], 0.1)
        walled.hear()
        walled.look()
    walled.close()


def _same(a: Plugin, b: Plugin) -> bool:
    return (a.name, a.module, a.distribution, a.path) == (b.name, b.module, b.distribution, b.path)


def _reported(plugin: Plugin, message: Mapping[str, Any]) -> Plugin:
    """A plugin as its process describes it. What the coordinator knows itself stays."""
    try:
        report = PluginReport.model_validate(message["plugin"])
    except (ValidationError, LookupError, RecursionError):
        raise _LostError(_NONSENSE) from None
    names = [(facts.kind, facts.name) for facts in report.defines]
    if report.name != plugin.name or len(set(names)) < len(names):
        raise _LostError(_NONSENSE)
    if report.status == "broken":
        return replace(broken(plugin, report.cause, report.trace), seconds=report.seconds)
    defines = tuple(Definition(facts.kind, facts.name, facts) for facts in report.defines)
    return replace(plugin, api=report.api, seconds=report.seconds, defines=defines)


def _raised(error: Any) -> Exception:
    """The error that a process tells of."""
    if not isinstance(error, dict):
        return _LostError(_NONSENSE)
    kind = str(error.get("kind"))[:100]
    text, where = (str(error.get(key, ""))[:4000] for key in ("text", "where"))
    if kind in _ERRORS:
        return _ERRORS[kind](text)
    if kind == "OSError":
        file = error.get("file")
        return OSError(0, text, str(file)[:1000]) if file is not None else OSError(0, text)
    return RaisedError(text, where)


def _contract_error(plugin: Plugin, why: str) -> ContractError:
    return ContractError(f"plugin {plugin.name} ({plugin.owner}): {strip_control(why)}")


def _import_paths() -> list[Path]:
    """Folders to import from that a process may have been started without."""
    return [Path(path) for path in allowed_environment()["PYTHONPATH"].split(":") if path]
