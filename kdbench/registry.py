"""Finds attacks, distillers and defenses. Built-ins and a stranger's package come through the same entry points."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

import pluggy

from kdbench import hookspecs
from kdbench.attack import Attack
from kdbench.defense import Defense
from kdbench.distiller import Distiller
from kdbench.errors import ContractError, PluginConflictError, PluginLoadError, UnknownMethodError, unknown
from kdbench.method import Info, Method

GROUP = "kdbench"
KINDS: dict[str, type[Method]] = {"attack": Attack, "distiller": Distiller, "defense": Defense}


@dataclass(frozen=True)
class Found:
    """A method and the plugin it came from."""

    cls: type[Method]
    plugin: str
    distribution: str
    version: str


@dataclass
class Registry:
    """Every method that could be loaded, and for every plugin that could not the reason."""

    methods: dict[str, dict[str, Found]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    broken: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, points: Iterable[EntryPoint] | None = None) -> Registry:
        """Load each entry point of the group ``kdbench`` on its own, so that a broken plugin harms nobody else.

        Raises:
            PluginConflictError: two plugins share an entry-point name or define the same method.
        """
        registry = cls()
        seen: dict[str, str] = {}
        for point in sorted(points if points is not None else entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
            owner = point.dist.name if point.dist is not None else "unknown distribution"
            if point.name in seen and seen[point.name] != owner:
                raise PluginConflictError(
                    f"entry point {point.name!r} is defined by both {seen[point.name]!r} and {owner!r}; uninstall one of them"
                )
            if point.name in seen:
                continue  # an editable install lists the same distribution twice when both it and its folder are on the path
            seen[point.name] = owner
            registry._load_one(point, owner)
        return registry

    def _load_one(self, point: EntryPoint, owner: str) -> None:
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(point.load(), name=point.name)
            manager.check_pending()
            found = [
                (kind, method)
                for kind in KINDS
                for methods in getattr(manager.hook, f"kdbench_{kind}s")()
                for method in methods
            ]
            for kind, method in found:
                _check(kind, method)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even call sys.exit while it is imported
            frame = traceback.extract_tb(error.__traceback__)[-1:]
            where = f" ({frame[0].filename}:{frame[0].lineno})" if frame else ""
            self.broken[point.name] = f"{owner}: {type(error).__name__}: {error}{where}"
            return
        version = point.dist.version if point.dist is not None else ""
        for kind, method in found:
            other = self.methods[kind].get(method.info.name)
            if other is not None:
                raise PluginConflictError(
                    f"{kind} {method.info.name!r} is defined by plugin {other.plugin!r} ({other.distribution}) and by "
                    f"{point.name!r} ({owner}); uninstall one of them"
                )
            self.methods[kind][method.info.name] = Found(method, point.name, owner, version)

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


def _check(kind: str, method: object) -> None:
    base = KINDS[kind]
    if not (isinstance(method, type) and issubclass(method, base)):
        raise ContractError(f"kdbench_{kind}s must return subclasses of kdbench.{kind}.{base.__name__}, got {method!r}")
    if not isinstance(getattr(method, "info", None), Info):
        raise ContractError(f"{method.__name__}.info must be a kdbench.method.Info")
