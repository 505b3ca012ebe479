"""Teachers from elsewhere, kept in the store under a name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench._files import write_record
from kdbench.bench.keys import MODEL, digest
from kdbench.bench.kinds import Kind
from kdbench.bench.store.artefacts import Store, file_digest
from kdbench.bench.store.teacher_names import check_teacher_name, is_teacher_name
from kdbench.errors import ConfigError, IntegrityError, UnknownMethodError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdbench.models import ModelSource


@dataclass(frozen=True)
class Imported:
    """An imported teacher."""

    name: str
    """What ``--teacher-from`` calls it."""
    key: str
    """Of its artefact in the store."""
    model: str
    """Name of its network."""
    dataset: str
    """The dataset that it was imported for."""
    num_classes: int
    """Classes that it tells apart."""
    image_size: int
    """Pixels a side."""
    origin: dict[str, Any]
    """Where the weights are from, see kdbench.untrusted.weights."""
    code: str = ""
    """Digest of the code of its network if a plugin makes it, else empty."""


def save_teacher(
    store_root: Path | None,
    name: str,
    state: dict[str, Tensor],
    origin: dict[str, Any],
    *,
    model: str,
    dataset: str,
    num_classes: int,
    image_size: int,
    sources: Mapping[str, ModelSource] | None = None,
    code: str = "",
    save: Callable[[Mapping[str, Tensor], Path, dict[str, Any]], None] | None = None,
) -> str:
    """Keep checked weights as a suspect teacher, and return its key in the store.

    The network will normalise images as the dataset says that it is used with.

    Args:
        state: the weights.
        origin: where they are from.
        sources: networks by name (``Registry.models``). None: kdbench's own.
        code: which code the network is of (``Registry.origin_of_model``).
        save: writes a network with these weights, and a record, to a file. None: the named network
            is built here.

    Raises:
        UsageError: the name is taken by other weights, or is no name.
    """
    check_teacher_name(name)
    store = Store(store_root)
    store.check_writable()
    record = {"normalization": "dataset"}
    with store.scratch() as folder:
        if save is not None:
            save(state, folder / MODEL, record)
        else:
            _save(folder / MODEL, record, model, num_classes, image_size, sources, state)
        weights = file_digest(folder / MODEL)
        key = digest(
            ["imported", weights, model, num_classes, image_size, *([code] if code else [])]
        )
        _check_free(store, name, key)
        if store.verified(key) is None:
            store.publish(
                key,
                folder,
                (MODEL,),
                kind=Kind.IMPORTED,
                title=f"imported {name}",
                facts={"origin": origin},
                seconds=0.0,
                peak_mb=0.0,
                ingredients={"weights": weights, "model": model},
            )
    path = _path(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "key": key,
        "model": model,
        "dataset": dataset,
        "num_classes": num_classes,
        "image_size": image_size,
    }
    facts |= {"code": code} if code else {}
    write_record({**facts, "origin": origin}, path)
    return key


def _save(
    path: Path,
    record: dict[str, Any],
    model: str,
    num_classes: int,
    image_size: int,
    sources: Mapping[str, ModelSource] | None,
    state: dict[str, Tensor],
) -> None:
    # Looking a teacher up takes no torch.
    from kdbench.models import blank_model
    from kdbench.models.builtin import MODELS
    from kdbench.models.files import save_module

    sources = MODELS if sources is None else sources
    network = blank_model(model, num_classes, image_size=image_size, sources=sources)
    _load_state(network, state, model)
    save_module(network.eval(), path, record)


def _load_state(network: nn.Module, state: dict[str, Tensor], model: str) -> None:
    """Put weights into a network, or raise IntegrityError if they are not those of ``model``."""
    # Counters of batches seen are of no consequence, and some files leave them out.
    missing, extra = network.load_state_dict(state, strict=False)
    if extra or any(not key.endswith("num_batches_tracked") for key in missing):
        raise IntegrityError(
            f"the weights are not those of {model}: missing {missing[:3]}, unexpected {extra[:3]}"
        )


def _check_free(store: Store, name: str, key: str) -> None:
    """Raise ConfigError if the name is that of other weights."""
    if _path(store, name).exists() and (known := load_teacher(store, name)).key != key:
        raise ConfigError(
            f"a teacher {name!r} is already there, with other weights "
            f"({known.origin.get('sha256', known.key)}); "
            "choose another --name"
        )


def load_teacher(store: Store, name: str) -> Imported:
    """Look an imported teacher up.

    Raises:
        UnknownMethodError: there is none of that name.
        IntegrityError: its entry or its weights are damaged.
    """
    path = _path(store, name) if is_teacher_name(name) else None
    if path is None or not path.is_file():
        raise UnknownMethodError(
            unknown(
                "imported teacher",
                name,
                teacher_names(store),
                "see `kdbench import-teacher --help`",
            )
        )
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        teacher = Imported(name=name, **entry)
    except (ValueError, TypeError) as error:
        raise IntegrityError(
            f"the entry of the imported teacher {name!r} is damaged; import it again"
        ) from error
    if store.verified(teacher.key) is None:
        path.unlink(missing_ok=True)
        raise IntegrityError(
            f"the weights of the imported teacher {name!r} are damaged or gone; import it again"
        )
    return teacher


def teacher_names(store: Store) -> list[str]:
    """Sorted names of the imported teachers."""
    return sorted(path.stem for path in (store.vault / "teachers").glob("*.json"))


def _path(store: Store, name: str) -> Path:
    return store.vault / "teachers" / f"{name}.json"
