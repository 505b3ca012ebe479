"""Finds attacks, distillers and defenses. Built-ins and a stranger's package come through the same entry points."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from kdbench import hookspecs
from kdbench.attack import Attack
from kdbench.defense import Defense
from kdbench.distiller import Distiller
from kdbench.errors import ContractError, PluginConflictError, PluginLoadError, UnknownMethodError, unknown
from kdbench.method import Info, Method

GROUP = "kdbench"
_NAME = r"[a-z0-9][a-z0-9_]*"
KINDS: dict[str, type[Method]] = {"attack": Attack, "distiller": Distiller, "defense": Defense}


@dataclass(frozen=True)
class Found:
    """A method and the plugin it came from. ``source``: SHA-256 of the plugin's Python files. ``module``: what its entry point
    names."""

    cls: type[Method]
    plugin: str
    distribution: str
    version: str
    source: str = ""
    module: str = ""

    @property
    def origin(self) -> str:
        """Which code this is, e.g. ``kdbench 0.1 1f2e...``."""
        return " ".join(part for part in (self.distribution, self.version, self.source) if part)


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
            plugin = point.load()
            manager.register(plugin, name=point.name)
            manager.check_pending()
            found = [
                (kind, method)
                for kind in KINDS
                for methods in getattr(manager.hook, f"kdbench_{kind}s")()
                for method in methods
            ]
            for kind, method in found:
                _check(kind, method)
            source = source_digest(plugin)
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
            self.methods[kind][method.info.name] = Found(method, point.name, owner, version, source, point.value)

    def packages(self) -> tuple[str, ...]:
        """Top-level packages of the plugins, sorted: where a stored module's classes may come from."""
        found = [
            found.module.partition(":")[0].partition(".")[0] for methods in self.methods.values() for found in methods.values()
        ]
        return tuple(sorted({name for name in found if name}))

    def points(self, methods: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Entry points (name -> value) of the plugins that define these (kind, name)."""
        found = [self.methods[kind][name] for kind, name in methods]
        return {f.plugin: f.module for f in found if f.module}

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


def source_digest(plugin: object) -> str:
    """SHA-256 over names and bytes of the Python files of the package or module that ``plugin`` is, or is defined in."""
    module = plugin if isinstance(plugin, ModuleType) else sys.modules[type(plugin).__module__]
    found = hashlib.sha256()
    if module.__file__ is not None:
        path = Path(module.__file__)
        folder = path.parent
        for file in sorted(folder.rglob("*.py")) if path.name == "__init__.py" else [path]:
            data = file.read_bytes()
            found.update(f"{file.relative_to(folder).as_posix()}\0{len(data)}\0".encode() + data)
    return found.hexdigest()


def _check(kind: str, method: object) -> None:
    base = KINDS[kind]
    if not (isinstance(method, type) and issubclass(method, base)):
        raise ContractError(f"kdbench_{kind}s must return subclasses of kdbench.{kind}.{base.__name__}, got {method!r}")
    info = getattr(method, "info", None)
    if not isinstance(info, Info):
        raise ContractError(f"{method.__name__}.info must be a kdbench.method.Info")
    for name in (info.name, *method.variants):  # they become part of file names, and a point stands between the two
        if not re.fullmatch(_NAME, name):
            raise ContractError(f"{method.__name__} uses the name {name!r}; allowed are a-z, 0-9 and, after the first, _")
    for name, variant in method.variants.items():
        unknown_fields = sorted(set(variant.params) - set(method.Params.model_fields))
        if unknown_fields:
            raise ContractError(f"variant {info.name}.{name} sets {', '.join(unknown_fields)}, which {info.name} does not have")
    if inspect.isabstract(method):
        missing = ", ".join(sorted(method.__abstractmethods__))
        raise ContractError(f"{method.__name__} does not define {missing}; is it misspelt?")
