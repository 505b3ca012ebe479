"""Plugins before anybody imports them: what is installed, which files are named, whose names clash.

Nothing here imports a plugin, or anything else that takes time.
"""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from kdbench import __version__
from kdbench.errors import UsageError
from kdbench.loading.choice import PluginChoice, owner_of
from kdbench.loading.source import source_digest
from kdbench.untrusted.files import read_regular

#: The group of entry points.
GROUP = "kdbench"
#: The module of a plugin file has this name, followed by the name of the file.
FILE_MODULE = "kdbench_file_"
#: How anything that a plugin brings may be called.
NAME = r"[a-z0-9][a-z0-9_]*"
#: The distribution of the built-ins. A plugin that takes one of their names is refused, and the
#: built-in stays.
DISTRIBUTION = "kdbench"
#: The module that brings kdbench's own networks and datasets.
CORE_MODULE = "kdbench.loading.builtin"
#: Of a plugin that is one file.
_MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class Definition:
    """One thing that a plugin brings."""

    kind: str
    """attack, distiller, defense, model, dataset or reporter."""
    name: str
    """Unique within its kind."""
    value: Any
    """The method's class or the source, or what is known of it in another process."""


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

    @property
    def is_core(self) -> bool:
        """Whether it is kdbench itself, with its own networks and datasets."""
        return self.module == CORE_MODULE and self.distribution == DISTRIBUTION


#: kdbench itself, as the plugin that brings its own networks and datasets. It is no entry point, so
#: nobody can block it.
CORE = Plugin(DISTRIBUTION, CORE_MODULE, DISTRIBUTION, __version__)


def describe(point: EntryPoint) -> Plugin:
    """What is known of a plugin without importing it."""
    version = point.dist.version if point.dist is not None else ""
    return Plugin(point.name, point.value, owner_of(point), version, path=_main_file(point.module))


def _main_file(module: str) -> Path | None:
    """The main file of a module's top-level package, found without an import.

    A namespace package has none, and the first package or module below it counts instead.
    """
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    files = [] if spec.origin is None else [Path(spec.origin)]
    for folder in map(Path, spec.submodule_search_locations or ()):
        for depth in range(1, len(below) + 1):
            inner = folder.joinpath(*below[:depth])
            files += [inner / "__init__.py", inner.with_suffix(".py")]
    return next((file for file in files if file.is_file()), None)


def describe_file(path: Path) -> Plugin:
    """A file as a plugin, read and not yet run.

    Raises:
        UsageError: there is no such file, it is too large, or its name is not allowed.
    """
    name = path.stem
    if path.is_dir():
        raise UsageError(
            f"--plugin-file {path} is a folder; name one file NAME.py. A package is installed: "
            f"pip install -e {path}"
        )
    if path.suffix != ".py" or not re.fullmatch(NAME, name):
        raise UsageError(
            f"--plugin-file {path}: its name must be NAME.py, of a-z, 0-9 and, after the first, _"
        )
    try:
        content = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise UsageError(
            f"--plugin-file {path} cannot be read: {error.strerror or error}"
        ) from error
    return Plugin(
        name, FILE_MODULE + name, f"local file {path.name}", path=path.resolve(), content=content
    )


def _described(paths: Iterable[Path]) -> list[Plugin]:
    """Files as plugins. A file that is named twice counts once.

    Raises:
        UsageError: two files have one name, or as :func:`describe_file`.
    """
    by_name: dict[str, Plugin] = {}
    for path in paths:
        plugin = describe_file(path)
        other = by_name.setdefault(plugin.name, plugin)
        if other.path != plugin.path:
            raise UsageError(
                f"--plugin-file {other.path} and {plugin.path} have the same name; rename one of "
                "them"
            )
    return list(by_name.values())


def digest_of(plugin: Plugin) -> str:
    """Digest of a plugin's Python files: of the whole package, or of its one file."""
    if plugin.content is not None:
        return source_digest({plugin.name: plugin.content})
    if plugin.path is None:
        return source_digest({})
    folder, is_package = plugin.path.parent, plugin.path.name == "__init__.py"
    files = [plugin.path]
    if is_package:
        # An editor leaves links to nothing, and opening a pipe would wait.
        files = sorted(file for file in folder.rglob("*.py") if file.is_file())
    return source_digest({file.relative_to(folder).as_posix(): file.read_bytes() for file in files})


def broken(plugin: Plugin, cause: str, trace: str = "") -> Plugin:
    """The same plugin, unusable."""
    return replace(plugin, status="broken", defines=(), cause=cause, trace=trace)


