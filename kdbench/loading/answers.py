"""Everything by name: attacks, distillers, defenses, networks and datasets.

:class:`Answers` is what the coordinator of a run asks. A :class:`kdbench.loading.registry.Registry`
answers from plugins that it has imported. A :class:`kdbench.loading.catalogue.Catalogue` has
imported none, and asks processes that have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kdbench._libraries import LIBRARIES
from kdbench.errors import PluginLoadError, UnknownMethodError, UsageError, unknown
from kdbench.loading.candidates import Plugin
from kdbench.method import METHOD_KINDS

if TYPE_CHECKING:
    from kdbench.data import DatasetSource
    from kdbench.loading.facts import MethodFacts
    from kdbench.loading.settling import Settled, Wanted
    from kdbench.models import ModelSource
    from kdbench.models.named import NetworkFacts

T = TypeVar("T")

#: Everything that the conformance kit can test. A ``model`` is a network.
CHECKED_KINDS = (*METHOD_KINDS, "model", "dataset")
#: What a kind is called in words, where that is another one.
_WORDS = {"model": "network"}


@dataclass(frozen=True)
class Registered(Generic[T]):
    """Something by name, and where it is from."""

    value: T
    """The class of a method, the source of a network or a dataset, or what is known of it."""
    plugin: Plugin
    """The plugin that brought it."""

    @property
    def is_built_in(self) -> bool:
        """It is one of kdbench's own networks and datasets."""
        return self.plugin.is_core

    @property
    def origin(self) -> str:
        """Which code this is, for example ``kdbench 0.1 1f2e...``."""
        return " ".join(part for part in (self.plugin.owner, self.plugin.source) if part)

    def known_failures(self, name: str) -> list[str]:
        """The checks of the conformance kit that it says it fails, in words with its name."""
        failures: Mapping[str, str] = getattr(self.value, "known_failures", {})
        return [f"{name} is known to fail {check}: {why}" for check, why in failures.items()]


