"""What the coordinator of a run knows of plugins. It imports none of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from kdbench.errors import ContractError, KdbenchError
from kdbench.loading.answers import Answers, Registered
from kdbench.loading.candidates import (
    CORE,
    Plugin,
    advice,
    advised,
    broken,
    candidates,
    digest_of,
    without_rivals,
)
from kdbench.loading.choice import PluginChoice
from kdbench.loading.facts import CheckFacts, DatasetFacts, MethodFacts
from kdbench.loading.hosted import RaisedError
from kdbench.loading.hosts import Hosts
from kdbench.loading.settling import Settled, Wanted

if TYPE_CHECKING:
    from pathlib import Path

    from kdbench.data import Dataset, DatasetRequest, DatasetSource
    from kdbench.loading.blank import BlankNetwork
    from kdbench.loading.groups import NetworkGroups
    from kdbench.models import ModelSource
    from kdbench.models.base import FeatureModel
    from kdbench.models.named import NetworkFacts

F = TypeVar("F", bound=BaseModel)


@dataclass
class Catalogue(Answers):
    """Facts of everything that could be loaded, and the processes that know more."""

    hosts: Hosts = field(kw_only=True)
    """The processes."""
    _settled: dict[str, Settled] = field(default_factory=dict)
    """What was asked before. The same question always gets the same answer."""

    @classmethod
    def load(
        cls,
        hosts: Hosts,
        points: Iterable[EntryPoint] | None = None,
        choice: PluginChoice | None = None,
    ) -> Catalogue:
        """Let processes load each plugin, and take up what they say.

        Names that several plugins use are treated as by
        :meth:`kdbench.loading.registry.Registry.load`.

        Args:
            points: None: all that are installed.
            choice: None: every plugin is wanted.

        Raises:
            UsageError: the choice names a plugin or a file that does not exist.
        """
        known = candidates(points, choice)
        try:
            hosts.begin([CORE, *known.wanted])
            # Meanwhile they import.
            sources = {_identity(plugin): _source(plugin) for plugin in known.wanted}
            described = hosts.describe()
        except BaseException:
            hosts.close()
            raise
        core = next(plugin for plugin in described if plugin.is_core)
        if core.status != "ok":
            raise KdbenchError(f"kdbench's own networks and datasets are broken: {core.cause}")
        loaded = [
            advised(_with_source(plugin, sources[_identity(plugin)]))
            for plugin in described
            if not plugin.is_core
        ]
        plugins = without_rivals([*known.refused, *loaded], core)
        catalogue = cls(
            plugins=sorted(plugins, key=lambda plugin: (plugin.name, plugin.owner)),
            confinement=hosts.confinement,
            hosts=hosts,
        )
        catalogue.add([core, *catalogue.plugins])
        return catalogue

    def close(self) -> None:
        self.hosts.close()

    def facts(self, kind: str, name: str) -> MethodFacts:
        return cast(MethodFacts, self.registered(kind, name).value)

    def settle(self, wanted: Wanted) -> Settled:
        key = wanted.model_dump_json()
        if key not in self._settled:
            entry = self.registered(wanted.kind, wanted.name)
            answer = self._ask(entry, "settle", wanted=wanted.model_dump())
            settled = _checked(Settled, answer, entry)
            if not set(settled.params) <= set(entry.value.fields):
                raise _nonsense(entry)
            self._settled[key] = settled
        return self._settled[key]

    @property
    def models(self) -> Mapping[str, ModelSource]:
        """Every network by name. Those of plugins cannot be built here."""
        from kdbench.models import ModelSource
        from kdbench.models.builtin import MODELS

        def elsewhere(num_classes: int, image_size: int | None) -> FeatureModel:
            raise ContractError("a plugin's network is not built in the coordinator's process")

        return {
            name: MODELS[name] if entry.is_built_in else ModelSource(elsewhere, entry.value.about)
            for name, entry in self.registered_models.items()
        }

    @property
    def datasets(self) -> Mapping[str, DatasetSource]:
        """Every dataset by name. Those of plugins are loaded by a process."""
        from kdbench.data.builtin import DATASETS

        return {
            name: DATASETS[name] if entry.is_built_in else self._source(name, entry)
            for name, entry in self.registered_datasets.items()
        }

    def _source(self, name: str, entry: Registered[DatasetFacts]) -> DatasetSource:
        from kdbench.data import DatasetSource
        from kdbench.data.spelling import taken_name

        def load(request: DatasetRequest) -> Dataset:
            with _named(entry):
                dataset = self.hosts.load_dataset(entry.plugin, name, request)
                # In a table its rows would look like those of the other one.
                if taken_name(dataset.name, name, self.registered_datasets):
                    raise ContractError(
                        f"dataset {name!r} of {entry.plugin.owner} calls itself {dataset.name!r}, "
                        "and another dataset has that name; give it a name of its own"
                    )
                return dataset

        known = entry.value.model_dump(exclude={"kind", "name", "options", "place"})
        return DatasetSource(load, **known)

    def _network(self, name: str, num_classes: int, image_size: int) -> NetworkFacts:
        from kdbench.models.named import NetworkFacts, named_facts

        if not (entries := self.entries([("model", name)])):
            return named_facts(name, num_classes, image_size)
        answer = self._ask(
            entries[0], "network", name=name, num_classes=num_classes, image_size=image_size
        )
        facts = _checked(NetworkFacts, answer, entries[0])
        if facts.name != name:
            raise _nonsense(entries[0])
        return facts

    def blank_network(self, name: str, num_classes: int, image_size: int) -> BlankNetwork | None:
        """A plugin's network with blank weights. None: it is kdbench's own or a library's.

        Raises:
            KdbenchError: there is no such network, or it cannot be built.
        """
        from kdbench.loading.blank import read_blank
        from kdbench.models import model_source

        model_source(name, self.models)
        if not (entries := self.entries([("model", name)])):
            return None
        with _named(entries[0]):
            facts = self.network(name, num_classes, image_size)
            with self.hosts.written(
                entries[0].plugin,
                "blank",
                name=name,
                num_classes=num_classes,
                image_size=image_size,
            ) as (_, box):
                return read_blank(box / "blank.safetensors", facts)

    def groups(self, name: str, image_size: int) -> NetworkGroups:
        """The feature groups of a network at an image size.

        Raises:
            KdbenchError: there is no such network, or it cannot take such images.
        """
        from kdbench.loading.groups import NetworkGroups, groups

        if not (entries := self.entries([("model", name)])):
            return groups(name, image_size, self.models)
        answer = self._ask(entries[0], "groups", name=name, image_size=image_size)
        return _checked(NetworkGroups, answer, entries[0])

    def check(
        self, kind: str, name: str, rest: str, data_dir: Path | None = None
    ) -> Iterator[CheckFacts]:
        """Run the conformance kit in a process of its own, see :meth:`Hosts.check`.

        Raises:
            ConfigError, DatasetError: a dataset's folder is not named, or not there.
            ContractError: that process did not get to the end.
        """
        entry = self.entry(kind, name)
        if kind == "dataset":
            from kdbench.data import check_folder

            check_folder(f"{name}:{rest}" if rest else name, data_dir, self.datasets)
        with _named(entry):
            for result in self.hosts.check(entry.plugin, kind, name, rest, data_dir):
                yield _checked(CheckFacts, result, entry)

    def _ask(self, entry: Registered[Any], question: str, **arguments: Any) -> Any:
        with _named(entry):
            return self.hosts.ask(entry.plugin, question, **arguments)


def _identity(plugin: Plugin) -> tuple[Any, ...]:
    return (plugin.name, plugin.distribution, plugin.path)


def _source(plugin: Plugin) -> str | OSError:
    """The digest of a plugin's source, or why it cannot be read."""
    try:
        return digest_of(plugin)
    except OSError as error:
        return error


