"""Every attack, distiller and defense by name. Built-ins and a stranger's package come through the same entry points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from kdbench.errors import PluginLoadError, UnknownMethodError, unknown
from kdbench.loading import GROUP, KINDS, Choice, Plugin, blocked, broken, describe, load_file, load_point, owner_of
from kdbench.method import Method

#: The distribution of the built-ins: they came first, so whoever takes one of their names is the one that is refused it.
_OWN = "kdbench"


@dataclass(frozen=True)
class Found:
    """A method and the plugin it came from."""

    cls: type[Method]
    plugin: Plugin

    @property
    def origin(self) -> str:
        """Which code this is, e.g. ``kdbench 0.1 1f2e...``."""
        return " ".join(part for part in (self.plugin.owner, self.plugin.source) if part)

    @property
    def known_failures(self) -> list[str]:
        """What it says that it cannot keep of the conformance kit, in words."""
        return [f"{self.cls.info.name} is known to fail {check}: {why}" for check, why in self.cls.known_failures.items()]


@dataclass
class Registry:
    """Every method that could be loaded. plugins: all that were found, broken and blocked ones too, by name."""

    methods: dict[str, dict[str, Found]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    plugins: list[Plugin] = field(default_factory=list)

    @classmethod
    def load(cls, points: Iterable[EntryPoint] | None = None, choice: Choice | None = None) -> Registry:
        """Load each entry point of the group ``kdbench`` on its own, so that a broken plugin harms nobody else.

        One name has one meaning: of two plugins with the same entry-point name, or with a method of the same kind and name,
        neither is loaded, unless one is built in, which stays.

        Raises:
            UsageError: the choice names a plugin or a file that does not exist.
        """
        choice = choice or Choice()
        # An editable install lists the same distribution twice when both it and its folder are on the path.
        asked = points if points is not None else entry_points(group=GROUP)
        known = {(point.name, owner_of(point)): point for point in asked}
        choice.check(known.values())
        plugins = [load_file(path) for path in choice.files]
        wanted = [point for point in known.values() if choice.wants(point)]
        owners = defaultdict(set)
        for point in wanted:
            owners[point.name].add(owner_of(point))
        for plugin in plugins:
            owners[plugin.name].add(plugin.distribution)
        for point in known.values():
            rivals = owners[point.name] - {owner_of(point)}
            if not choice.wants(point):
                plugins.append(blocked(describe(point)))
            elif rivals and owner_of(point) != _OWN:
                plugins.append(broken(describe(point), _conflict("the entry point", point.name, rivals)))
            else:
                plugins.append(load_point(point))
        for i, plugin in enumerate(plugins):
            rivals = owners[plugin.name] - {plugin.distribution}
            if plugin.is_file and rivals:
                plugins[i] = broken(plugin, _conflict("the name", plugin.name, rivals))
        return cls._of(_without_rivals(plugins))

    @classmethod
    def _of(cls, plugins: Iterable[Plugin]) -> Registry:
        registry = cls(plugins=sorted(plugins, key=lambda plugin: (plugin.name, plugin.owner)))
        for plugin in registry.plugins:
            for kind, method in plugin.methods:
                registry.methods[kind][method.info.name] = Found(method, plugin)
        return registry

    @property
    def broken(self) -> dict[str, str]:
        """Why each plugin that is broken is: ``NAME (DISTRIBUTION)`` -> cause."""
        return {f"{p.name} ({p.owner})": p.cause for p in self.plugins if p.status == "broken"}

    def packages(self) -> tuple[str, ...]:
        """Top-level packages of the plugins, sorted: where a stored module's classes may come from."""
        used = (found.plugin for methods in self.methods.values() for found in methods.values())
        return tuple(sorted({plugin.module.partition(":")[0].partition(".")[0] for plugin in used} - {""}))

    def files(self) -> dict[str, bytes]:
        """The one-off plugins: the name of each one's module -> its source."""
        return {plugin.module: plugin.content for plugin in self.plugins if plugin.is_file and plugin.status == "ok"}

    def points(self, methods: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Entry points (name -> value) of the plugins that define these (kind, name)."""
        found = [self.methods[kind][name].plugin for kind, name in methods]
        return {plugin.name: plugin.module for plugin in found if plugin.module}

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
                f"unknown {kind} {name!r}: there is {article} {elsewhere[0]} of that name; {kind}s: {known}; run `kdbench list`"
            )
        message = unknown(kind, name, self.names(kind), "run `kdbench list`")
        if self.broken:
            causes = "; ".join(f"{plugin} [{why}]" for plugin, why in sorted(self.broken.items()))
            raise PluginLoadError(f"{message}. It may belong to a plugin that could not be loaded: {causes}")
        raise UnknownMethodError(message)


def base_name(name: str) -> str:
    """The method that a name is of: ``robustkd`` for ``robustkd.eq15``."""
    return name.partition(".")[0]


def _without_rivals(plugins: list[Plugin]) -> list[Plugin]:
    """Two plugins that define the same method are both broken, but for a built-in one."""
    makers: dict[tuple[str, str], list[Plugin]] = defaultdict(list)
    for plugin in plugins:
        for kind, method in plugin.methods:
            makers[kind, method.info.name].append(plugin)
    found = []
    for plugin in plugins:
        names = [(kind, method.info.name) for kind, method in plugin.methods]
        shared = [(kind, name) for kind, name in names if len(makers[kind, name]) > 1]
        if shared and plugin.distribution != _OWN:
            kind, name = shared[0]
            rivals = {f"{other.name} of {other.distribution}" for other in makers[kind, name] if other is not plugin}
            plugin = broken(plugin, _conflict(f"the {kind}", name, rivals))
        found.append(plugin)
    return found


def _conflict(what: str, name: str, rivals: Iterable[str]) -> str:
    others = ", ".join(sorted(rivals))
    return f"{what} {name!r} is also defined by {others}; rename it, uninstall one of them or block one with -p no:NAME"