@dataclass
class Answers(ABC):
    """Everything that could be loaded, by kind and name, and answers about it.

    It always holds kdbench's own networks and datasets.
    """

    methods: dict[str, dict[str, Registered[Any]]] = field(
        default_factory=lambda: {kind: {} for kind in METHOD_KINDS}
    )
    """Attacks, distillers and defenses, by kind and name."""
    registered_models: dict[str, Registered[Any]] = field(default_factory=dict)
    """Networks by name."""
    registered_datasets: dict[str, Registered[Any]] = field(default_factory=dict)
    """Datasets by name."""
    registered_reporters: dict[str, Registered[Any]] = field(default_factory=dict)
    """Reporters by name."""
    plugins: list[Plugin] = field(default_factory=list)
    """All plugins, broken and blocked ones too. kdbench itself is not among them."""
    confinement: str | None = None
    """How the processes that import plugins are walled in. None: this process imports them."""
    _networks: dict[tuple[str, int, int], NetworkFacts] = field(
        default_factory=dict, init=False, repr=False
    )
    """By name, classes and image size: what was asked before."""

    # -- what only a plugin knows ------------------------------------------------------------------

    @abstractmethod
    def facts(self, kind: str, name: str) -> MethodFacts:
        """What is known of a method.

        Raises:
            UnknownMethodError, PluginLoadError: as :meth:`registered`.
        """

    @abstractmethod
    def settle(self, wanted: Wanted) -> Settled:
        """The numbers of a method, and what follows from them.

        Raises:
            ConfigError: the method does not take such a number.
        """

    @property
    @abstractmethod
    def models(self) -> Mapping[str, ModelSource]:
        """Every network by name, kdbench's own and those of plugins."""

    @property
    @abstractmethod
    def datasets(self) -> Mapping[str, DatasetSource]:
        """Every dataset by name, kdbench's own and those of plugins."""

    def network(self, name: str, num_classes: int, image_size: int) -> NetworkFacts:
        """What a network is made of. It is built once, with blank weights.

        Raises:
            KdbenchError: there is no such network, or it is none.
            Exception: whatever a library raises for a size that it does not support.
        """
        known = (name, num_classes, image_size)
        if known not in self._networks:
            self._networks[known] = self._network(*known)
        return self._networks[known]

    @abstractmethod
    def _network(self, name: str, num_classes: int, image_size: int) -> NetworkFacts:
        """As :meth:`network`, not known yet."""

    @abstractmethod
    def close(self) -> None:
        """End the processes that answer, if there are any. What is known stays."""

    # -- by name -----------------------------------------------------------------------------------

    def add(self, plugins: Iterable[Plugin]) -> None:
        """Take up what loaded plugins define."""
        tables = self._tables()
        for plugin in plugins:
            for definition in plugin.defines:
                entry = Registered(definition.value, plugin)
                tables[definition.kind][definition.name] = entry

    def _tables(self) -> dict[str, dict[str, Registered[Any]]]:
        """Everything, by kind and name."""
        return {
            **self.methods,
            "model": self.registered_models,
            "dataset": self.registered_datasets,
            "reporter": self.registered_reporters,
        }

    @property
    def broken(self) -> dict[str, str]:
        """``NAME (DISTRIBUTION)`` of each broken plugin -> the cause."""
        return {f"{p.name} ({p.owner})": p.cause for p in self.plugins if p.status == "broken"}

    def hint(self) -> str:
        """That a name which nobody knows may be that of a broken plugin. Empty: there is none."""
        causes = "; ".join(f"{plugin} [{why}]" for plugin, why in sorted(self.broken.items()))
        return f". It may belong to a plugin that could not be loaded: {causes}" if causes else ""

    def hinted(self, error: BaseException | None) -> PluginLoadError | None:
        """An error about an unknown name, with :meth:`hint`. None: a plugin would not help."""
        if not isinstance(error, UnknownMethodError) or not (hint := self.hint()):
            return None
        kinds = tuple(f"unknown {kind} " for kind in self._tables())
        return PluginLoadError(f"{error}{hint}") if str(error).startswith(kinds) else None

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

    def registered(self, kind: str, name: str) -> Registered[Any]:
        """The method of that kind and name.

        Raises:
            UnknownMethodError: nothing of that kind has the name.
            PluginLoadError: the same, but a broken plugin might define it.
        """
        if name in self.methods[kind]:
            return self.methods[kind][name]
        elsewhere = [other for other in METHOD_KINDS if name in self.methods[other]]
        if elsewhere:
            known = ", ".join(self.names(kind)) or "none"
            article = "an" if elsewhere[0][0] in "aeiou" else "a"
            raise UnknownMethodError(
                f"unknown {kind} {name!r}: there is {article} {elsewhere[0]} of that name; "
                f"{kind}s: {known}; run `kdbench list`"
            )
        error = UnknownMethodError(unknown(kind, name, self.names(kind), "run `kdbench list`"))
        raise self.hinted(error) or error

    def reporter(self, name: str) -> Registered[Any]:
        """The reporter of that name.

        Raises:
            UnknownMethodError: there is none.
            PluginLoadError: the same, but a broken plugin might bring it.
        """
        if name in self.registered_reporters:
            return self.registered_reporters[name]
        known = self.registered_reporters
        error = UnknownMethodError(unknown("reporter", name, known, "run `kdbench plugins`"))
        raise self.hinted(error) or error

    def entry(self, kind: str, name: str) -> Registered[Any]:
        """The method, network or dataset of that kind and name.

        Raises:
            UnknownMethodError, PluginLoadError: as :meth:`registered`.
        """
        if kind in METHOD_KINDS:
            return self.registered(kind, name)
        known = self._tables()[kind]
        if name in known:
            return known[name]
        error = UnknownMethodError(unknown(kind, name, known, "run `kdbench list`"))
        raise self.hinted(error) or error

    def identify(self, name: str, kinds: Sequence[str] = METHOD_KINDS) -> tuple[str, str, str]:
        """(kind, name, variant) of ``NAME`` or ``NAME.VARIANT``.

        ``KIND.`` may stand before it, and must if several kinds have the name. A dataset that is
        named ``NAME:PATH`` has the path in the place of the variant.

        Args:
            kinds: what is looked for. Beside kinds of method it may be ``model``, which may be
                written ``network``, and ``dataset``.

        Raises:
            UsageError: there is none, or several.
        """
        tables = self._tables()
        kind, _, rest = name.partition(".")
        kind = next((kind_of for kind_of, word in _WORDS.items() if kind == word), kind)
        found: Sequence[str]
        if kind in kinds and rest:
            found, name = [kind], rest
        else:
            base = base_name(name.partition(":")[0])
            found = [kind for kind in kinds if base in tables[kind]]
        if len(found) > 1:
            words = [kind_word(kind) for kind in found]
            raise UsageError(f"{name!r} is {' and '.join(words)}; write {words[0]}.{name}")
        if not found:
            if "model" in kinds and name.partition("/")[0] in LIBRARIES:
                raise UsageError(
                    f"{name!r} is a network of a library, which has no kit; "
                    f"`kdbench list models {name}` shows its groups"
                )
            everything = {known for kind in kinds for known in tables[kind]}
            what = "method" if kinds == METHOD_KINDS else "method, network or dataset"
            message = unknown(what, name, everything, "run `kdbench list`")
            raise UsageError(message + self.hint())
        if found[0] == "dataset":
            return self._identified_dataset(name)
        base, _, variant = name.partition(".")
        variants = getattr(self.entry(found[0], base).value, "variants", {})
        if variant and variant not in variants:
            raise UsageError(unknown(f"variant of {base}", variant, variants))
        return found[0], base, variant

    def _identified_dataset(self, name: str) -> tuple[str, str, str]:
        base, colon, path = name.partition(":")
        takes_path = self.entry("dataset", base).value.takes_path
        if colon and not takes_path:
            raise UsageError(f"dataset {base!r} takes no path; write {base}, and --data-dir {path}")
        return "dataset", base, path


def kind_word(kind: str) -> str:
    """What a kind is called: ``network`` for ``model``."""
    return _WORDS.get(kind, kind)


def base_name(name: str) -> str:
    """The method that a name is of: ``robustkd`` for ``robustkd.eq15``."""
    return name.partition(".")[0]
