"""What a run takes from the imported teachers that it names, and what contradicts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench._counted import counted
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.store.teacher_record import Imported
from kdbench.data import Dataset
from kdbench.data.class_order import is_same
from kdbench.errors import ConfigError


def taken_from(teachers: Sequence[Imported], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request that it leaves open and its imported teachers state.

    Teachers of an older kdbench state nothing.

    Args:
        fields: of the request, as far as they are known.

    Raises:
        ConfigError: two teachers state different things.
    """
    described = [teacher for teacher in teachers if teacher.is_described]
    taken: dict[str, Any] = {}
    if not described:
        return taken
    first = described[0]
    if not _states_dataset(fields):
        _agree(described, "dataset", "--dataset")
        taken |= dataset_of(first, fields.get("data_dir"))
    if fields.get("image_size") is None and not _is_set(fields, "image_size"):
        _agree(described, "image_size", "--image-size")
        taken["image_size"] = first.image_size
    if fields.get("num_classes") is None and not _is_set(fields, "num_classes"):
        parts = [t for t in described if t.dataset_classes not in (None, t.num_classes)]
        if parts:
            taken["num_classes"] = parts[0].num_classes
    if fields.get("class_names") is None:
        reordered = [teacher for teacher in described if teacher.reordered]
        for teacher in reordered:
            taken["class_names"] = teacher.class_names
        if reordered:
            _agree_on_order(teachers, reordered[0])
    return taken


def _states_dataset(fields: Mapping[str, Any]) -> bool:
    return bool(fields.get("datasets")) or any(
        block.get("datasets") for block in fields.get("also", ())
    )


def _is_set(fields: Mapping[str, Any], size: str) -> bool:
    """Whether ``--set datasets.NAME.SIZE`` states a size."""
    return any(
        key.startswith("datasets.") and key.endswith(f".{size}")
        for key in fields.get("overrides", {})
    )


def _agree(teachers: Sequence[Imported], fact: str, option: str) -> None:
    """Raise ConfigError unless the teachers were imported with the same value."""
    first = teachers[0]
    for other in teachers[1:]:
        values = getattr(first, fact), getattr(other, fact)
        # One folder may be written in many ways.
        if values[0] != values[1] and (fact != "dataset" or _place(first) != _place(other)):
            raise ConfigError(
                f"--teacher-from {first.name} was imported with {option} {values[0]}, "
                f"{other.name} with {values[1]}; run them one by one"
            )


def _place(teacher: Imported) -> tuple[str, str | None]:
    """The dataset of a teacher by its full path, if it has one."""
    kind, _, path = teacher.dataset.partition(":")
    return (kind, teacher.folder) if path and teacher.folder else (teacher.dataset, None)


def _agree_on_order(teachers: Sequence[Imported], reordered: Imported) -> None:
    for other in teachers:
        if other.class_names != reordered.class_names:
            raise ConfigError(
                f"--teacher-from {reordered.name} counts its classes in another order than "
                f"{other.name} ({_order(reordered)}; {_order(other)}); run them one by one"
            )


def _order(teacher: Imported) -> str:
    if teacher.class_names is None:
        return f"{teacher.name}: the dataset's own"
    return f"{teacher.name}: {_few(teacher.class_names)}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def dataset_of(teacher: Imported, data_dir: Path | None = None) -> dict[str, Any]:
    """The dataset of a teacher, and its folder, wherever the command is called.

    Args:
        data_dir: the folder that the request names, if it does.
    """
    kind, _, path = teacher.dataset.partition(":")
    if not path:
        if teacher.folder is None or data_dir is not None:
            return {"datasets": [teacher.dataset]}
        return {"datasets": [teacher.dataset], "data_dir": Path(teacher.folder)}
    here = str(Path(path).expanduser().absolute())
    moved = teacher.folder is not None and here != teacher.folder
    return {"datasets": [f"{kind}:{teacher.folder}" if moved else teacher.dataset]}


def undescribed(teachers: Sequence[Imported]) -> Iterator[str]:
    """A line for each teacher of which it is not recorded how it is read."""
    for teacher in teachers:
        if not teacher.is_described:
            yield (
                f"{teacher.name} was imported by an older kdbench: the side, the order of the "
                "classes, mean and std that it needs are not known, and this run's own are used; "
                "import it again to have them recorded"
            )


def check_imported(
    spec: RunSpec, teacher: Imported, dataset: Dataset, code: str = "", requested: str = ""
) -> None:
    """Raise ConfigError where an imported teacher does not fit the request.

    It must be the pair's network and know the dataset's classes, at the dataset's size and in its
    order. A plugin's network must still have the same code.

    Args:
        code: the code of the network today, empty for kdbench's own.
        requested: the dataset as the request names it.
    """
    wrong = next((pair for pair in spec.pairs if pair[0] != teacher.model), None)
    if wrong is not None:
        raise ConfigError(
            f"--teacher-from {teacher.name} is a {teacher.model}, but the pair {'-'.join(wrong)} "
            f"asks for a {wrong[0]}; "
            f"name only a student, or pairs with {teacher.model}"
        )
    if teacher.num_classes != dataset.num_classes:
        todo = (
            "leave --dataset and --num-classes to the teacher"
            if teacher.is_described
            else f"it was imported for {teacher.dataset}, so give --dataset {teacher.dataset}"
        )
        raise ConfigError(
            f"--teacher-from {teacher.name} tells {counted(teacher.num_classes, 'class')} apart, "
            f"{dataset.name} has {dataset.num_classes}; {todo}"
        )
    if teacher.code != code:
        raise ConfigError(
            f"--teacher-from {teacher.name} was imported when {teacher.model} was of "
            f"{teacher.code or 'kdbench'}, now it is of "
            f"{code or 'kdbench'}; import it again"
        )
    if teacher.is_described:
        _check_classes(teacher, dataset, requested)
        _check_side(teacher, dataset)


def _check_side(teacher: Imported, dataset: Dataset) -> None:
    if teacher.image_size != dataset.image_size:
        sides = [f"{side}x{side}" for side in (teacher.image_size, dataset.image_size)]
        assumed = " (a default, nobody said it)" if teacher.basis["image_size"] == "assumed" else ""
        raise ConfigError(
            f"--teacher-from {teacher.name} was imported for images of {sides[0]}{assumed}, this "
            f"run has images of {sides[1]}; leave --image-size out, or import it again with "
            f"--image-size {dataset.image_size} --replace"
        )


def _check_classes(teacher: Imported, dataset: Dataset, requested: str) -> None:
    names = teacher.class_names
    if names is None:
        kinds = {name.partition(":")[0] for name in (requested, dataset.name)}
        if teacher.dataset.partition(":")[0] not in kinds:
            raise ConfigError(
                f"--teacher-from {teacher.name} was imported for {teacher.dataset}, this run has "
                f"{requested or dataset.name}; leave --dataset out, or import it again with "
                f"--dataset {requested or dataset.name} --replace"
            )
        return
    if is_same(names, dataset.class_names):
        return
    own = dataset.class_names
    place = next(n for n, name in enumerate(names) if not is_same([name], [own[n]]))
    what = (
        "counts its classes in another order than this run"
        if set(names) == set(dataset.class_names)
        else f"knows other classes than {dataset.name}"
    )
    raise ConfigError(
        f"--teacher-from {teacher.name} {what}: class {place} is {names[place]!r}, here "
        f"{dataset.class_names[place]!r}; leave the order of classes and --dataset to the teacher, "
        "or import it again with the --dataset and --class-order of this run"
    )
