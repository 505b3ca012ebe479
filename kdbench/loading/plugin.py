"""Loads one plugin, or says why it cannot be loaded.

This happens inside a process that answers for the plugin, a job, or whoever asked for plugins in
this process. Nothing that a plugin does while it is imported ends the program, unless it kills the
process (``os._exit``, a crash in C).
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
import pydantic
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from kdbench import hookspecs
from kdbench.attack import Attack
from kdbench.data import DatasetSource
from kdbench.defense import Defense
from kdbench.distiller import Distiller
from kdbench.errors import ContractError, unknown
from kdbench.loading.candidates import FILE_MODULE as FILE_MODULE
from kdbench.loading.candidates import GROUP as GROUP
from kdbench.loading.candidates import NAME, Definition
from kdbench.loading.candidates import Plugin as Plugin
from kdbench.loading.candidates import describe_file as describe_file
from kdbench.method import METHOD_KINDS, Info, Method
from kdbench.models import ModelSource

#: Kind of method -> the class that its methods derive from.
BASES: dict[str, type[Method]] = {base.kind: base for base in (Attack, Distiller, Defense)}
#: Kind -> the class of its sources. A hook may return plain functions instead of sources.
SOURCES: dict[str, type[ModelSource] | type[DatasetSource]] = {
    "model": ModelSource,
    "dataset": DatasetSource,
}
_CORE = Path(hookspecs.__file__).parent
#: Code that only passes a plugin's errors on. A message names the line of the plugin instead.
_QUIET = (
    str(_CORE),
    str(Path(pluggy.__file__).parent),
    str(Path(pydantic.__file__).parent),
    "<frozen",
)


def load(known: Plugin) -> Plugin:
    """Import a plugin and call its hooks. It is broken if anything about it is wrong."""
    start = time.perf_counter()
    changed: dict[str, Any] = {}
    try:
        # What a plugin prints must not end up in somebody's JSON.
        with contextlib.redirect_stdout(sys.stderr):
            plugin = (
                EntryPoint(known.name, known.module, GROUP).load()
                if known.content is None
                else _run(known, known.content)
            )
            changed["seconds"] = time.perf_counter() - start
            changed["api"] = _api(plugin)
            changed["defines"] = _definitions(plugin, known.name)
    except BaseException as error:  # a plugin may call sys.exit while it is imported
        if interrupted(error):
            raise
        changed |= {
            "status": "broken",
            "defines": (),
            "cause": worded(error, [known]),
            "trace": traceback.format_exc(),
        }
        changed.setdefault("seconds", time.perf_counter() - start)
    return replace(known, **changed)


def interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C raised it, and not a plugin. In a process of a plugin Ctrl-C ends all."""
    return (
        isinstance(error, KeyboardInterrupt)
        and signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
    )


def _run(known: Plugin, content: bytes) -> ModuleType:
    """Run the text of a plugin file as a module."""
    module = sys.modules[known.module] = ModuleType(known.module)
    module.__file__ = str(known.path)
    try:
        exec(compile(content, str(known.path), "exec"), vars(module))
    except BaseException:
        del sys.modules[known.module]
        raise
    return module


