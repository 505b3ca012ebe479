"""The numbers that a cell is made with, and which of them its names do not promise.

A preset promises its numbers, a method (or one of its variants) its own for that preset, a dataset
its default size and classes, and a request target class 0 and data seed 0. Code, software, machine
and seed are no numbers of a setting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from kdbench.bench.keys import digest
from kdbench.bench.plan.plan import Setting
from kdbench.bench.request.presets import Preset
from kdbench.bench.request.spec import Resolved
from kdbench.data.facts import OFFICIAL
from kdbench.report.settings import PARTS, changes_text, part_of

_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+")


def number_columns(setting: Setting, attack: str, distiller: str, defense: str) -> dict[str, Any]:
    """The columns of a cell that say what it was made with: the digests and ``changed``.

    The controls have no number that the cell itself has not.
    """
    resolved = setting.resolved
    methods = {"attack": attack, "distiller": distiller, "defense": defense}
    if ("attack", attack) not in resolved.methods:
        methods.pop("attack")
    own = {
        f"{kind}.{name}": resolved.method(kind, name).params.model_dump(mode="json")
        for kind, name in methods.items()
    }
    promised = {f"{kind}.{name}": resolved.promised[kind, name] for kind, name in methods.items()}
    numbers = _flat({**_of_preset(resolved, resolved.preset, methods), **own})
    promise = _flat({**_of_preset(resolved, resolved.promised_preset, methods), **promised})
    if "attack" in methods:
        numbers["target_class"], promise["target_class"] = resolved.spec.target_class, 0
    changed = _changes(numbers, promise) | _data_changes(resolved)
    numbers |= _data_numbers(setting)
    if "attack" not in methods:
        numbers["imported"] = setting.imported[attack.partition(":")[2]].key
    columns: dict[str, Any] = {"setting_digest": digest(numbers)}
    for part in PARTS:
        of_part = {name: value for name, value in numbers.items() if part_of(name) == part}
        columns[f"{part}_digest"] = digest(of_part)
    columns["changed"] = changes_text(f"{name}={_text(value)}" for name, value in changed.items())
    return columns


def _changes(numbers: Mapping[str, Any], promise: Mapping[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in numbers.items() if value != promise.get(name)}
    for name in [name for name in changed if name.endswith(".epochs")]:
        steps = name.replace(".epochs", ".min_steps")
        if changed.get(steps) == 0:  # follows from the epochs: see resolve
            del changed[steps]
    return changed


def _of_preset(resolved: Resolved, preset: Preset, methods: Mapping[str, str]) -> dict[str, Any]:
    """The preset's numbers that such a cell needs. A defense that does nothing repairs nothing."""
    sections = ["clean", "poison", "distill"] if "attack" in methods else ["distill"]
    if resolved.method("defense", methods["defense"]).steps():
        sections.append("repair")
    return preset.model_dump(mode="json", include={"clean_fraction", *sections})


def _data_numbers(setting: Setting) -> dict[str, Any]:
    """The images by their digests, which size and image size are part of."""
    return {
        "data.train": setting.train_digest,
        "data.test": setting.test_digest,
        "data.classes": setting.num_classes,
    }


def _data_changes(resolved: Resolved) -> dict[str, Any]:
    """What was asked of the dataset that its name, or for the embedded one the preset, does not
    promise."""
    spec, name = resolved.spec, resolved.dataset
    official = OFFICIAL.get(name)
    default = {} if official is None else official._asdict()
    promise = {
        "image_size": default.get("image_size"),
        "num_classes": default.get("num_classes"),
        "train_size": default.get("train"),
        "test_size": default.get("test"),
    }
    values = dict(promise)
    if name == "signs":
        promise = resolved.promised_preset.signs.model_dump()
        values = resolved.preset.signs.model_dump()
    values |= {size: value for size in promise if (value := getattr(spec, size)) is not None}
    promise["data_seed"], values["data_seed"] = 0, spec.data_seed
    return {size: value for size, value in values.items() if value != promise[size]}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections and methods as ``section.field``; a list is one value."""
    numbers: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            numbers |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            numbers[name] = value
    return numbers


def _text(value: Any) -> str:
    """A value as ``--set`` takes it, without the ``;`` that separates the entries."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value).replace(";", "\\u003b")
