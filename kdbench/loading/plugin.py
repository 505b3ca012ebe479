"""Loads one plugin, or says why it cannot be loaded.

Nothing that a plugin does while it is imported ends the program, unless it kills the process
(``os._exit``, a crash in C). ``-p no:NAME`` keeps such a plugin out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy
import pydantic
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from kdbench import hookspecs
from kdbench.attack import Attack
from kdbench.data import DatasetSource
from kdbench.defense import Defense
from kdbench.distiller import Distiller
from kdbench.errors import ContractError, UsageError, unknown
from kdbench.loading.choice import owner_of
from kdbench.loading.source import source_digest
from kdbench.method import METHOD_KINDS, Info, Method
from kdbench.models import ModelSource

GROUP = "kdbench"
#: Kind of method -> the class that its methods derive from.
BASES: dict[str, type[Method]] = {base.kind: base for base in (Attack, Distiller, Defense)}
#: Kind -> the class of its sources. A hook may return plain functions instead of sources.
SOURCES: dict[str, type[ModelSource] | type[DatasetSource]] = {
    "model": ModelSource,
    "dataset": DatasetSource,
}
#: The module of a plugin file has this name, followed by the name of the file.
FILE_MODULE = "kdbench_file_"
_NAME = r"[a-z0-9][a-z0-9_]*"
_CORE = Path(hookspecs.__file__).parent
#: Code that only passes a plugin's errors on. A message names the line of the plugin instead.
_QUIET = (
    str(_CORE),
    str(Path(pluggy.__file__).parent),
    str(Path(pydantic.__file__).parent),
    "<frozen",
)


@dataclass(frozen=True)
class Definition:
    """One thing that a plugin brings."""

    kind: str
    """attack, distiller, defense, model or dataset."""
    name: str
    """Unique within its kind."""
    value: type[Method] | ModelSource | DatasetSource
    """The method's class, or the source."""


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group ``kdbench``, or one file, and the result of loading it."""

    name: str
    """Of the entry point, or of the file without its suffix."""
    module: str
    """What the entry point names."""
    distribution: str
    """The distribution that installed it. Of a file: ``local file NAME.py``."""
    version: str = ""
    """Version of the distribution. Empty for a file."""
    status: Literal["ok", "broken", "blocked"] = "ok"
    """A blocked plugin was not imported."""
    api: str = ""
    """Versions of the contract that it works with. Empty if it does not say."""
    path: Path | None = None
    """Its main file, if known."""
    source: str = ""
    """Digest of its Python files, see kdbench.loading.source."""
    content: bytes | None = field(default=None, repr=False)
    """Text of a file when it was read, so that an edit during a run changes nothing. None for an
    entry point."""
    seconds: float = 0.0
    """How long the import took."""
    cause: str = ""
    """Why it is broken, and in which line."""
    trace: str = ""
    """The whole traceback."""
    defines: tuple[Definition, ...] = field(default=(), repr=False)
    """Everything that it brings."""

    @property
    def owner(self) -> str:
        """Its distribution and version."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def is_file(self) -> bool:
        """Whether it is a file and no entry point."""
        return self.content is not None


def describe(point: EntryPoint) -> Plugin:
    """What is known of a plugin without importing it."""
    version = point.dist.version if point.dist is not None else ""
    path = None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(point.module.partition(".")[0])
        path = Path(spec.origin) if spec is not None and spec.origin is not None else None
    return Plugin(point.name, point.value, owner_of(point), version, path=path)


def describe_file(path: Path) -> Plugin:
    """A file as a plugin, read and not yet run.

    Raises:
        UsageError: there is no such file, or its name is not allowed.
    """
    name = path.stem
    if path.suffix != ".py" or not re.fullmatch(_NAME, name):
        raise UsageError(
            f"--plugin-file {path}: its name must be NAME.py, of a-z, 0-9 and, after the first, _"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--plugin-file {path} cannot be read: {error.strerror or error}"
        ) from error
    return Plugin(
        name, FILE_MODULE + name, f"local file {path.name}", path=path.resolve(), content=content
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
        changed["source"] = (
            digest_of(plugin)
            if known.content is None
            else source_digest({known.name: known.content})
        )
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may call sys.exit while it is imported
        changed |= {
            "status": "broken",
            "defines": (),
            "cause": _worded(error),
            "trace": traceback.format_exc(),
        }
        changed.setdefault("seconds", time.perf_counter() - start)
    return replace(known, **changed)


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


def broken(plugin: Plugin, cause: str) -> Plugin:
    """The same plugin, unusable for a reason that lies outside it."""
    return replace(plugin, status="broken", defines=(), cause=cause)


def blocked(plugin: Plugin) -> Plugin:
    """The same plugin, not imported because nobody wants it."""
    return replace(plugin, status="blocked")


def _worded(error: BaseException) -> str:
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
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text


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
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
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
        if not re.fullmatch(_NAME, name):
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


def digest_of(plugin: object) -> str:
    """Digest of the Python files of the package or module that ``plugin`` is or comes from."""
    module = plugin if isinstance(plugin, ModuleType) else sys.modules[type(plugin).__module__]
    if module.__file__ is None:
        return source_digest({})
    path = Path(module.__file__)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return source_digest(
        {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}
    )
