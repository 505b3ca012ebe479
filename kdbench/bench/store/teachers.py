"""Teachers from elsewhere, kept in the store under a name."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdbench._files import read_record, write_record
from kdbench.bench.keys import MODEL, digest
from kdbench.bench.kinds import Kind
from kdbench.bench.store.artefacts import Store, file_digest
from kdbench.bench.store.teacher_names import check_teacher_name, is_teacher_name
from kdbench.bench.store.teacher_record import Imported, Reading, differences
from kdbench.errors import ConfigError, IntegrityError, UnknownMethodError, unknown
from kdbench.untrusted.text import strip_control

__all__ = [
    "Imported",
    "load_teacher",
    "named_keys",
    "read_entry",
    "remove_teacher",
    "rename_teacher",
    "save_teacher",
    "teacher_names",
]

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdbench.models import ModelSource


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
    reading: Reading | None = None,
    replace: bool = False,
    sources: Mapping[str, ModelSource] | None = None,
    code: str = "",
    save: Callable[[Mapping[str, Tensor], Path, dict[str, Any]], None] | None = None,
) -> str:
    """Keep checked weights as a suspect teacher, and return its key in the store.

    The network will normalise images as its reading states, else as the dataset says that it is
    used with.

    Args:
        state: the weights.
        origin: where they are from.
        reading: how its input and output are read. None: nothing is known of it.
        replace: whether the name may be taken by another network, which it then leaves.
        sources: networks by name (``Registry.models``). None: kdbench's own.
        code: which code the network is of (``Registry.origin_of_model``).
        save: writes a network with these weights, and a record, to a file. None: the named network
            is built here.

    Raises:
        UsageError: the name is taken by another network, or is no name.
    """
    check_teacher_name(name)
    store = Store(store_root)
    store.check_writable()
    reading = reading or Reading()
    with _writing(store):
        return _keep(
            store,
            state,
            save,
            sources,
            replace,
            Imported(
                name=name,
                key="",
                model=model,
                dataset=dataset,
                num_classes=num_classes,
                image_size=image_size,
                origin=origin,
                code=code,
                imported=time.time(),
                **dict(reading),
            ),
        )


def _keep(
    store: Store,
    state: dict[str, Tensor],
    save: Callable[[Mapping[str, Tensor], Path, dict[str, Any]], None] | None,
    sources: Mapping[str, ModelSource] | None,
    replace: bool,
    teacher: Imported,
) -> str:
    """Keep weights and the record of their teacher, which has no key yet."""
    record: dict[str, Any] = {"normalization": "dataset"}
    if teacher.own_normalization:
        record = {"normalization": {"mean": teacher.mean, "std": teacher.std}}
    model, classes, size = teacher.model, teacher.num_classes, teacher.image_size
    with store.scratch() as folder:
        if save is not None:
            save(state, folder / MODEL, record)
        else:
            _save(folder / MODEL, record, model, classes, size, sources, state)
        weights = file_digest(folder / MODEL)
        code = [teacher.code] if teacher.code else []
        key = digest(["imported", weights, model, classes, size, *code])
        teacher = teacher.model_copy(update={"key": key})
        if not replace:
            _check_free(store, teacher)
        if store.verified(key) is None:
            store.publish(
                key,
                folder,
                (MODEL,),
                kind=Kind.IMPORTED,
                title=f"imported {teacher.name}",
                facts={"origin": teacher.origin},
                seconds=0.0,
                peak_mb=0.0,
                ingredients={"weights": weights, "model": model},
            )
    _write_entry(store, teacher)
    return key


@contextlib.contextmanager
def _writing(store: Store) -> Iterator[None]:
    """Turns what the disk refuses into a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the store {store.root} cannot be written to ({error.strerror or error}); make room "
            "there, or name another folder with --store"
        ) from error


