"""Running what is tested in a process that has never loaded it, as every stage of a run does."""

from __future__ import annotations

import importlib
import multiprocessing
from pathlib import Path
from typing import Any

from kdbench.loading.orders import ordered_plugin
from kdbench.loading.plugin import describe_file, load
from kdbench.testing.subjects import DatasetSubject, NetworkSubject, Subject, Tested

_PRELOAD = ["torch", "torch._dynamo", "kdbench.testing.subjects"]
_TIMEOUT_S = 300


def digest(tested: Tested) -> str:
    """The digest under seed 0 in a new process."""
    # A fork would inherit the modules that are loaded here, the plugin among them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with context.Pool(1) as pool:
        return pool.apply_async(_compute, (tested.order(),)).get(_TIMEOUT_S)


def _compute(order: dict[str, Any]) -> str:
    return (_sourced(order) if "plugin" in order else _method(order)).first_digest()


def _method(order: dict[str, Any]) -> Tested:
    if order["file"] is not None:
        load(describe_file(Path(order["file"])))
    # The class may be defined inside another one: follow its qualified name part by part.
    cls: Any = importlib.import_module(order["module"])
    for part in order["cls"].split("."):
        cls = getattr(cls, part)
    return Subject(cls, cls.Params(**order["params"]))


def _sourced(order: dict[str, Any]) -> Tested:
    plugin = load(ordered_plugin(order["plugin"]))
    asked, kind = order["asked"], order["kind"]
    wanted = (kind, asked.partition(":")[0])
    values = (d.value for d in plugin.defines if (d.kind, d.name) == wanted)
    source: Any = next(values, None)
    if source is None:
        raise RuntimeError(plugin.cause or f"its hook returns no {kind} {asked} there")
    if kind == "model":
        return NetworkSubject(asked, source, plugin)
    data_dir = None if order["data_dir"] is None else Path(order["data_dir"])
    return DatasetSubject(asked, source, plugin, (), data_dir, order["cache_dir"])
