"""The numbers that a cell is made with, and which of them its names do not promise.

A preset promises its numbers, and those that it has for the pair's teacher. A method or a variant
promises those that it has for the preset. A dataset promises its default size and classes. A
request promises target class 0, data seed 0 and no unlabeled images. Code, software, machine and
seed are not among the numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from kdbench.bench.keys import digest
from kdbench.bench.plan.plan import Part
from kdbench.bench.request.presets import DatasetSizes, Preset
from kdbench.bench.request.spec import Resolved
from kdbench.data.class_order import ORDERS
from kdbench.report.settings import PARTS, changes_text, part_of

#: Numbers of a preset that say who has which images. They are in none of its sections.
SHARES = ("transfer_fraction", "clean_fraction")

_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+")


def number_columns(
    part: Part, attack: str, distiller: str, defense: str, teacher: str
) -> dict[str, Any]:
    """The columns of a cell that say what it was made with: the digests and ``changed``.

    The controls need no columns: each of their numbers is one of the cell's.

    Args:
        teacher: name of its network. A preset may have numbers of its own for it.
    """
    resolved = part.resolved
    methods = {"attack": attack, "distiller": distiller, "defense": defense}
    # An imported teacher stands where an attack would. It has no parameters.
    if ("attack", attack) not in resolved.methods:
        methods.pop("attack")
    settled = {f"{kind}.{name}": resolved.method(kind, name) for kind, name in methods.items()}
    params = {name: method.params for name, method in settled.items()}
    promised = {name: method.promise for name, method in settled.items()}
    preset = resolved.preset.of_teacher(teacher)
    promised_preset = resolved.promised_preset.of_teacher(teacher)
    numbers = _flat({**_of_preset(resolved, preset, methods), **params})
    promise = _flat({**_of_preset(resolved, promised_preset, methods), **promised})
    if "attack" in methods:
        numbers["target_class"], promise["target_class"] = resolved.spec.target_class, 0
    # Only where it is asked for, so that all others keep their digests.
    if resolved.spec.unlabeled is not None:
        numbers["unlabeled"] = resolved.spec.unlabeled
    changed = _changes(numbers, promise) | _data_changes(resolved)
    numbers |= _data_numbers(part)
    if "attack" not in methods:
        numbers["imported"] = part.imported[attack.partition(":")[2]].key
    columns: dict[str, Any] = {"setting_digest": digest(numbers)}
    for kind in PARTS:
        of_kind = {name: value for name, value in numbers.items() if part_of(name) == kind}
        columns[f"{kind}_digest"] = digest(of_kind)
    columns["changed"] = changes_text(f"{name}={_text(value)}" for name, value in changed.items())
    return columns


def _changes(numbers: Mapping[str, Any], promise: Mapping[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in numbers.items() if value != promise.get(name)}
    for name in [name for name in changed if name.endswith(".epochs")]:
        steps = name.replace(".epochs", ".min_steps")
        # Setting the epochs sets min_steps to 0. See kdbench.bench.request.spec.
        if changed.get(steps) == 0:
            del changed[steps]
    return changed


def _of_preset(resolved: Resolved, preset: Preset, methods: Mapping[str, str]) -> dict[str, Any]:
    """The preset's numbers that a cell of these methods needs."""
    sections = ["clean", "poison", "distill"] if "attack" in methods else ["distill"]
    # A defense without steps trains nothing, so the recipe of repairs does not matter.
    if resolved.method("defense", methods["defense"]).steps:
        sections.append("repair")
    return preset.model_dump(mode="json", include={*SHARES, *sections})


def _data_numbers(part: Part) -> dict[str, Any]:
    """The images, as their digests. Those depend on sizes, too."""
    return {
        "data.train": part.train_digest,
        "data.seed": part.resolved.spec.data_seed,
        "data.test": part.test_digest,
        "data.classes": part.num_classes,
    }


def _data_changes(resolved: Resolved) -> dict[str, Any]:
    """What the request wants of the dataset that its name does not promise. The sizes of a preset
    are promised, too."""
    spec, official = resolved.spec, resolved.source
    sizes = {name: getattr(official, name) for name in DatasetSizes.model_fields}
    promise = sizes | _stated(resolved.promised_preset.sizes_of(resolved.dataset))
    values = sizes | _stated(resolved.preset.sizes_of(resolved.dataset))
    values |= {name: size for name in sizes if (size := getattr(spec, name)) is not None}
    promise["data_seed"], values["data_seed"] = 0, spec.data_seed
    promise["class_order"], values["class_order"] = "own", _class_order(spec.class_names)
    return {name: value for name, value in values.items() if value != promise[name]}


def _class_order(names: tuple[str, ...] | None) -> str:
    """The order of the classes in a word. One without a name is told apart by its digest."""
    if names is None:
        return "own"
    known = (word for word, order in ORDERS.items() if order(names) == names)
    return next(known, digest(names)[:8])


def _stated(sizes: DatasetSizes) -> dict[str, int]:
    """The sizes that are not left to the dataset."""
    return sizes.model_dump(exclude_none=True)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections and methods as ``section.field``. A list stays one value."""
    numbers: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            numbers |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            numbers[name] = value
    return numbers


def _text(value: Any) -> str:
    """A value as ``--set`` takes it. ``;`` is escaped, since it separates the entries."""
    if value is None:
        return "none"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value).replace(";", "\\u003b")
