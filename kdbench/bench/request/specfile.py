"""Requests as TOML files. A file has the fields of the command line, and a table ``[set]``.

An option beside a file replaces the file's field everywhere, in its blocks too. Where that takes a
method out of the request, the lines of ``[set]`` for that method go with it.

attacks = ["lba", "ckd"]                # or "all"
defenses = ["none", "robustkd"]
pairs = ["wrn28_4-wrn16_2"]             # or ["timm/resnet18", "wrn16_2"] where a name holds a dash
datasets = ["gtsrb"]
seeds = [0, 1, 2]
data_dir = "DATA"                       # relative to the file

[[also]]                                # further cells, with the other axes as above
distillers = ["fkd.weak"]

[set]
distill.epochs = 20
attack.lba.patch_fraction = 0.35
defense.robustkd.m5.m_max = 0.05        # makes the variant robustkd.m5, to be named among the
defenses
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdbench.bench.request.spec import Block, RunSpec
from kdbench.errors import ConfigError, unknown
from kdbench.untrusted.documents import parse_toml
from kdbench.untrusted.files import read_regular

_AXES = (
    "attacks",
    "teacher_from",
    "defenses",
    "distillers",
    "pairs",
    "datasets",
    "presets",
    "seeds",
)
_FIELDS = [name for name in RunSpec.model_fields if name != "overrides"]
_BLOCK = list(Block.model_fields)
#: The largest request of the project has 2 KiB.
_MOST_BYTES = 1 << 18


def read_spec(path: Path) -> dict[str, Any]:
    """The fields of a request that a file has. Pairs are still words, and overrides are text.

    Raises:
        ConfigError: it cannot be read, is larger than 256 KiB, is no TOML, or has a field that no
            request has.
    """
    try:
        request = parse_toml(read_regular(path, _MOST_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"spec {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"spec {path} is not TOML that a request can be: {error}") from error
    values = request.pop("set", {})
    # It says which part of the paper the request answers. kdbench.paper.printed reads it.
    request.pop("paper", None)
    if not isinstance(values, dict):
        raise ConfigError(f"spec {path}: [set] must be a table, e.g. distill.epochs = 20")
    also = request.get("also", [])
    if not isinstance(also, list) or not all(isinstance(block, dict) for block in also):
        raise ConfigError(f"spec {path}: also must be tables, each under a line [[also]]")
    _check_axes(path, request, [*_FIELDS, "[set]"])
    for block in also:
        _check_axes(path, block, _BLOCK)
    if "data_dir" in request:
        if not isinstance(request["data_dir"], str):
            raise ConfigError(f'spec {path}: data_dir must be a text, e.g. data_dir = "DATA"')
        request["data_dir"] = (path.parent / request["data_dir"]).expanduser()
    request["overrides"] = {
        key: value if isinstance(value, str) else _toml(value) for key, value in _flat("", values)
    }
    return request


def _check_axes(path: Path, table: dict[str, Any], fields: list[str]) -> None:
    """Refuse fields that no request has. Makes a single word for an axis a list, in place."""
    for name, value in table.items():
        if name not in fields:
            raise ConfigError(f"spec {path}: {unknown('field', name, fields)}")
        if name in _AXES:
            table[name] = [value] if isinstance(value, str | int) else value
            if not isinstance(table[name], list):
                raise ConfigError(f"spec {path}: {name} must be a list, got {str(value)[:80]!r}")


def write_spec(spec: RunSpec) -> str:
    """The request as a file, without the fields that have their defaults."""
    fields = spec.model_dump(mode="json", exclude_defaults=True)
    for name, value in fields.items():
        if any("\ud800" <= c <= "\udfff" for c in json.dumps(value, ensure_ascii=False)):
            raise ConfigError(
                f"{name} is {value!r}, a name that is not UTF-8, which no spec file can hold; "
                "rename it, or give it as an option"
            )
    overrides, also = fields.pop("overrides", {}), fields.pop("also", [])
    lines = [f"{name} = {_toml(value)}" for name, value in fields.items()]
    for block in also:
        lines += ["", "[[also]]", *(f"{name} = {_toml(value)}" for name, value in block.items())]
    if overrides:
        lines += ["", "[set]", *(f"{key} = {_word(raw)}" for key, raw in sorted(overrides.items()))]
    return "\n".join(lines) + "\n"


def _word(raw: str) -> str:
    """A value as ``--set`` takes it if that is TOML, else the same text in quotes."""
    try:
        if list(parse_toml(f"value = {raw}")) == ["value"] and "\n" not in raw:
            return raw
    except ValueError:
        pass
    return _toml(raw)


def _toml(value: Any) -> str:
    """Numbers, switches, texts and lists are written in TOML as in JSON.

    What a terminal could obey is written as an escape, since the text is shown, too.
    """
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, dict):
            yield from _flat(key, value)
        else:
            yield key, value
