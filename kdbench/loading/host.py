"""Inside a process that answers for the plugins of one distribution, or for one file.

It imports them, says what they bring, and then answers one question a line. Whoever asks believes
nothing of it that could not be true.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kdbench.data import DatasetRequest, DatasetSource
from kdbench.data.files import save_images
from kdbench.errors import KdbenchError
from kdbench.loading.candidates import Plugin
from kdbench.loading.facts import (
    DatasetFacts,
    Facts,
    ModelFacts,
    PluginReport,
    ReporterFacts,
    method_facts,
    place_of,
)
from kdbench.loading.groups import groups
from kdbench.loading.images import ImagesFacts
from kdbench.loading.orders import ordered_plugin
from kdbench.loading.plugin import load, worded
from kdbench.loading.registry import Registry
from kdbench.loading.settling import Wanted
from kdbench.method import METHOD_KINDS
from kdbench.models import ModelSource, blank_model
from kdbench.models.files import save_module
from kdbench.untrusted.processes.search import SearchPath

#: Answers one question, in one JSON value or in several.
Question = Callable[..., Any]


def serve(
    channel: socket.socket,
    order: Mapping[str, Any],
    links: Mapping[str, int],
    more: Mapping[str, Question] | None = None,
) -> None:
    """Load the plugins of an order, and answer until the channel ends.

    Args:
        channel: a blocking stream.
        order: ``plugins``, and ``search``: where the coordinator imports from by now.
        links: none are needed.
        more: further questions by name. A question gets the registry and named arguments.
    """

    def say(message: Mapping[str, Any]) -> None:
        channel.sendall(json.dumps(message).encode() + b"\n")

    SearchPath.from_json(order["search"]).adopt()
    registry = Registry()
    for values in order["plugins"]:
        plugin = load(ordered_plugin(values))
        report = report_of(plugin)
        if report.status == "ok":
            registry.plugins.append(plugin)
            registry.add([plugin])
        say({"plugin": report.model_dump(mode="json")})
    say({"loaded": True})
    questions = {**QUESTIONS, **(more or {})}
    for line in channel.makefile("rb"):
        question = json.loads(line)
        try:
            answer = questions[question["ask"]](registry, **question["with"])
            for part in answer if isinstance(answer, Iterator) else ():
                say({"part": _json(part)})
            say({"answer": None if isinstance(answer, Iterator) else _json(answer)})
        except BaseException as error:  # a plugin may call sys.exit
            say({"error": _error(error, registry.plugins)})


def _json(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _error(error: BaseException, plugins: Sequence[Plugin]) -> dict[str, Any]:
    """An error, so that the coordinator can raise it again."""
    if isinstance(error, KdbenchError):
        # A class of another module, such as a plugin's own, is not known to the coordinator.
        known = (cls for cls in type(error).__mro__ if cls.__module__ == KdbenchError.__module__)
        return {"kind": next(known).__name__, "text": str(error)}
    if isinstance(error, OSError):
        name = None if error.filename is None else str(error.filename)
        return {"kind": "OSError", "text": error.strerror or str(error), "file": name}
    return {"kind": "Exception", "text": str(error), "where": worded(error, plugins)}


def report_of(plugin: Plugin) -> PluginReport:
    """What is said of a loaded plugin. It is broken if that cannot be said in JSON."""
    values = {
        "name": plugin.name,
        "status": plugin.status,
        "api": plugin.api,
        "seconds": plugin.seconds,
        "cause": plugin.cause,
        "trace": plugin.trace,
    }
    try:
        defines = tuple(_facts(d.kind, d.name, d.value) for d in plugin.defines)
        return PluginReport.model_validate({**values, "defines": defines})
    except Exception as error:  # a plugin's class attributes may be anything
        cause = _first(error) if isinstance(error, ValidationError) else worded(error)
        return PluginReport.model_validate(
            {**values, "status": "broken", "cause": cause, "defines": ()}
        )


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _facts(kind: str, name: str, value: Any) -> Facts:
    if kind in METHOD_KINDS:
        return method_facts(value)
    if isinstance(value, ModelSource):
        return ModelFacts(
            name=name,
            about=value.about,
            known_failures=dict(value.known_failures),
            place=place_of(value.make),
        )
    if kind == "reporter":
        return ReporterFacts(name=name)
    assert isinstance(value, DatasetSource)
    numbers = ("num_classes", "image_size", "train_size", "test_size")
    return DatasetFacts(
        name=name,
        about=value.about,
        folder=value.folder,
        downloadable=value.downloadable,
        takes_path=value.takes_path,
        options=tuple(value.options()),
        known_failures=dict(value.known_failures),
        place=place_of(value.load),
        **{number: getattr(value, number) for number in numbers},
    )


def _settle(registry: Registry, wanted: Mapping[str, Any]) -> Facts:
    return registry.settle(Wanted(**wanted))


def _network(registry: Registry, name: str, num_classes: int, image_size: int) -> BaseModel:
    return registry.network(name, num_classes, image_size)


def _blank(registry: Registry, name: str, num_classes: int, image_size: int, box: str) -> None:
    """Write a network with blank weights into a folder."""
    network = blank_model(name, num_classes, image_size=image_size, sources=registry.models)
    save_module(network.eval(), Path(box) / "blank.safetensors")


def _groups(registry: Registry, name: str, image_size: int) -> Facts:
    return groups(name, image_size, registry.models)


def _dataset(registry: Registry, dataset: str, request: Mapping[str, Any], box: str) -> Facts:
    """Load a dataset, and write its images into a folder."""
    folder = request["data_dir"]
    paths = {"data_dir": None if folder is None else Path(folder), "cache_dir": Path(box) / "cache"}
    loaded = registry.datasets[dataset].load(DatasetRequest(**{**request, **paths}))
    facts = ImagesFacts.of(dataset, loaded)
    for split in ("train", "test"):
        save_images(getattr(loaded, split), Path(box) / f"{split}.safetensors")
    return facts


QUESTIONS: Mapping[str, Question] = {
    "settle": _settle,
    "network": _network,
    "blank": _blank,
    "groups": _groups,
    "dataset": _dataset,
}
