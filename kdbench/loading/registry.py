"""Every attack, distiller and defense by name. Built-ins and a stranger's package come through the
same entry points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from kdbench.data import dataset_names
from kdbench.errors import PluginLoadError, UnknownMethodError, UsageError, unknown
from kdbench.loading.choice import Choice, owner_of
from kdbench.loading.plugin import (
    GROUP,
    KINDS,
    MADE,
    Plugin,
    blocked,
    broken,
    describe,
    describe_file,
    load,
)
from kdbench.method import Method
from kdbench.models import model_names

#: The distribution of the built-ins: they came first, so whoever takes one of their names is the
#: one that is refused it.
_OWN = "kdbench"


@dataclass(frozen=True)
class Found:
    """A method, or a function that makes a model or loads a dataset, and the plugin it came
    from."""

    cls: Any
    plugin: Plugin

    @property
    def origin(self) -> str:
        """Which code this is, e.g. ``kdbench 0.1 1f2e...``."""
        return " ".join(part for part in (self.plugin.owner, self.plugin.source) if part)

    @property
    def known_failures(self) -> list[str]:
        """What it says that it cannot keep of the conformance kit, in words."""
        known = getattr(self.cls, "known_failures", {})
        return [
            f"{self.cls.info.name} is known to fail {check}: {why}" for check, why in known.items()
        ]


@dataclass
class Registry:
    """Everything that could be loaded.

    methods: by kind and name. made: the models and datasets of plugins, by kind and name. plugins:
    all that were found, broken and blocked ones too.
    """

    methods: dict[str, dict[str, Found]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    made: dict[str, dict[str, Found]] = field(default_factory=lambda: {kind: {} for kind in MADE})
    plugins: list[Plugin] = field(default_factory=list)

    @classmethod
    def load(
        cls, points: Iterable[EntryPoint] | None = None, choice: Choice | None = None
    ) -> Registry:
        """Load each entry point of the group ``kdbench`` on its own, so that a broken plugin harms
        nobody else.

        One name has one meaning: of two plugins with the same entry-point name, or with a method of
        the same kind and name, neither is loaded, unless one is built in, which stays.

        Raises:
            UsageError: the choice names a plugin or a file that does not exist.
        """
        choice = choice or Choice()
        # An editable install lists the same distribution twice when both it and its folder are on
        # the path.
        asked = points if points is not None else entry_points(group=GROUP)
        known = {(point.name, owner_of(point)): point for point in asked}
        choice.check(known.values())
        plugins = [blocked(describe(point)) for point in known.values() if not choice.wants(point)]
        wanted = [describe_file(path) for path in choice.files]
        wanted += [describe(point) for point in known.values() if choice.wants(point)]
        owners = defaultdict(set)
        for plugin in wanted:
            owners[plugin.name].add(plugin.distribution)
        for plugin in wanted:
            rivals = owners[plugin.name] - {plugin.distribution}
            if rivals and plugin.distribution != _OWN:
                what = "the name" if plugin.is_file else "the entry point"
                plugins.append(broken(plugin, _conflict(what, plugin.name, rivals)))
            else:
                plugins.append(load(plugin))
        return cls._of(_without_rivals(plugins))

    @classmethod
    def _of(cls, plugins: Iterable[Plugin]) -> Registry:
        registry = cls(plugins=sorted(plugins, key=lambda plugin: (plugin.name, plugin.owner)))
        for plugin in registry.plugins:
            for one in plugin.defines:
                (registry.methods if one.kind in KINDS else registry.made)[one.kind][one.name] = (
                    Found(one.made, plugin)
                )
        return registry

    @property
    def broken(self) -> dict[str, str]:
        """Why each plugin that is broken is: ``NAME (DISTRIBUTION)`` -> cause."""
        return {f"{p.name} ({p.owner})": p.cause for p in self.plugins if p.status == "broken"}

    def packages(self) -> tuple[str, ...]:
        """Top-level packages of the plugins, sorted: where a stored module's classes may come
        from."""
        modules = (plugin.module.partition(":")[0] for plugin in self._used())
        return tuple(sorted({module.partition(".")[0] for module in modules} - {""}))

    def _used(self) -> Iterator[Plugin]:
        """The plugin of everything that could be loaded."""
        return (
            found.plugin
            for table in (self.methods | self.made).values()
            for found in table.values()
        )

    @property
    def models(self) -> dict[str, Any]:
        """The models of plugins: name -> a function as ``kdbench_models`` returns it."""
        return {name: found.cls for name, found in self.made["model"].items()}

    @property
    def datasets(self) -> dict[str, Any]:
        """The datasets of plugins: name -> a function as ``kdbench_datasets`` returns it."""
        return {name: found.cls for name, found in self.made["dataset"].items()}

    def origin_of_model(self, name: str) -> str:
        """Which code builds a model of a plugin; nothing for kdbench's own and a library's, which
        have their versions."""
        return self.made["model"][name].origin if name in self.made["model"] else ""

    def files(self) -> dict[str, bytes]:
        """The one-off plugins: the name of each one's module -> its source."""
        return {plugin.module: plugin.content for plugin in self._used() if plugin.is_file}

    def points(self, methods: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Entry points (name -> value) of the plugins that define these (kind, name)."""
        return {
            found.plugin.name: found.plugin.module
            for found in self.found(methods)
            if found.plugin.module
        }

    def found(self, names: Iterable[tuple[str, str]]) -> list[Found]:
        """What plugins define of these (kind, name); what is kdbench's own or a library's is passed
        over."""
        tables = self.methods | self.made
        return [tables[kind][name] for kind, name in names if name in tables[kind]]

    def names(self, kind: str) -> list[str]:
        """Sorted names of one kind."""
        return sorted(self.methods[kind])

    def get(self, kind: str, name: str) -> type[Method]:
        """The class of that kind and name.

        Raises:
            UnknownMethodError: nothing of that kind has the name (says where the name does exist).
            PluginLoadError: as above, while some plugin that might define it is broken.
        """
        found = self.methods[kind].get(name)
        if found is not None:
            return found.cls
        elsewhere = [other for other in KINDS if name in self.methods[other]]
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
        """(class, variant) of ``NAME``, ``NAME.VARIANT``, or, where several kinds share a name,
        ``KIND.NAME``.

        Raises:
            UsageError: there is none, or several.
        """
        kind, _, rest = name.partition(".")
        if kind in KINDS and rest:
            kinds, name = [kind], rest
        else:
            kinds = [kind for kind in KINDS if base_name(name) in self.methods[kind]]
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
    """Two plugins that define the same thing are both broken, but for a built-in one; kdbench's own
    names are taken."""
    makers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, names in (("model", model_names()), ("dataset", dataset_names())):
        for name in names:
            makers[kind, name].append(_OWN)
    for plugin in plugins:
        for one in plugin.defines:
            makers[one.kind, one.name].append(f"{plugin.name} of {plugin.distribution}")
    found = []
    for plugin in plugins:
        shared = [one for one in plugin.defines if len(makers[one.kind, one.name]) > 1]
        if shared and plugin.distribution != _OWN:
            rivals = [
                m
                for m in makers[shared[0].kind, shared[0].name]
                if m != f"{plugin.name} of {plugin.distribution}"
            ]
            plugin = broken(plugin, _conflict(f"the {shared[0].kind}", shared[0].name, rivals))
        found.append(plugin)
    return found


def _conflict(what: str, name: str, rivals: Iterable[str]) -> str:
    others = ", ".join(sorted(rivals))
    return (
        f"{what} {name!r} is also defined by {others}; rename it, uninstall one of them or block "
        "one with -p no:NAME"
    )