def worded(error: BaseException, plugins: Iterable[Plugin] = ()) -> str:
    """The error and the line of the plugin that raised it, in one line of text."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        place = "".join(f" for {name}" for name in first["loc"] if isinstance(name, str))
        text = f"{error.title}: {first['msg']}, got {first['input']!r}{place}"
    if isinstance(error, SyntaxError):
        return text  # says where by itself
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_QUIET)
    ]
    line = line_of(error, plugins) or (frames and f"{frames[-1].filename}:{frames[-1].lineno}")
    return f"{text} ({line})" if line else text


def line_of(error: BaseException, plugins: Iterable[Plugin]) -> str:
    """The last line of one of the plugins on the way to an error, as ``FILE:LINE``. Empty: none."""
    folders = tuple(
        str(p.path.parent) + os.sep if p.path.name == "__init__.py" else str(p.path)
        for p in plugins
        if p.path is not None and not p.is_core
    )
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(folders)
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _api(plugin: object) -> str:
    """The versions of the contract that a plugin says it works with, checked."""
    versions = getattr(plugin, "kdbench_api", "")
    try:
        fits = SpecifierSet(versions).contains(hookspecs.API_VERSION)
    except (InvalidSpecifier, TypeError, AttributeError):
        raise ContractError(
            f"kdbench_api is {versions!r}, no range of versions; write for example '>=1,<2'"
        ) from None
    if not fits:
        raise ContractError(
            f"it works with kdbench_api {versions}, this kdbench has {hookspecs.API_VERSION}; "
            "install another version of either"
        )
    return str(versions)


def _definitions(plugin: object, name: str) -> tuple[Definition, ...]:
    """Everything that the hooks of a plugin return, checked."""
    # A manager of its own, so that one plugin's hooks never meet another's.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    # A misspelt hook would never be called.
    known = {hook for hook in vars(manager.hook) if getattr(manager.hook, hook).has_spec()}
    for hook in vars(manager.hook).keys() - known:
        raise ContractError(unknown("hook", hook, known))
    if not manager.get_hookcallers(plugin):
        raise ContractError("it implements no hook; is @kdbench.hookspecs.hookimpl missing?")
    definitions: dict[tuple[str, str], Definition] = {}
    for kind in (*METHOD_KINDS, *SOURCES):
        for answer in getattr(manager.hook, f"kdbench_{kind}s")():
            read = _methods if kind in METHOD_KINDS else _sources
            for definition in read(kind, answer):
                if (kind, definition.name) in definitions:
                    raise ContractError(f"it defines the {kind} {definition.name!r} twice")
                definitions[kind, definition.name] = definition
    if manager.hook.kdbench_reporter.get_hookimpls():
        if not re.fullmatch(NAME, name):
            raise ContractError(
                f"a plugin with a reporter is named by it, and {name!r} is no such name; allowed "
                "are a-z, 0-9 and, after the first, _"
            )
        caller = manager.hook.kdbench_reporter
        definitions["reporter", name] = Definition("reporter", name, caller)
    return tuple(definitions.values())


def _methods(kind: str, answer: object) -> Iterator[Definition]:
    if not isinstance(answer, list | tuple):
        raise ContractError(f"kdbench_{kind}s must return a list of classes, got {answer!r}")
    for method in answer:
        _check(kind, method)
        yield Definition(kind, method.info.name, method)


def _sources(kind: str, answer: object) -> Iterator[Definition]:
    source = SOURCES[kind]
    if not isinstance(answer, dict):
        raise ContractError(
            f"kdbench_{kind}s must return a dict of names and functions, got {answer!r}"
        )
    for name, value in answer.items():
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise ContractError(
                f"kdbench_{kind}s uses the name {name!r}; allowed are a-z, 0-9 and, after the "
                "first, _"
            )
        if not isinstance(value, source) and not callable(value):
            raise ContractError(
                f"kdbench_{kind}s must return functions, got {value!r} for {name!r}; a "
                f"{source.__name__} will do as well"
            )
        yield Definition(kind, name, value if isinstance(value, source) else source(value))


def _check(kind: str, method: object) -> None:
    """Raise ContractError for what is no usable method of that kind."""
    base = BASES[kind]
    if not (isinstance(method, type) and issubclass(method, base)):
        raise ContractError(
            f"kdbench_{kind}s must return subclasses of kdbench.{kind}.{base.__name__}, got "
            f"{method!r}"
        )
    info = getattr(method, "info", None)
    if not isinstance(info, Info):
        raise ContractError(f"{method.__name__}.info must be a kdbench.method.Info")
    # Names become parts of file names. A point separates method and variant.
    for name in (info.name, *method.variants):
        if not re.fullmatch(NAME, name):
            raise ContractError(
                f"{method.__name__} uses the name {name!r}; allowed are a-z, 0-9 and, after the "
                "first, _"
            )
    for name, variant in method.variants.items():
        unknown_fields = sorted(set(variant.params) - set(method.Params.model_fields))
        if unknown_fields:
            raise ContractError(
                f"variant {info.name}.{name} sets {', '.join(unknown_fields)}, which {info.name} "
                "does not have"
            )
    if inspect.isabstract(method):
        missing = ", ".join(sorted(method.__abstractmethods__))
        raise ContractError(f"{method.__name__} does not define {missing}; is it misspelt?")
