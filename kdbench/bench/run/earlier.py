"""A folder that holds results of the same request already: what was different when they were
made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdbench._files import jsonable, read_record

RECORD = "run.json"
#: Fields of a record that may differ between two runs of one request, each with the reason. All
#: others are compared.
MAY_DIFFER = {
    "started": "each run has its own time",
    "finished": "each run has its own time",
    "command": "a request can be written in several ways",
    "config_digest": "it is of config, which is compared",
    "spec": "it is config.request in other words",
    "papers": "they change no number",
    "stages": "they follow from all the rest",
    "confinement": "a wall changes no number; every row says its own",
    "broken_plugins": "a plugin that could not be loaded made nothing",
}


def read_earlier(folder: Path) -> dict[str, Any]:
    """The record of the run that a folder holds. Empty: it holds none that can be read."""
    try:
        record = read_record(folder / RECORD)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records of one request: ``versions.torch 2.9, now 2.10``."""
    before, after = (dict(_flat("", jsonable(record))) for record in (earlier, now))
    # A field that the record did not have then, or has not yet, says nothing.
    common = {name.partition(".")[0] for name in before} & {n.partition(".")[0] for n in after}
    names = [n for n in dict.fromkeys([*before, *after]) if n.partition(".")[0] in common]
    return [
        f"{name} {before.get(name, 'none')}, now {after.get(name, 'none')}"
        for name in names
        if name.partition(".")[0] not in MAY_DIFFER and before.get(name) != after.get(name)
    ]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value with its place. Items of a list have the name that they say, or their number."""
    if isinstance(value, list):
        value = {_name(item, number): item for number, item in enumerate(value)}
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield prefix, value


def _name(item: Any, number: int) -> str:
    named = isinstance(item, dict) and isinstance(item.get("name"), str)
    return item["name"] if named else str(number)
