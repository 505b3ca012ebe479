"""The coordinator's side of the processes that answer for plugins.

There is one for all of kdbench's own plugins, and one for each other distribution or file. Whatever
such a process does, the worst that follows is that its own plugins are broken.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from kdbench.errors import ContractError
from kdbench.loading.candidates import Definition, Plugin, broken
from kdbench.loading.facts import PluginReport
from kdbench.loading.hosted import (
    NONSENSE,
    Host,
    HostLimits,
    LostError,
    end_process,
    raised_error,
    wait_for,
)
from kdbench.untrusted.box import remove_tree
from kdbench.untrusted.processes.client import Walled, Zygote
from kdbench.untrusted.processes.environment import temporary_environment
from kdbench.untrusted.processes.order import View
from kdbench.untrusted.processes.search import SearchPath
from kdbench.untrusted.text import strip_control
from kdbench.untrusted.wall.paths import importable

if TYPE_CHECKING:
    from kdbench.data import Dataset, DatasetRequest

#: What :meth:`Zygote.start` calls in such a process.
ENTRY = "kdbench.loading.host:serve"
#: The same for one that runs the conformance kit.
CHECKS = "kdbench.testing.host:serve"
#: The same for one that runs a reporter.
REPORTING = "kdbench.loading.reporting:serve"
#: Largest file of a blank network, MiB.
_NETWORK_MB = 8192
#: Seconds to remove what such processes wrote. It may be millions of files.
_REMOVAL_S = 5.0


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


class Hosts:
    """Starts the processes, and asks them.

    Args:
        starter: forks them.
        limits: what each may take.
    """

    def __init__(self, starter: Starter | Zygote, limits: HostLimits | None = None) -> None:
        self.starter, self.limits = starter, limits or HostLimits()
        self._hosts: list[Host] = []
        #: How they are walled in, as one that answered said. None: none has answered.
        self.confinement: str | None = None
        #: Plugins that one process has loaded.
        self._together: list[Sequence[Plugin]] = []
        #: Holds a folder for each process. Made when it is needed.
        self._folder: Path | None = None

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
            wait_for(waiting)
            for host in list(waiting):
                try:
                    self._load(host)
                except LostError as why:
                    waiting.remove(host)
                    again, lost = self._without_one(host, str(why))
                    plugins += lost
                    waiting += again
                if host.ready:
                    waiting.remove(host)
                    if host.walled.report is not None:
                        self.confinement = host.walled.report.text
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
        return self._answer(host, plugin, question, arguments, self.limits.answer_s)

    def check(
        self, plugin: Plugin, kind: str, name: str, rest: str, data_dir: Path | None = None
    ) -> Iterator[Any]:
        """Results of the conformance kit, each as soon as it is there.

        Args:
            rest: the variant of a method, the path of a dataset.
            data_dir: the folder of a dataset. The process may read it.
        """
        reads = [plugin.path] if plugin.is_file and plugin.path is not None else []
        # What is tested may write as much as a stage and a dataset's process may.
        view = View(read=tuple(reads), file_mb=_NETWORK_MB)
        if kind == "dataset" and rest:
            rest = str(Path(rest).expanduser().absolute())
            view = replace(view, read=(*reads, Path(rest)))
        elif kind == "dataset" and data_dir is not None:
            data_dir = data_dir.expanduser().absolute()
            view = replace(view, read=(*reads, data_dir))
        with self._alone(plugin, view, CHECKS) as host:
            folder = None if data_dir is None else str(data_dir)
            arguments = {"kind": kind, "name": name, "rest": rest, "data_dir": folder}
            yield from self._parts(
                host, plugin, "check", arguments, self.limits.check_s, self.limits.checks
            )

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
                limit = seconds or self.limits.answer_s
                arguments = {**arguments, "box": str(box)}
                answer = self._answer(host, plugin, question, arguments, limit)
            yield answer, box
        finally:
            remove_tree(box, _REMOVAL_S)

    def begin_reporter(self, plugin: Plugin) -> tuple[Host, Path]:
        """(a further process with one plugin, which runs its reporter; the folder where it writes).

        Nobody waits for it here. The caller ends it and removes the folder.
        """
        box = self._box()
        reads = (plugin.path,) if plugin.is_file and plugin.path is not None else ()
        view = View(read=reads, write=(box,), file_mb=self.limits.file_mb)
        return self._start([plugin], view, REPORTING, self.limits.memory_mb), box

    def close(self) -> None:
        """End all processes. One that is asked later is started again."""
        for host in self._hosts:
            host.walled.close()
        self._hosts = []
        if self._folder is not None:
            remove_tree(self._folder, _REMOVAL_S)
            self._folder = None

    # -- one process -------------------------------------------------------------------------------

    def _box(self) -> Path:
        """A new folder for one process."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="kdbench-hosts-"))
        return Path(tempfile.mkdtemp(dir=self._folder))

    def _start(
        self,
        plugins: Sequence[Plugin],
        view: View | None = None,
        entry: str = ENTRY,
        memory_mb: float | None = None,
    ) -> Host:
        from kdbench.loading.orders import plugin_order

        view = view or View(file_mb=self.limits.file_mb)
        box = view.write[0] if view.write else self._box()
        search = SearchPath.here()
        software = importable(search.inside(()))
        view = replace(
            view,
            read=(*view.read, *software.read),
            listed=software.listed,
            write=view.write or (box,),
            file_mb=view.file_mb or self.limits.file_mb,
        )
        order = {"plugins": [plugin_order(p) for p in plugins], "search": search.as_json()}
        walled = self.starter.start(entry, order, view, environment=temporary_environment(box))
        return Host(plugins, walled, self.limits, memory_mb, time.monotonic())

    @contextlib.contextmanager
    def _alone(
        self, plugin: Plugin, view: View, entry: str, memory_mb: float | None = None
    ) -> Iterator[Host]:
        """A further process with one plugin loaded. It has ended when this returns."""
        host = self._start([plugin], view, entry, memory_mb)
        try:
            self._finish(host, plugin)
            if host.loaded[0].status != "ok":
                raise _contract_error(plugin, host.loaded[0].cause)
            yield host
        finally:
            ended = end_process(host.walled)
        if not ended:
            raise _contract_error(plugin, "its process could not be ended")

    def _host_of(self, plugin: Plugin) -> Host:
        """The process that has a plugin loaded, started again if it was ended."""
        for host in self._hosts:
            if any(_same(other, plugin) for other in host.loaded):
                return host
        together = next(group for group in self._together if any(_same(p, plugin) for p in group))
        host = self._start(together, memory_mb=self.limits.memory_mb)
        self._hosts.append(host)
        self._finish(host, plugin)
        return host

    def _finish(self, host: Host, plugin: Plugin) -> None:
        """Wait until a process has loaded its plugins. ``plugin`` is whom a message names."""
        try:
            while not host.ready:
                wait_for([host])
                self._load(host)
        except LostError as why:
            host.lost = str(why)
            raise _contract_error(plugin, str(why)) from None

    def _load(self, host: Host) -> None:
        """Take in what a process says of its plugins."""
        left = host.plugins[len(host.loaded) :]
        host.look(self.limits.import_s, "while it was imported")
        while (message := host.message()) is not None:
            if message == {"loaded": True} and not left:
                host.ready = True
                return
            if not left:
                raise LostError(NONSENSE)
            host.loaded.append(_reported(left[0], message))
            left = left[1:]

    def _without_one(self, host: Host, why: str) -> tuple[list[Host], list[Plugin]]:
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

    def _answer(
        self,
        host: Host,
        plugin: Plugin,
        question: str,
        arguments: Mapping[str, Any],
        seconds: float,
    ) -> Any:
        """The answer to a question that is answered in one message."""
        try:
            next(self._parts(host, plugin, question, arguments, seconds))
        except StopIteration as end:
            return end.value
        raise AssertionError("a part where none is allowed")

    def _parts(
        self,
        host: Host,
        plugin: Plugin,
        question: str,
        arguments: Mapping[str, Any],
        seconds: float,
        most: int = 0,
    ) -> Generator[Any, None, Any]:
        """The parts of an answer, so many at most. The generator's value is the answer itself."""
        parts = 0
        try:
            if host.lost:
                raise LostError(host.lost)
            host.walled.say(json.dumps({"ask": question, "with": arguments}).encode())
            host.since = time.monotonic()
            while True:
                wait_for([host])
                host.look(seconds, "while it was asked")
                while (message := host.message()) is not None:
                    if "part" in message:
                        parts += 1
                        # Without a largest number, it could say parts for ever.
                        if parts > most:
                            raise LostError(NONSENSE)
                        yield message["part"]
                    elif "answer" in message:
                        return message["answer"]
                    else:
                        raise raised_error(message.get("error"))
        except LostError as why:
            host.lost = str(why)
            host.walled.close()
            raise _contract_error(plugin, str(why)) from None


def _same(a: Plugin, b: Plugin) -> bool:
    return (a.name, a.module, a.distribution, a.path) == (b.name, b.module, b.distribution, b.path)


def _reported(plugin: Plugin, message: Mapping[str, Any]) -> Plugin:
    """A plugin as its process describes it. What the coordinator knows itself stays."""
    try:
        report = PluginReport.model_validate(message["plugin"])
    except (ValidationError, LookupError, RecursionError):
        raise LostError(NONSENSE) from None
    names = [(facts.kind, facts.name) for facts in report.defines]
    if report.name != plugin.name or len(set(names)) < len(names):
        raise LostError(NONSENSE)
    if report.status == "broken":
        return replace(broken(plugin, report.cause, report.trace), seconds=report.seconds)
    defines = tuple(Definition(facts.kind, facts.name, facts) for facts in report.defines)
    return replace(plugin, api=report.api, seconds=report.seconds, defines=defines)


def _contract_error(plugin: Plugin, why: str) -> ContractError:
    return ContractError(f"plugin {plugin.name} ({plugin.owner}): {strip_control(why)}")
