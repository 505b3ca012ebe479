"""Everything by name: attacks, distillers, defenses, networks and datasets.

kdbench's own come through the same hooks as those of any other package.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from kdbench import __version__
from kdbench.data import DatasetSource
from kdbench.errors import ContractError, PluginLoadError, UnknownMethodError, UsageError, unknown
from kdbench.loading.choice import PluginChoice, owner_of
from kdbench.loading.plugin import GROUP, Plugin, blocked, broken, describe, describe_file, load
from kdbench.method import METHOD_KINDS, Method
from kdbench.models import ModelSource

#: The distribution of the built-ins. A plugin that takes one of their names is refused, and the
#: built-in stays.
_DISTRIBUTION = "kdbench"


T = TypeVar("T")


@cache
def built_in() -> Plugin:
    """kdbench itself, as the plugin that brings its own networks and datasets.

    It is no entry point, so nobody can block it.
    """
    plugin = load(Plugin(_DISTRIBUTION, "kdbench.loading.builtin", _DISTRIBUTION, __version__))
    if plugin.status != "ok":
        raise ContractError(f"kdbench's own networks and datasets are broken: {plugin.cause}")
    return plugin


@dataclass(frozen=True)
class Registered(Generic[T]):
    """Something by name, and where it is from."""

    value: T
    """The class of a method, or the source of a network or a dataset."""
    plugin: Plugin
    """The plugin that brought it."""

    @property
    def is_built_in(self) -> bool:
        """It is one of kdbench's own networks and datasets."""
        return self.plugin is built_in()

    @property
    def origin(self) -> str:
        """Which code this is, for example ``kdbench 0.1 1f2e...``."""
        return " ".join(part for part in (self.plugin.owner, self.plugin.source) if part)

    @property
    def known_failures(self) -> list[str]:
        """The checks of the conformance kit that it says it fails, in words."""
        method = self.value
        if not (isinstance(method, type) and issubclass(method, Method)):
            return []
        return [
            f"{method.info.name} is known to fail {check}: {why}"
            for check, why in method.known_failures.items()
        ]


def _built_in(kind: str) -> dict[str, Registered[Any]]:
    return {
        definition.name: Registered(definition.value, built_in())
        for definition in built_in().defines
        if definition.kind == kind
    }


