"""The processes of one command: those that answer for plugins, and those that compute."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdbench.bench.work.executors.make import ExecutorName
    from kdbench.loading.answers import Answers
    from kdbench.loading.catalogue import Catalogue
    from kdbench.loading.choice import PluginChoice
    from kdbench.loading.registry import Registry
    from kdbench.untrusted.processes.client import Zygote


def start_zygote(computes: bool) -> Zygote:
    """A process that forks the others. It imports what they need while this one goes on.

    Args:
        computes: it will fork the processes of stages, too.
    """
    from kdbench.untrusted.processes.client import Zygote

    if not computes:
        return Zygote(("kdbench.loading.host",))
    from kdbench.bench.work.executors.local import IMPORTS

    return Zygote(("kdbench.loading.host",), later=IMPORTS)


class Processes:
    """What a command starts. The executor ``inline`` starts nothing: it imports plugins here.

    Args:
        choice: which plugins are wanted.
        executor: what computes stages.
        computes: whether any stage will be computed.
    """

    def __init__(
        self, choice: PluginChoice, executor: ExecutorName = "local", computes: bool = True
    ) -> None:
        self.choice = choice
        #: Forks what this command starts. None for ``inline``.
        self.zygote = None if executor == "inline" else start_zygote(computes)

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if "catalogue" in vars(self):
            self.catalogue.close()
        if self.zygote is not None:
            self.zygote.close()

    def answers(self) -> Answers:
        """What is known of the plugins, for a command that plans."""
        if self.zygote is None:
            return self.registry
        # It takes as long as the zygote's own import of torch, and is needed next.
        importlib.import_module("kdbench.bench.plan.prepare")
        return self.catalogue

    @functools.cached_property
    def catalogue(self) -> Catalogue:
        """The same for a command that imports no plugin."""
        from kdbench.loading.catalogue import Catalogue
        from kdbench.loading.hosts import Hosts

        assert self.zygote is not None
        return Catalogue.load(Hosts(self.zygote), choice=self.choice)

    @functools.cached_property
    def registry(self) -> Registry:
        """The plugins, imported into this process."""
        from kdbench.loading.registry import Registry

        return Registry.load(choice=self.choice)


@contextlib.contextmanager
def catalogue(choice: PluginChoice) -> Iterator[Catalogue]:
    """What is known of the plugins of a choice, for a command that computes nothing."""
    with Processes(choice, computes=False) as processes:
        yield processes.catalogue
