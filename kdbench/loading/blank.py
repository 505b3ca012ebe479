"""A plugin's network with blank weights, as data that its process has left in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdbench.errors import IntegrityError
from kdbench.models.files import read_structure, save_structure
from kdbench.models.named import NetworkFacts, check_network_file
from kdbench.untrusted.box import check_file
from kdbench.untrusted.header import MOST_BYTES

#: Most modules, those that have several names counted once for each.
_MOST_MODULES = 50_000


@dataclass(frozen=True)
class BlankNetwork:
    """What a file of a network holds besides its weights."""

    structure: dict[str, Any]
    """See :mod:`kdbench.models.files`."""
    tensors: Mapping[str, Tensor]
    """By their names in the file."""
    names: Mapping[str, str]
    """Name in a ``state_dict()`` -> name in the file."""

    def state(self) -> dict[str, Tensor]:
        """What the network's ``state_dict()`` holds when it is new."""
        return {name: self.tensors[inside] for name, inside in self.names.items()}

    def save(self, state: Mapping[str, Tensor], path: Path, record: dict[str, Any]) -> None:
        """Write the network with these weights. Weights that are missing stay blank."""
        changed = {self.names[name]: tensor for name, tensor in state.items()}
        save_structure(self.structure, {**self.tensors, **changed}, path, record)


def read_blank(path: Path, facts: NetworkFacts) -> BlankNetwork:
    """Read a file that :func:`kdbench.models.files.save_module` wrote. Nothing in it is run.

    Raises:
        IntegrityError: it is another network than the facts say, or no file of a usual size.
    """
    try:
        check_file(path.parent, path.name, facts.bytes + MOST_BYTES + 8)
    except OSError as error:
        raise IntegrityError(f"{path.name} cannot be read: {error.strerror}") from error
    check_network_file(path, facts)
    structure, _, _ = read_structure(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = dict(_names(structure))
    except (SafetensorError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(f"{path.name} holds no network: {error}") from error
    return BlankNetwork(structure, tensors, {a: b for a, b in names.items() if b in tensors})


def _names(root: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name in a state_dict, name in the file) of each tensor of a structure."""
    left, count = [("", root)], 0
    while left:
        path, node = left.pop()
        count += 1
        # Modules inside modules with several names are many more than the file has.
        if count > _MOST_MODULES:
            raise ValueError(f"it has more than {_MOST_MODULES} modules")
        if "same" in node:
            same = node["same"]
            node = root
            for part in filter(None, same.split(".")):
                node = node["modules"][part]
        for kind in ("parameters", "buffers"):
            for name, inside in node[kind].items():
                if inside is not None and name not in node["transient"]:
                    yield f"{path}{name}", inside
        for name, child in node["modules"].items():
            if child is not None:
                left.append((f"{path}{name}.", child))
