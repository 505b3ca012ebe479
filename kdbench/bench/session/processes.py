"""The processes of one command, or of one function of the Python API: those that answer for
plugins, and those that compute."""

from __future__ import annotations

import functools
import importlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from kdbench.bench.session.tell import Tell
from kdbench.errors import PluginLoadError
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdbench.bench.plan.plan import Stage
    from kdbench.bench.run.calibration import Calibration
    from kdbench.bench.run.forecast import Calibrate
    from kdbench.bench.work.executors.make import ExecutorName
    from kdbench.loading.answers import Answers
    from kdbench.loading.catalogue import Catalogue
    from kdbench.loading.choice import PluginChoice
    from kdbench.loading.registry import Registry
    from kdbench.numerics import Numerics
    from kdbench.untrusted.processes.client import Zygote

T = TypeVar("T", bound="Answers")


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
        tell: takes a line for each plugin that could not be loaded.
        executor: what computes stages.
        computes: whether any stage will be computed.
        shows_broken: the command itself shows plugins that could not be loaded.
    """

    def __init__(
        self,
        choice: PluginChoice,
        tell: Tell,
        executor: ExecutorName = "local",
        computes: bool = True,
        shows_broken: bool = False,
    ) -> None:
        self.choice, self.tell, self.shows_broken = choice, tell, shows_broken
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
        known = vars(self).get("catalogue") or vars(self).get("registry")
        if known is not None:
            known.close()
        if self.zygote is not None:
            self.zygote.close()
        if known is not None and (hinted := known.hinted(error)) is not None:
            raise hinted from error

    def answers(self) -> Answers:
        """What is known of the plugins, for a command that plans."""
        if self.zygote is None:
            return self.registry
        # It takes as long as the zygote's own import of torch, and is needed next.
        importlib.import_module("kdbench.bench.plan.prepare")
        return self.catalogue

    def calibrate(self, numerics: Numerics, **options: Any) -> Calibrate | None:
        """What tries how fast this machine is. None for ``inline``, which has no other process.

        Args:
            numerics: of the run.
            options: of :func:`kdbench.bench.run.calibration.calibrate`.
        """
        zygote = self.zygote
        if zygote is None:
            return None

        def calibrated(stages: Sequence[Stage]) -> Calibration | None:
            from kdbench.bench.run import calibration

            return calibration.calibrate(stages, numerics, zygote, **options)

        return calibrated

    def digests(self) -> dict[str, str]:
        """Installed plugins, kdbench's own too -> digest of their source."""
        plugins = self.catalogue.plugins
        return {p.name: p.source for p in plugins if p.status == "ok" and not p.is_file}

    @functools.cached_property
    def catalogue(self) -> Catalogue:
        """The same for a command that imports no plugin."""
        from kdbench.loading.catalogue import Catalogue
        from kdbench.loading.hosts import Hosts

        assert self.zygote is not None
        return self._whole(Catalogue.load(Hosts(self.zygote), choice=self.choice))

    @functools.cached_property
    def registry(self) -> Registry:
        """The plugins, imported into this process."""
        from kdbench.loading.registry import Registry

        return self._whole(Registry.load(choice=self.choice))

    def _whole(self, known: T) -> T:
        """Tell of installed plugins that could not be loaded. Of files all must be there.

        Raises:
            PluginLoadError: one of the files of the choice could not be loaded.
        """
        if self.shows_broken:
            return known
        broken = [plugin for plugin in known.plugins if plugin.status == "broken"]
        if files := [plugin for plugin in broken if plugin.is_file]:
            known.close()
            causes = "; ".join(f"{plugin.path}: {plugin.cause}" for plugin in files)
            raise PluginLoadError(f"--plugin-file {causes}")
        for plugin in broken:
            line = f"plugin {plugin.name} ({plugin.owner}) could not be loaded: {plugin.cause}"
            self.tell(strip_control(line))
        return known