def _with_source(plugin: Plugin, source: str | OSError) -> Plugin:
    """A plugin with the digest of its source. Without one it could not be part of a key."""
    if plugin.status != "ok":
        return plugin
    if isinstance(source, OSError):
        return broken(plugin, f"its source cannot be read ({source.strerror}: {source.filename})")
    return replace(plugin, source=source)


def _checked(model: type[F], answer: Any, entry: Registered[Any]) -> F:
    try:
        # As JSON, where a list is what a tuple is here.
        return model.model_validate_json(json.dumps(answer))
    except (ValidationError, ValueError, RecursionError):
        raise _nonsense(entry) from None


def _nonsense(entry: Registered[Any]) -> ContractError:
    plugin = entry.plugin
    return ContractError(f"plugin {plugin.name} ({plugin.owner}): its process said nonsense")


@contextlib.contextmanager
def _named(entry: Registered[Any]) -> Iterator[None]:
    """An error that a plugin raises is one of what it brings, and says in which file.

    Except for a file that a dataset cannot use, which is the user's.
    """
    plugin, facts = entry.plugin, entry.value
    what = f"{facts.kind} {facts.name!r} of {plugin.owner}"
    try:
        yield
    except ContractError as error:
        raise ContractError(_placed(str(error), facts.place)) from error
    except KdbenchError as error:
        if facts.name in str(error):
            raise
        # kdbench said so to the plugin, which handed over what cannot be.
        raise type(error)(_placed(f"{what}: {error}", facts.place)) from error
    except (RaisedError, OSError) as error:
        why, hint = _why(error), ""
        if (
            isinstance(error, RaisedError)
            or facts.kind != "dataset"
            or (hint := advice(plugin, why))
        ):
            text = _placed(f"{what}: {why}", facts.place)
            raise ContractError(text + (hint or advice(plugin, why))) from error
        raise


def _why(error: RaisedError | OSError) -> str:
    if isinstance(error, RaisedError):
        return error.where
    parts = ("" if part is None else str(part) for part in (error.strerror, error.filename))
    return ": ".join(filter(None, parts))


def _placed(text: str, place: str) -> str:
    """A text about an error with the place of what failed, unless it names the line already."""
    file = place.rpartition(":")[0]
    return text if not file or f"{file}:" in text else f"{text} ({place})"
