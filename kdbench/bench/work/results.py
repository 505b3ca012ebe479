"""What a stage may leave: the network of its row, and a trigger of its attack.

A stage looks at its result itself, so that the author of a method gets a clear message. That is no
protection, since the method runs in the same process. The coordinator looks at the files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from kdbench.bench.keys import MODEL, TRIGGER
from kdbench.bench.kinds import Kind
from kdbench.errors import IntegrityError
from kdbench.models.base import FeatureModel
from kdbench.models.files import read_structure
from kdbench.models.named import NetworkFacts, check_network_file, class_name
from kdbench.models.structure import parts_of
from kdbench.models.views import Edited, Pruned
from kdbench.triggers import BlendTrigger, PatchTrigger
from kdbench.untrusted.header import MOST_BYTES, shown

#: Kind -> what may stand around the network that it leaves. Other kinds leave the bare network.
WRAPPERS: dict[Kind, tuple[type[FeatureModel], ...]] = {
    Kind.CLEANSE: (Edited, Pruned),
    Kind.REPAIR: (Pruned,),
}
#: What a trigger or an editor may take: a generator network, pictures.
_MOST_MB = 512
_TRIGGERS = tuple(class_name(cls) for cls in (BlendTrigger, PatchTrigger))


def limit_bytes(kind: Kind, facts: NetworkFacts | None) -> int:
    """How large a file of a stage's result may be."""
    network = MOST_BYTES + (0 if facts is None else facts.bytes)
    beside = _MOST_MB << 20 if Kind.named(kind) in (Kind.BACKDOOR, Kind.CLEANSE) else 1 << 20
    return network + beside


def check_of(
    kind: Kind, facts: NetworkFacts | None, packages: Collection[str]
) -> Callable[[Path], None] | None:
    """A function that looks at the folder of a stage's files and raises IntegrityError.

    None: there is nothing to look at.

    Args:
        facts: of the network that the stage must leave.
        packages: of the attack or the defense whose classes a trigger or an editor may be of.
    """
    kind = Kind.named(kind)
    if MODEL not in kind.files:
        return None
    assert facts is not None
    return partial(_check, kind, facts, packages)


def _check(kind: Kind, facts: NetworkFacts, packages: Collection[str], folder: Path) -> None:
    check_network_file(folder / MODEL, facts, wrappers=WRAPPERS.get(kind, ()), packages=packages)
    if TRIGGER in kind.files:
        check_trigger_file(folder / TRIGGER, packages)


def check_trigger_file(path: Path, packages: Collection[str]) -> None:
    """Refuse a trigger that names classes of other packages, or sources that are no classes.

    Raises:
        IntegrityError: it is none that the attack can have left.
    """
    structure, record, header = read_structure(path)
    parts = parts_of(structure)
    if extra := sorted(header.tensors.keys() ^ parts.tensors):
        raise IntegrityError(f"{path.name}: the tensor {shown(extra[0])} belongs to no module")
    if foreign := parts.packages - set(packages):
        raise IntegrityError(
            f"{path.name} names a class of {shown(min(foreign))}, which is not the package of the "
            "attack that made it"
        )
    _sources(path, record)


def source_classes(path: Path) -> tuple[int, ...] | None:
    """The classes that a stored trigger is for. None: every class but the target."""
    _, record, _ = read_structure(path)
    return _sources(path, record)


def _sources(path: Path, record: dict[str, Any]) -> tuple[int, ...] | None:
    classes = record.get("source_classes")
    if classes is None:
        return None
    if not isinstance(classes, list) or not all(type(c) is int and c >= 0 for c in classes):
        raise IntegrityError(f"{path.name}: its source classes are no list of numbers")
    return tuple(classes)


def is_core_trigger(path: Path) -> bool:
    """Whether a stored trigger is one of kdbench's own, which needs no plugin's code."""
    structure, _, _ = read_structure(path)
    parts_of(structure)
    return (
        structure.get("class") in _TRIGGERS
        and not structure["plain"]
        and not structure["parameters"]
        and not structure["modules"]
        and structure["buffers"].keys() == {"pattern", "mask"}
    )


def is_core_network(path: Path, *, known: bool) -> bool:
    """Whether a stored network runs without a plugin's code.

    Args:
        known: whether its name is that of kdbench's own network, or of a library's.
    """
    structure, _, _ = read_structure(path)
    parts = parts_of(structure)
    return known and not parts.packages and class_name(Edited) not in parts.modules
