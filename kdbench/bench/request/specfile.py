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
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict, TypeAdapter, ValidationError

from kdbench._counted import counted
from kdbench.bench.request.presets import Preset
from kdbench.bench.request.spec import Block, RunSpec
from kdbench.errors import ConfigError, unknown
from kdbench.method import METHOD_KINDS
from kdbench.untrusted.documents import parse_toml
from kdbench.untrusted.files import read_regular
from kdbench.untrusted.recognised import decoded

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
#: Fields -> what their values look like.
_EXAMPLES = {
    **{name: f'a list, e.g. {name} = ["NAME"]' for name in _AXES},
    "pairs": 'a list, e.g. pairs = ["wrn16_2-wrn16_1", ["timm/resnet18", "wrn16_1"]]',
    "seeds": "a list, e.g. seeds = [0, 1, 2]",
    "data_dir": 'a text, e.g. data_dir = "DATA"',
    "also": "tables, each under a line [[also]]",
}
#: A pair in a file is a word, or a list of two.
_PAIRS: Any = Annotated[
    tuple[str | Annotated[tuple[str, str], Strict(False)], ...], Strict(False), Field(min_length=1)
]


def _types(model: type[RunSpec | Block]) -> dict[str, TypeAdapter[Any]]:
    """The fields that a file has -> the type of each, which is that of the request."""
    types: dict[str, Any] = {
        name: Annotated[field.annotation, field]
        for name, field in model.model_fields.items()
        if name != "overrides"
    }
    types["pairs"] = _PAIRS
    if "also" in types:
        types["also"] = list[dict[str, Any]]  # each is checked as a Block
    return {name: TypeAdapter(kind, config=model.model_config) for name, kind in types.items()}


_TYPES = {model: _types(model) for model in (RunSpec, Block)}
#: The largest request of the project has 2 KiB.
_MOST_BYTES = 1 << 18


def read_spec(path: Path) -> dict[str, Any]:
    """The fields of a request that a file has. Pairs are still words, and overrides are text.

    Raises:
        ConfigError: it cannot be read, is larger than 256 KiB, is no TOML, or has a field that no
            request has.
    """
    try:
        request = parse_toml(decoded(read_regular(path, _MOST_BYTES)))
    except OSError as error:
        raise ConfigError(
            f"spec {path} cannot be read: {error.strerror or error}; name a TOML file"
        ) from error
    except ValueError as error:
        raise ConfigError(f"spec {path} is not TOML that a request can be: {error}") from error
    values = request.pop("set", {})
    # It says which part of the paper the request answers. kdbench.paper.printed reads it.
    request.pop("paper", None)
    if not isinstance(values, dict):
        raise ConfigError(f"spec {path}: [set] must be a table, e.g. distill.epochs = 20")
    _check_fields(f"spec {path}: ", RunSpec, request)
    for block in request.get("also", []):
        _check_fields(f"spec {path}: [[also]] ", Block, block)
    if "data_dir" in request:
        request["data_dir"] = (path.parent / request["data_dir"]).expanduser()
    request["overrides"] = {key: _raw(value) for key, value in _flat("", values)}
    return request


def _check_fields(where: str, model: type[RunSpec | Block], table: dict[str, Any]) -> None:
    """Refuse fields that no request has, and values of another type than the request's. Makes a
    single word for an axis a list, in place."""
    types = _TYPES[model]
    for name, value in table.items():
        if name not in types:
            known = [*types, *(["[set]"] if model is RunSpec else [])]
            raise ConfigError(f"{where}{unknown('field', name, known, _elsewhere(name))}")
        if name in _AXES and isinstance(value, str):
            value = table[name] = [value]
        if name == "seeds" and isinstance(value, int) and not isinstance(value, bool):
            raise ConfigError(f"{where}{_which_seeds(value)}")
        try:
            types[name].validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"{where}{_wrong(name, error.errors()[0])}") from error


def _elsewhere(name: str) -> str:
    """Where a name that is no field belongs. Empty: nobody knows."""
    if name in ("teacher", "student"):
        return 'write pairs = [["TEACHER", "STUDENT"]]'
    if name in (*METHOD_KINDS, *Preset.model_fields, "overrides"):
        return "what --set takes stands under a line [set]"
    return ""


def _which_seeds(value: int) -> str:
    """A number alone is two things to people, so it is neither here."""
    first = ", ".join(map(str, range(max(1, value)) if value < 4 else (0, 1, "...", value - 1)))
    return (
        f"seeds = {value} may be {counted(value, 'seed')}, as --seeds {value} is, or the seed "
        f"{value}; write seeds = [{first}], or seeds = [{value}]"
    )


def _wrong(name: str, error: Mapping[str, Any]) -> str:
    """What is wrong with a field, what it looks like, and what it is."""
    got = _toml(error["input"])
    got = got if len(got) <= 80 else f"{got[:77]}..."
    if name in _EXAMPLES and error["type"] in ("tuple_type", "list_type", "dict_type", "path_type"):
        return f"{name} must be {_EXAMPLES[name]}; got {got}"
    return f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}; got {got}"


def write_spec(spec: RunSpec) -> str:
    """The request as a file, without the fields that have their defaults.

    Read again it is the same request. A relative ``data_dir`` becomes an absolute one, since nobody
    knows where the file will lie.

    Raises:
        ConfigError: a name in it is not UTF-8, so no file of TOML can hold it.
    """
    fields = spec.model_dump(mode="json", exclude_defaults=True)
    for name, value in fields.items():
        if any("\ud800" <= c <= "\udfff" for c in json.dumps(value, ensure_ascii=False)):
            raise ConfigError(
                f"{name} is {value!r}, a name that is not UTF-8, which no spec file can hold; "
                "rename it, or give it as an option"
            )
    overrides, also = fields.pop("overrides", {}), fields.pop("also", [])
    if "data_dir" in fields:
        fields["data_dir"] = str(Path(fields["data_dir"]).absolute())
    lines = [f"{name} = {_toml(value)}" for name, value in fields.items()]
    for block in also:
        lines += ["", "[[also]]", *(f"{name} = {_toml(value)}" for name, value in block.items())]
    if overrides:
        lines += ["", "[set]"]
        lines += [f"{_key(key, overrides)} = {_word(overrides[key])}" for key in sorted(overrides)]
    return "\n".join(lines) + "\n"


def _key(key: str, keys: Collection[str]) -> str:
    """A key of ``[set]``, in quotes where TOML wants it so: where it has other characters, or where
    one of the tables that it would be in is a key itself."""
    parts = key.split(".")
    tables = {".".join(parts[:n]) for n in range(1, len(parts))}
    plain = re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", key)
    return key if plain and not tables & set(keys) else _toml(key)


def _word(raw: str) -> str:
    """A value as ``--set`` takes it if that is TOML which reads back as the same text, else the
    text in quotes."""
    try:
        values = parse_toml(f"value = {raw}")
    except ValueError:
        return _toml(raw)
    value = values.pop("value")
    same = not values and not isinstance(value, str | dict) and _raw(value) == raw
    return raw if same else _toml(raw)


def _raw(value: Any) -> str:
    """A value of ``[set]`` as ``--set`` takes it."""
    return value if isinstance(value, str) else _toml(value)


def _toml(value: Any) -> str:
    """Numbers, switches, texts and lists are written in TOML as in JSON.

    What a terminal could obey is written as an escape, since the text is shown, too.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ConfigError(
            f"{value!a} is not UTF-8, and a spec file is; rename it, or use the command line"
        )
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, dict):
            yield from _flat(key, value)
        else:
            yield key, value
