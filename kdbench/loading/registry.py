"""Plugins imported in this process.

kdbench's own come through the same hooks as those of any other package. A job has a registry of the
plugins that its stage needs, and a process that answers for a plugin has one of that plugin. The
coordinator of a run has one only if everything is computed in its process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint
from typing import cast

from kdbench.data import DatasetSource
from kdbench.errors import ContractError
from kdbench.loading.answers import Answers, base_name
from kdbench.loading.answers import Registered as Registered
from kdbench.loading.candidates import CORE, Plugin, advised, candidates, digest_of, without_rivals
from kdbench.loading.choice import PluginChoice
from kdbench.loading.facts import MethodFacts, method_facts
from kdbench.loading.plugin import load
from kdbench.loading.settling import Settled, Wanted, settle
from kdbench.method import Method
from kdbench.models import ModelSource
from kdbench.models.named import NetworkFacts, named_facts

__all__ = ["Registered", "Registry", "base_name", "built_in"]


@cache
def built_in() -> Plugin:
    """kdbench's own networks and datasets."""
    plugin = load(CORE)
    if plugin.status != "ok":
        raise ContractError(f"kdbench's own networks and datasets are broken: {plugin.cause}")
    return plugin


@dataclass
class Registry(Answers):
    """Everything that could be loaded into this process."""

    def __post_init__(self) -> None:
        for definition in built_in().defines:
            table = self.registered_models if definition.kind == "model" else None
            table = self.registered_datasets if table is None else table
            table.setdefault(definition.name, Registered(definition.value, built_in()))

    @classmethod
    def load(
        cls, points: Iterable[EntryPoint] | None = None, choice: PluginChoice | None = None
    ) -> Registry:
        """Load each plugin apart from the others. A broken one does no harm to them.

        Two plugins with one name, or with methods of one kind and name, are both refused. If one of
        the two is built in, only the other is.

        Args:
            points: None: all that are installed.
            choice: None: every plugin is wanted.

        Raises:
            UsageError: the choice names a plugin or a file that does not exist.
        """
        known = candidates(points, choice)
        loaded = [advised(_digested(load(plugin))) for plugin in known.wanted]
        plugins = without_rivals([*known.refused, *loaded], built_in())
        registry = cls(plugins=sorted(plugins, key=lambda plugin: (plugin.name, plugin.owner)))
        registry.add(registry.plugins)
        return registry

    @property
    def models(self) -> dict[str, ModelSource]:
        return {name: entry.value for name, entry in self.registered_models.items()}

    @property
    def datasets(self) -> dict[str, DatasetSource]:
        return {name: entry.value for name, entry in self.registered_datasets.items()}

    def get(self, kind: str, name: str) -> type[Method]:
        """The class of that kind and name.

        Raises:
            UnknownMethodError: nothing of that kind has the name.
            PluginLoadError: the same, but a broken plugin might define it.
        """
        return cast("type[Method]", self.registered(kind, name).value)

    def find(self, name: str) -> tuple[type[Method], str]:
        """(class, variant) of ``NAME`` or ``NAME.VARIANT``, as :meth:`identify`."""
        kind, base, variant = self.identify(name)
        return self.get(kind, base), variant

    def facts(self, kind: str, name: str) -> MethodFacts:
        return method_facts(self.get(kind, name))

    def settle(self, wanted: Wanted) -> Settled:
        return settle(self.get(wanted.kind, wanted.name), wanted)

    def _network(self, name: str, num_classes: int, image_size: int) -> NetworkFacts:
        return named_facts(name, num_classes, image_size, self.models)

    def close(self) -> None:
        """There is no process to end."""


def _digested(plugin: Plugin) -> Plugin:
    return plugin if plugin.status != "ok" else replace(plugin, source=digest_of(plugin))
