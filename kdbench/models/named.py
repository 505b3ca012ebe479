"""A network held against its name: the same classes, attributes, tensors and shapes.

What crosses from one stage to the next is numbers. A stage must return the network that its row
names, and a file of it is compared with a blank network of that name. Nothing in a file is imported
or constructed for that.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from kdbench._libraries import LIBRARIES
from kdbench.errors import ContractError, IntegrityError
from kdbench.models import blank_model
from kdbench.models.base import FeatureModel
from kdbench.models.builtin import MODELS
from kdbench.models.files import describe, read_structure
from kdbench.models.soundness import check_groups
from kdbench.models.source import ModelSource
from kdbench.models.structure import digest, first_difference, parts_of, unwrap
from kdbench.models.views import Edited, Pruned
from kdbench.untrusted.header import ITEM_BYTES, shown
from kdbench.untrusted.text import strip_control

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_Name = Annotated[str, Field(max_length=300)]
_Size = Annotated[int, Field(ge=0, lt=1 << 40)]
_Shape = Annotated[tuple[_Size, ...], Field(max_length=8)]


class NetworkFacts(BaseModel):
    """What a network of some name, number of classes and image size is made of.

    A plugin's process tells the facts of its own network, so every size has a limit.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: _Name
    """As in the registry."""
    structure_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """See :func:`kdbench.models.structure.digest`."""
    tensors: Annotated[dict[_Name, tuple[_Name, _Shape]], Field(max_length=50_000)]
    """Name -> (dtype as safetensors spells it, shape)."""
    notes: Annotated[tuple[_Name, ...], Field(max_length=20)] = ()
    """What makes no sense in its groups, see :mod:`kdbench.models.soundness`."""

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(
            math.prod(shape) * ITEM_BYTES.get(dtype, 8) for dtype, shape in self.tensors.values()
        )


def is_known(name: str) -> bool:
    """Whether the network of that name is kdbench's own or a library's, and no plugin's."""
    library, slash, _ = name.partition("/")
    return name in MODELS or bool(slash and library in LIBRARIES)


def named_facts(
    name: str,
    num_classes: int,
    image_size: int | None = None,
    sources: Mapping[str, ModelSource] = MODELS,
) -> NetworkFacts:
    """The facts of a named network.

    Raises:
        UsageError: there is no such network, or it cannot be built like that.
        ContractError: a plugin's network cannot be kept in a file, or is no classifier.
    """
    model = _blank(name, num_classes, image_size, sources)
    facts = _facts(name, *describe(model))
    # Those of kdbench's own networks are known.
    if image_size is None or name in MODELS:
        return facts
    notes = check_groups(model.eval(), getattr(model, "blank_size", image_size))
    return facts.model_copy(update={"notes": tuple(strip_control(note)[:300] for note in notes)})


def _blank(
    name: str, num_classes: int, image_size: int | None, sources: Mapping[str, ModelSource]
) -> FeatureModel:
    model = blank_model(name, num_classes, image_size=image_size, sources=sources)
    # As a stage does: another memory layout may split buffers that two modules share.
    return model.to(memory_format=torch.channels_last)


def _facts(name: str, structure: dict[str, Any], tensors: Mapping[str, Tensor]) -> NetworkFacts:
    entries = {key: (_dtype(key, t), tuple(t.shape)) for key, t in tensors.items()}
    return NetworkFacts(name=name, structure_digest=digest(structure), tensors=entries)