#: What Python says of a module that it does not find, and of a file.
_NO_MODULE = re.compile(
    r"ModuleNotFoundError: No module named '(\w+)|ImportError: .*relative import"
)
_NO_FILE = re.compile(
    r"(?:(?:FileNotFoundError|PermissionError): .*'(?P<raised>.+)'"
    r"|(?:No such file or directory|Permission denied): (?P<named>.+))"
)
_ALONE = "a plugin file stands alone; make a package with kdbench new-plugin"


def advice(plugin: Plugin, cause: str) -> str:
    """What to do about an error of a plugin, behind the error. Empty: that is not known here.

    A plugin file is read by itself. What lies beside it is nowhere in its process.
    """
    if not plugin.is_file or plugin.path is None:
        return ""
    folder = plugin.path.parent
    missing = _NO_MODULE.match(cause)
    if missing is not None:
        top = missing[1]
        beside = top is None or (folder / f"{top}.py").exists() or (folder / top).is_dir()
    else:
        file = _NO_FILE.match(cause)
        beside = file is not None and (
            (folder / (file["raised"] or file["named"])).parent == folder
        )
    return f"; {_ALONE}" if beside else ""


def advised(plugin: Plugin) -> Plugin:
    """A loaded plugin. If it is broken, its cause says what to do, where that is known."""
    return replace(plugin, cause=plugin.cause + advice(plugin, plugin.cause))


@dataclass(frozen=True)
class Candidates:
    """The plugins of a choice, before they are loaded."""

    wanted: tuple[Plugin, ...]
    """Those to be loaded."""
    refused: tuple[Plugin, ...]
    """Those that nobody wants, or whose name is another's, too."""


def candidates(
    points: Iterable[EntryPoint] | None = None, choice: PluginChoice | None = None
) -> Candidates:
    """The plugins that a choice wants.

    Two plugins with one name are both refused. If one of the two is built in, only the other is.

    Args:
        points: None: all that are installed.
        choice: None: every plugin is wanted.

    Raises:
        UsageError: the choice names a plugin or a file that does not exist.
    """
    choice = choice or PluginChoice()
    # An editable install is listed twice when its folder is on the path as well.
    installed = points if points is not None else entry_points(group=GROUP)
    known = {(point.name, owner_of(point)): point for point in installed}
    choice.check(known.values())
    files = _described(choice.files)
    chosen = [*files, *(describe(point) for point in known.values() if choice.wants(point))]
    unwanted = [describe(point) for point in known.values() if not choice.wants(point)]
    owners = defaultdict(set)
    for plugin in chosen:
        owners[plugin.name].add(plugin.distribution)
    wanted = []
    refused = [replace(plugin, status="blocked") for plugin in unwanted]
    for plugin in chosen:
        rivals = owners[plugin.name] - {plugin.distribution}
        if rivals and plugin.distribution != DISTRIBUTION:
            what = "the name" if plugin.is_file else "the entry point"
            refused.append(broken(plugin, _conflict(what, plugin.name, rivals)))
        else:
            wanted.append(plugin)
    return Candidates(tuple(wanted), tuple(refused))


def without_rivals(plugins: Iterable[Plugin], core: Plugin) -> list[Plugin]:
    """The same plugins, those broken that define what another defines. A built-in stays.

    Args:
        plugins: loaded.
        core: kdbench itself, loaded.
    """
    plugins = list(plugins)
    makers: dict[tuple[str, str], list[Plugin]] = defaultdict(list)
    for plugin in (core, *plugins):
        for definition in plugin.defines:
            makers[definition.kind, definition.name].append(plugin)
    return [_unless_rivalled(plugin, makers) for plugin in plugins]


def _unless_rivalled(plugin: Plugin, makers: Mapping[tuple[str, str], list[Plugin]]) -> Plugin:
    shared = [(d.kind, d.name) for d in plugin.defines if len(makers[d.kind, d.name]) > 1]
    if not shared or plugin.distribution == DISTRIBUTION:
        return plugin
    kind, name = shared[0]
    rivals = [
        DISTRIBUTION if maker.is_core else f"{maker.name} of {maker.distribution}"
        for maker in makers[kind, name]
        if maker is not plugin
    ]
    return broken(plugin, _conflict(f"the {kind}", name, rivals))


def _conflict(what: str, name: str, rivals: Iterable[str]) -> str:
    others = ", ".join(sorted(rivals))
    return (
        f"{what} {name!r} is also defined by {others}; rename it, uninstall one of them or block "
        "one with -p no:NAME"
    )
