"""The structure of a stored module, as a table that is only looked at.

``kdbench.models.files`` writes these tables. They come from a stage that ran a plugin's code, so
they may hold anything. Nothing that they name is imported or constructed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kdbench.errors import IntegrityError
from kdbench.models.files import is_core, read_structure
from kdbench.untrusted.header import shown

#: The most modules, and the most values of attributes, in one structure. Pyramid-200 has 900.
_MOST_PARTS = 50_000
#: How deep modules and values may be nested.
_MOST_DEPTH = 60
_FIELDS = frozenset(("class", "plain", "parameters", "frozen", "buffers", "transient", "modules"))
#: What an encoded value may be, see ``kdbench.models.files``.
_CONTAINERS = ("tuple", "set", "frozenset", "dict")
#: Buffers that a wrapper shares with the network inside, see ``FeatureModel``.
_SHARED = ("pixel_mean", "pixel_std")


@dataclass(frozen=True)
class Parts:
    """What a structure names."""

    modules: frozenset[str]
    """Classes of modules, as ``module:Class``."""
    values: frozenset[str]
    """Classes of parameter models and dataclasses."""
    libraries: frozenset[str]
    """Networks of a library."""
    tensors: frozenset[str]
    """Tensors of the file."""

    @property
    def packages(self) -> frozenset[str]:
        """Top-level packages of all classes that are not core ones."""
        names = {name for name in self.modules if not is_core(name)} | self.values
        return frozenset(name.partition(":")[0].partition(".")[0] for name in names)


def parts_of(structure: Any) -> Parts:
    """Everything that a structure names.

    Raises:
        IntegrityError: it is no structure, or breaks a limit.
    """
    modules: set[str] = set()
    values: set[str] = set()
    libraries: set[str] = set()
    tensors: set[str] = set()
    count = 0
    left: list[tuple[bool, Any, int]] = [(True, structure, 0)]
    try:
        while left:
            is_module, item, depth = left.pop()
            count += 1
            if count > _MOST_PARTS or depth > _MOST_DEPTH:
                raise ValueError(f"it has more than {_MOST_PARTS} parts or {_MOST_DEPTH} levels")
            if not is_module:
                inner, cls = _values_in(item)
                values |= {cls} if cls else set()
                left += [(False, value, depth + 1) for value in inner]
            elif item.keys() == {"same"}:
                _text(item["same"])
            elif item.keys() == {"model", "tensors"}:
                name, *sizes = item["model"]
                libraries.add(_text(name))
                if not all(size is None or type(size) is int for size in sizes):
                    raise TypeError(f"{shown(name)} of a size that is no number")
                tensors |= _tensors(item["tensors"])
            elif item.keys() == _FIELDS:
                modules.add(_text(item["class"]))
                for text in (*item["frozen"], *item["transient"]):
                    _text(text)
                tensors |= _tensors(item["parameters"]) | _tensors(item["buffers"])
                left += [(False, value, depth + 1) for value in item["plain"].values()]
                children = [child for child in item["modules"].values() if child is not None]
                left += [(True, child, depth + 1) for child in children]
            else:
                raise ValueError(f"a part has the entries {', '.join(map(shown, [*item][:9]))}")
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise IntegrityError(f"it is no structure of a module: {error}") from None
    return Parts(*map(frozenset, (modules, values, libraries, tensors)))


def _values_in(value: Any) -> tuple[list[Any], str]:
    """(the values inside an encoded value, the class that it is of or "")."""
    if isinstance(value, list):
        return value, ""
    if not isinstance(value, dict):
        return [], ""
    for kind in ("params", "dataclass"):
        if value.keys() == {kind, "values"}:
            return [*value["values"].values()], _text(value[kind])
    ((kind, inner),) = value.items()
    if kind not in _CONTAINERS or not isinstance(inner, list):
        raise ValueError(f"a value of the kind {shown(kind)}")
    return inner, ""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a name")
    return value


def _tensors(table: Mapping[str, Any]) -> set[str]:
    return {_text(name) for name in table.values() if name is not None}


def file_packages(path: Path) -> frozenset[str]:
    """Top-level packages of the classes that a stored module names, beyond the core ones.

    Raises:
        IntegrityError: the file is no module of kdbench, or its header breaks a limit.
    """
    structure, _, _ = read_structure(path)
    return parts_of(structure).packages


def digest(structure: dict[str, Any]) -> str:
    """SHA-256 of a structure. The order of the modules counts.

    What a training may change does not count: which parameters are frozen, and which statistics the
    batch norms of a frozen copy use.
    """
    text = json.dumps(_settled(structure, top=True), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _settled(node: dict[str, Any], top: bool = False) -> dict[str, Any]:
    if "modules" not in node:
        return node
    plain = dict(node["plain"])
    if top and plain.get("batch_norm") in (None, "running", "batch"):
        plain.pop("batch_norm", None)
    children = {
        name: None if child is None else _settled(child) for name, child in node["modules"].items()
    }
    return {**node, "frozen": [], "plain": plain, "modules": children}


@dataclass(frozen=True)
class Unwrapped:
    """The network inside the wrappers that a structure begins with."""

    network: dict[str, Any]
    """Its structure, with the names of its tensors as if it stood alone."""
    tensors: dict[str, str]
    """Its own name of a tensor -> the name in the file."""
    around: tuple[dict[str, Any], ...]
    """The structures of the wrappers, the outermost first."""


def unwrap(structure: dict[str, Any], wrappers: Collection[str]) -> Unwrapped:
    """The network inside, where the outermost modules are of the classes ``wrappers``.

    Args:
        structure: one that :func:`parts_of` accepted.
        wrappers: classes as ``module:Class``. Their network is the child ``model``.

    Raises:
        IntegrityError: a wrapper holds no network of its own.
    """
    around: list[dict[str, Any]] = []
    prefix = ""
    while structure.get("class") in wrappers:
        around.append(structure)
        structure, prefix = structure["modules"].get("model") or {}, f"{prefix}model."
    tensors: dict[str, str] = {}
    try:
        return Unwrapped(_renamed(structure, prefix, tensors), tensors, tuple(around))
    except (KeyError, ValueError) as error:
        raise IntegrityError(f"the network inside is not a whole one: {error}") from None


def _renamed(node: dict[str, Any], prefix: str, tensors: dict[str, str]) -> dict[str, Any]:
    """The node with names that begin without ``prefix``. Fills ``tensors``."""

    def rename(name: str | None) -> str | None:
        if name is None:
            return None
        short = name.removeprefix(prefix)
        outside, _, last = name.rpartition(".")
        if last in _SHARED and prefix.startswith(f"{outside}." if outside else ""):
            short = last
        elif not name.startswith(prefix):
            raise ValueError(f"it uses the tensor {shown(name)} of another part")
        if tensors.setdefault(short, name) != name:
            raise ValueError(f"two tensors are its {shown(short)}")
        return short

    if "same" in node:
        if not node["same"].startswith(prefix):
            raise ValueError(f"it uses the part {shown(node['same'])} of another one")
        return {"same": node["same"].removeprefix(prefix)}
    tables = ("tensors",) if "model" in node else ("parameters", "buffers")
    renamed = {
        **node,
        **{table: {key: rename(name) for key, name in node[table].items()} for table in tables},
    }
    if "modules" in node:
        renamed["modules"] = {
            name: None if child is None else _renamed(child, prefix, tensors)
            for name, child in node["modules"].items()
        }
    return renamed


def first_difference(expected: Any, actual: Any, path: str = "") -> str:
    """In words, where two structures differ first. Empty: they are equal."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in (*expected, *(key for key in actual if key not in expected)):
            place = path if key in _FIELDS else f"{path}.{key}".removeprefix(".")
            place = f"{place} ({key})".strip() if key == "class" else place
            if text := first_difference(expected.get(key), actual.get(key), place):
                return text
        return ""
    if isinstance(expected, list) and isinstance(actual, list):
        pairs = zip_longest(expected, actual)
        return next((text for a, b in pairs if (text := first_difference(a, b, path))), "")
    if type(expected) is type(actual) and expected == actual:
        return ""
    return f"{path or 'it'} is {_brief(actual)}, where {_brief(expected)} is expected"


def _brief(value: Any) -> str:
    return "absent" if value is None else shown(value)