def _dtype(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in _DTYPES:
        raise ContractError(
            f"{name} is {tensor.dtype}; keep weights as {', '.join(map(str, _DTYPES))}"
        )
    return _DTYPES[tensor.dtype]


def check_network(
    model: nn.Module,
    name: str,
    num_classes: int,
    image_size: int | None = None,
    *,
    sources: Mapping[str, ModelSource] = MODELS,
    wrappers: Collection[type[FeatureModel]] = (),
) -> None:
    """Compare a network in memory with the one of that name.

    Args:
        wrappers: classes that may stand around it: ``Edited``, ``Pruned``.

    Raises:
        ContractError: it is another network. The message says where they differ first.
    """
    while type(model) in wrappers:
        assert isinstance(model, Edited | Pruned)
        model = model.model
    may = "".join(f", or {cls.__name__} around it" for cls in wrappers)
    advice = f"return the {name} that you were given{may}"
    if type(model) in (Edited, Pruned):
        raise ContractError(f"a network in {type(model).__name__} is another one; {advice}")
    structure, tensors = describe(model)
    expected, blank = describe(_blank(name, num_classes, image_size, sources))
    if digest(structure) != digest(expected):
        difference = first_difference(expected, structure)
        raise ContractError(f"the network is no {name}: {difference}; {advice}")
    facts, actual = _facts(name, expected, blank), _facts(name, structure, tensors)
    if difference := _difference(facts.tensors, actual.tensors):
        raise ContractError(f"the network is no {name}: {difference}; {advice}")


def _difference(
    expected: Mapping[str, tuple[str, tuple[int, ...]]],
    actual: Mapping[str, tuple[str, tuple[int, ...]]],
) -> str:
    """In words, the first tensor in which two networks differ. Empty: they have the same."""
    for key in (*expected, *(key for key in actual if key not in expected)):
        texts = [
            f"{dtype} {list(shape)}" if key in table else "absent"
            for table in (actual, expected)
            for dtype, shape in [table.get(key, ("", ()))]
        ]
        if texts[0] != texts[1]:
            return f"{shown(key)} is {texts[0]}, where {texts[1]} is expected"
    return ""


def check_network_file(
    path: Path,
    facts: NetworkFacts,
    *,
    wrappers: Collection[type[FeatureModel]] = (),
    packages: Collection[str] = (),
) -> None:
    """Compare a stored network with the facts of the one that it must be. Reads its header only.

    Args:
        wrappers: classes that may stand around the network: ``Edited``, ``Pruned``.
        packages: packages whose classes may be in what an ``Edited`` holds beside the network.

    Raises:
        IntegrityError: it is another network.
    """
    structure, record, header = read_structure(path)
    parts = parts_of(structure)
    if record:
        raise IntegrityError(f"{path.name}: a network that a stage leaves has no record beside it")
    if extra := sorted(header.tensors.keys() ^ parts.tensors):
        raise IntegrityError(f"{path.name}: the tensor {shown(extra[0])} belongs to no module")
    inside = unwrap(structure, {class_name(cls) for cls in wrappers})
    for wrapper in inside.around:
        _check_wrapper(path, wrapper, facts.name, packages)
    actual = {short: header.tensors[name] for short, name in inside.tensors.items()}
    if digest(inside.network) != facts.structure_digest:
        what = inside.network.get("class") or inside.network.get("model")
        plain = inside.network.get("plain", {})
        raise IntegrityError(
            f"{path.name} holds no {facts.name}: it is a {shown(what)} "
            f"named {shown(plain.get('name'))}, or a part of it differs"
        )
    if difference := _difference(facts.tensors, actual):
        raise IntegrityError(f"{path.name} holds no {facts.name}: {difference}")


def class_name(cls: type) -> str:
    """A class as files name it."""
    return f"{cls.__module__}:{cls.__qualname__}"


#: Wrapper -> (its attributes, its parts beside the network).
_FORMS = {
    class_name(Edited): (
        {"batch_norm", "group_channels", "name", "num_classes", "tap_channels"},
        {"model", "editor"},
    ),
    class_name(Pruned): (
        {"batch_norm", "group_channels", "name", "num_classes", "site", "tap_channels"},
        {"model"},
    ),
}


def _check_wrapper(
    path: Path, wrapper: dict[str, Any], name: str, packages: Collection[str]
) -> None:
    """Refuse a wrapper that is not as its constructor leaves it.

    What an ``Edited`` holds beside the network may be anything of ``packages``.
    """
    cls = wrapper["class"]
    plain, modules = _FORMS[cls]
    buffers = {"pixel_mean", "pixel_std"} | ({"kept"} if cls == class_name(Pruned) else set())
    wrong = (
        wrapper["plain"].keys() != plain
        or wrapper["modules"].keys() != modules
        or wrapper["buffers"].keys() != buffers
        or wrapper["parameters"]
    )
    if wrong or wrapper["plain"]["name"] != name:
        raise IntegrityError(f"{path.name}: the {shown(cls)} around {name} is not as it is made")
    editor = wrapper["modules"].get("editor")
    foreign = parts_of(editor).packages - set(packages) if editor else frozenset()
    if foreign:
        raise IntegrityError(
            f"{path.name} names a class of {shown(min(foreign))}, which is not the package of the "
            "defense that made it"
        )