def _write_entry(store: Store, teacher: Imported) -> None:
    path = _path(store, teacher.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(teacher.model_dump(mode="json", exclude={"name"}), path)


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


def _check_free(store: Store, teacher: Imported) -> None:
    """Raise ConfigError if the name is that of another network."""
    try:
        before = read_entry(store, teacher.name)
    except (UnknownMethodError, IntegrityError):  # a damaged entry names nothing
        return
    if before.key == teacher.key:
        return
    files = [each.origin.get("sha256") for each in (before, teacher)]
    what = (
        "of the same file"
        if files[0] is not None and files[0] == files[1]
        else f"with other weights ({files[0] or before.key})"
    )
    changes = "; ".join(differences(before, teacher))
    raise ConfigError(
        f"a teacher {teacher.name!r} is already there, {what}"
        f"{f': {changes}' if changes else ''}; add --replace to have this one in its place, or "
        "choose another --name"
    )


def read_entry(store: Store, name: str) -> Imported:
    """What is recorded of an imported teacher. Its weights are not looked at.

    Raises:
        UnknownMethodError: there is none of that name.
        IntegrityError: its entry is damaged.
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
        entry = read_record(path)
        # JSON once more, since its lists stand for tuples and its texts for no numbers.
        teacher = Imported.model_validate_json(json.dumps({**entry, "name": name}), strict=True)
        if not re.fullmatch("[0-9a-f]{64}", teacher.key):
            raise ValueError("its key is no SHA-256")
        return teacher
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(
            f"the entry of the imported teacher {name!r} is damaged ({_why(error)}); import it "
            f"again, or remove it: kdbench teacher rm {name}"
        ) from error


def _why(error: Exception) -> str:
    """What is wrong with an entry, in a few words."""
    if not isinstance(error, ValidationError):
        return "it cannot be read" if isinstance(error, OSError) else str(error)[:200]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return strip_control(f"{where}: {first['msg']}" if where else first["msg"])[:200]


def load_teacher(store: Store, name: str) -> Imported:
    """Look an imported teacher up, with its weights.

    Raises:
        UnknownMethodError: there is none of that name.
        IntegrityError: its entry or its weights are damaged.
    """
    teacher = read_entry(store, name)
    if store.verified(teacher.key) is None:
        _path(store, name).unlink(missing_ok=True)
        raise IntegrityError(
            f"the weights of the imported teacher {name!r} are damaged or gone; import it again"
        )
    store.touch(teacher.key)
    return teacher


def rename_teacher(store: Store, old: str, new: str) -> None:
    """Give an imported teacher another name. Rows that name it keep the old one.

    Raises:
        UsageError: there is no such teacher, or the new name is taken or is no name.
        IntegrityError: its entry is damaged.
    """
    check_teacher_name(new, "a new name")
    read_entry(store, old)
    if _path(store, new).exists():
        raise ConfigError(
            f"a teacher {new!r} is already there; choose another name, or remove it: kdbench "
            f"teacher rm {new}"
        )
    with _writing(store):
        os.rename(_path(store, old), _path(store, new))


def remove_teacher(store: Store, name: str) -> None:
    """Forget an imported teacher, damaged or not.

    Its weights stay for runs that use them, until ``kdbench store gc --unused-days`` takes them.

    Raises:
        UnknownMethodError: there is none of that name.
    """
    with contextlib.suppress(IntegrityError):
        read_entry(store, name)
    with _writing(store):
        _path(store, name).unlink(missing_ok=True)


def teacher_names(store: Store) -> list[str]:
    """Sorted names of the imported teachers."""
    names = (path.stem for path in (store.vault / "teachers").glob("*.json"))
    return sorted(name for name in names if is_teacher_name(name))


def named_keys(store: Store) -> set[str] | None:
    """Keys of the networks that have a name. None: an entry is damaged, so they are not known."""
    try:
        return {read_entry(store, name).key for name in teacher_names(store)}
    except IntegrityError:
        return None


def _path(store: Store, name: str) -> Path:
    return store.vault / "teachers" / f"{name}.json"