@dataclass
class Registry:
    """Everything that could be loaded. It always holds kdbench's own networks and datasets."""

    methods: dict[str, dict[str, Registered[type[Method]]]] = field(
        default_factory=lambda: {kind: {} for kind in METHOD_KINDS}
    )
    """Attacks, distillers and defenses, by kind and name."""
    registered_models: dict[str, Registered[ModelSource]] = field(
        default_factory=lambda: _built_in("model")
    )
    """Networks by name."""
    registered_datasets: dict[str, Registered[DatasetSource]] = field(
        default_factory=lambda: _built_in("dataset")
    )
    """Datasets by name."""
    plugins: list[Plugin] = field(default_factory=list)
    """All plugins, broken and blocked ones too. kdbench itself is not among them."""

    @classmethod
    def load(
        cls, points: Iterable[EntryPoint] | None = None, choice: PluginChoice | None = None
    ) -> Registry:
        """Load each entry point of the group ``kdbench`` apart from the others.

        A broken plugin does no harm to them. Two plugins with one entry-point name, or with methods
        of one kind and name, are both refused. If one of the two is built in, only the other is.

        Args:
            points: None: all that are installed.
            choice: None: every plugin is wanted.

        Raises:
            UsageError: the choice names a plugin or a file that does not exist.
        """
        choice = choice or PluginChoice()
        # An editable install is listed twice when its folder is on the path as well.
        installed = points if points is not None else entry_points(group=GROUP)
        known = {(point.name, owner_of(point)): point for point in installed}
        choice.check(known.values())
        plugins = [blocked(describe(point)) for point in known.values() if not choice.wants(point)]
        wanted = [describe_file(path) for path in choice.files]
        wanted += [describe(point) for point in known.values() if choice.wants(point)]
        owners = defaultdict(set)
        for plugin in wanted:
            owners[plugin.name].add(plugin.distribution)
        for plugin in wanted:
            rivals = owners[plugin.name] - {plugin.distribution}
            if rivals and plugin.distribution != _DISTRIBUTION:
                what = "the name" if plugin.is_file else "the entry point"
                plugins.append(broken(plugin, _conflict(what, plugin.name, rivals)))
            else:
                plugins.append(load(plugin))
        return cls._of(_without_rivals(plugins))

    @classmethod
    def _of(cls, plugins: Iterable[Plugin]) -> Registry:
        registry = cls(plugins=sorted(plugins, key=lambda plugin: (plugin.name, plugin.owner)))
        tables = registry._tables()
        for plugin in registry.plugins:
            for definition in plugin.defines:
                entry = Registered(definition.value, plugin)
                tables[definition.kind][definition.name] = entry
        return registry

    def _tables(self) -> dict[str, dict[str, Registered[Any]]]:
        """Everything, by kind and name."""
        return {
            **self.methods,
            "model": self.registered_models,
            "dataset": self.registered_datasets,
        }

    @property
    def broken(self) -> dict[str, str]:
        """``NAME (DISTRIBUTION)`` of each broken plugin -> the cause."""
        return {f"{p.name} ({p.owner})": p.cause for p in self.plugins if p.status == "broken"}

    def packages(self) -> tuple[str, ...]:
        """Top-level packages of the plugins, sorted. The classes of a stored module may come from
        these."""
        modules = (plugin.module.partition(":")[0] for plugin in self._used())
        return tuple(sorted({module.partition(".")[0] for module in modules} - {""}))

    def _used(self) -> Iterator[Plugin]:
        """The plugins of everything that could be loaded. One may come several times."""
        return (entry.plugin for _, _, entry in self._of_plugins())

    def _of_plugins(self) -> Iterator[tuple[str, str, Registered[Any]]]:
        """(kind, name, what it is) of everything but kdbench's own networks and datasets."""
        return (
            (kind, name, entry)
            for kind, table in self._tables().items()
            for name, entry in table.items()
            if not entry.is_built_in
        )

    @property
    def models(self) -> dict[str, ModelSource]:
        """Every network by name, kdbench's own and those of plugins."""
        return {name: entry.value for name, entry in self.registered_models.items()}

    @property
    def datasets(self) -> dict[str, DatasetSource]:
        """Every dataset by name, kdbench's own and those of plugins."""
        return {name: entry.value for name, entry in self.registered_datasets.items()}

    def origins(self) -> dict[str, str]:
        """``KIND.NAME`` of everything that plugins bring -> which code it is."""
        return {
            f"{kind}.{name}": entry.origin
            for kind, name, entry in sorted(self._of_plugins(), key=lambda entry: entry[:2])
        }

    def origin_of_model(self, name: str) -> str:
        """Which code builds the network of a plugin.

        Empty for kdbench's own networks and those of a library, which have versions.
        """
        return "".join(entry.origin for entry in self.entries([("model", name)]))

    def files(self) -> dict[str, bytes]:
        """The plugins that are files: name of the module -> text."""
        return {
            plugin.module: plugin.content for plugin in self._used() if plugin.content is not None
        }

    def points(self, methods: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Entry points (name -> value) of the plugins that define these (kind, name)."""
        return {
            entry.plugin.name: entry.plugin.module
            for entry in self.entries(methods)
            if entry.plugin.module
        }

    def entries(self, names: Iterable[tuple[str, str]]) -> list[Registered[Any]]:
        """What plugins define of these (kind, name).

        A network or dataset of kdbench or of a library is left out.
        """
        tables = self._tables()
        entries = (tables[kind].get(name) for kind, name in names)
        return [entry for entry in entries if entry is not None and not entry.is_built_in]

    def names(self, kind: str) -> list[str]:
        """Sorted names of one kind."""
        return sorted(self.methods[kind])

    def get(self, kind: str, name: str) -> type[Method]:
        """The class of that kind and name.

        Raises:
            UnknownMethodError: nothing of that kind has the name.
            PluginLoadError: the same, but a broken plugin might define it.
        """
        if name in self.methods[kind]:
            return self.methods[kind][name].value
        elsewhere = [other for other in METHOD_KINDS if name in self.methods[other]]
        if elsewhere:
            known = ", ".join(self.names(kind)) or "none"
            article = "an" if elsewhere[0][0] in "aeiou" else "a"
            raise UnknownMethodError(
                f"unknown {kind} {name!r}: there is {article} {elsewhere[0]} of that name; "
                f"{kind}s: {known}; run `kdbench list`"
            )
        message = unknown(kind, name, self.names(kind), "run `kdbench list`")
        if self.broken:
            causes = "; ".join(f"{plugin} [{why}]" for plugin, why in sorted(self.broken.items()))
            raise PluginLoadError(
                f"{message}. It may belong to a plugin that could not be loaded: {causes}"
            )
        raise UnknownMethodError(message)

    def find(self, name: str) -> tuple[type[Method], str]:
        """(class, variant) of ``NAME`` or ``NAME.VARIANT``.

        ``KIND.`` may stand before it, and must if several kinds have the name.

        Raises:
            UsageError: there is none, or several.
        """
        kind, _, rest = name.partition(".")
        if kind in METHOD_KINDS and rest:
            kinds, name = [kind], rest
        else:
            kinds = [kind for kind in METHOD_KINDS if base_name(name) in self.methods[kind]]
        if len(kinds) > 1:
            raise UsageError(f"{name!r} is {' and '.join(kinds)}; write {kinds[0]}.{name}")
        if not kinds:
            everything = {known for methods in self.methods.values() for known in methods}
            causes = "".join(f"; {plugin} is broken: {why}" for plugin, why in self.broken.items())
            raise UsageError(unknown("method", name, everything, "run `kdbench list`") + causes)
        cls = self.get(kinds[0], base_name(name))
        variant = name.partition(".")[2]
        if variant and variant not in cls.variants:
            raise UsageError(unknown(f"variant of {base_name(name)}", variant, cls.variants))
        return cls, variant


def base_name(name: str) -> str:
    """The method that a name is of: ``robustkd`` for ``robustkd.eq15``."""
    return name.partition(".")[0]


def _without_rivals(plugins: list[Plugin]) -> list[Plugin]:
    """The same plugins, those broken that define what another defines. A built-in stays."""
    makers: dict[tuple[str, str], list[Plugin]] = defaultdict(list)
    for plugin in (built_in(), *plugins):
        for definition in plugin.defines:
            makers[definition.kind, definition.name].append(plugin)
    return [_unless_rivalled(plugin, makers) for plugin in plugins]


def _unless_rivalled(plugin: Plugin, makers: Mapping[tuple[str, str], list[Plugin]]) -> Plugin:
    shared = [(d.kind, d.name) for d in plugin.defines if len(makers[d.kind, d.name]) > 1]
    if not shared or plugin.distribution == _DISTRIBUTION:
        return plugin
    kind, name = shared[0]
    rivals = [
        _DISTRIBUTION if maker is built_in() else f"{maker.name} of {maker.distribution}"
        for maker in makers[kind, name]
        if maker is not plugin
    ]
    return broken(plugin, _conflict(f"the {kind}", name, rivals))


def _conflict(what: str, name: str, rivals: Iterable[str]) -> str:
    others = ", ".join(sorted(rivals))
    return (
        f"{what} {name!r} is also defined by {others}; rename it, uninstall one of them or block "
        "one with -p no:NAME"
    )
