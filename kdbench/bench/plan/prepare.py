"""From a request to a plan: loads the data, tries the networks, looks at the machine.

Everything that can be refused before the first training is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdbench._counted import counted
from kdbench.bench.plan.build import build_plan
from kdbench.bench.plan.images import check_pool, descriptions
from kdbench.bench.plan.machine import arithmetic, code_digest, software
from kdbench.bench.plan.plan import LoadedPart, Plan
from kdbench.bench.plan.suspects import check_imported
from kdbench.bench.request.presets import DatasetSizes
from kdbench.bench.request.spec import Resolved, RunSpec, resolve_all
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.teachers import Imported, load_teacher
from kdbench.data import Dataset, DatasetSource, load_dataset
from kdbench.data.builtin import DATASETS
from kdbench.data.description import Description
from kdbench.data.fraction import held_out_rows
from kdbench.errors import ConfigError, KdbenchError
from kdbench.loading.answers import Answers
from kdbench.numerics import Numerics, choose_numerics


@dataclass(frozen=True)
class Prepared:
    """A request, ready to run."""

    spec: RunSpec
    """The request."""
    plan: Plan
    """The stages and cells of all parts."""
    parts: list[LoadedPart]
    """Each block with each dataset and preset. Stages and cells name their part by its place."""
    numerics: Numerics
    """Device and arithmetic."""
    notes: tuple[str, ...] = ()
    """What makes no sense in the groups of a network."""

    def numbers(self) -> list[dict[str, Any]]:
        """Every number, for each dataset and preset, with the methods of all blocks."""
        by_name: dict[tuple[str, str], dict[str, Any]] = {}
        for part in self.parts:
            numbers = part.resolved.as_dict()
            known = by_name.setdefault((part.dataset_name, part.resolved.preset_name), numbers)
            known["methods"] = dict(sorted({**known["methods"], **numbers["methods"]}.items()))
        return list(by_name.values())

    def descriptions(self) -> list[Description]:
        """What is trained on: each dataset once."""
        return descriptions(self.parts)


def prepare(spec: RunSpec, registry: Answers, store: Store) -> Prepared:
    """Resolve a request, load its data, check both and lay out the plan.

    Raises:
        UsageError: a name, a value, the data or a network cannot be used.
    """
    everything = resolve_all(spec, registry)
    numerics = choose_numerics(spec.device, spec.numerics, spec.threads)
    imported = {name: load_teacher(store, name) for name in spec.teacher_from}
    parts, find = [], loader(spec, registry.datasets)
    notes: list[str] = []
    for resolved in everything:
        dataset = _found(find, resolved, imported)
        check_pool(resolved, dataset)
        notes += check_models(resolved, dataset, registry)
        for teacher in imported.values():
            code = registry.origin_of_model(teacher.model)
            check_imported(spec, teacher, dataset, code, resolved.dataset)
        parts.append(loaded_part(resolved, dataset, numerics, imported))
    _check_names(parts)
    return Prepared(spec, build_plan(parts), parts, numerics, tuple(dict.fromkeys(notes)))


def _found(
    find: Callable[[Resolved], Dataset], resolved: Resolved, imported: Mapping[str, Imported]
) -> Dataset:
    """The dataset, with its classes in the order of the imported teachers.

    Raises:
        ConfigError: it has other classes than a teacher. The message names that teacher.
    """
    try:
        return find(resolved)
    except ConfigError as error:
        names = resolved.spec.class_names
        teacher = next((t for t in imported.values() if t.class_names == names), None)
        if names is None or teacher is None:
            raise
        raise ConfigError(
            f"{resolved.dataset} does not fit --teacher-from {teacher.name}, which was imported "
            f"for {teacher.dataset}: {error}; leave --dataset out"
        ) from error


def loaded_part(
    resolved: Resolved, dataset: Dataset, numerics: Numerics, imported: Mapping[str, Imported]
) -> LoadedPart:
    """A part with its dataset, to be computed on this machine."""
    return LoadedPart(
        resolved=resolved,
        dataset=dataset,
        dataset_name=dataset.name,
        train_digest=dataset.train_digest,
        test_digest=dataset.test_digest,
        num_classes=dataset.num_classes,
        train_size=len(dataset.train),
        image_size=dataset.image_size,
        class_names=dataset.class_names,
        numerics=arithmetic(numerics),
        code=code_digest(),
        software=software(),
        imported=imported,
    )


def _check_names(parts: Iterable[LoadedPart]) -> None:
    """Raise ConfigError where two datasets have one name in the tables."""
    requested: dict[str, str] = {}
    for part in parts:
        dataset = part.resolved.dataset
        if requested.setdefault(part.dataset_name, dataset) != dataset:
            raise ConfigError(
                f"two datasets of the request are called {part.dataset_name!r} in the tables; run "
                "them one by one"
            )


def loader(spec: RunSpec, sources: Mapping[str, DatasetSource]) -> Callable[[Resolved], Dataset]:
    """:func:`load` with a memory: blocks and presets that see the same images share them."""
    loaded: dict[tuple[str, DatasetSizes], Dataset] = {}

    def find(resolved: Resolved) -> Dataset:
        key = resolved.dataset, resolved.preset.sizes_of(resolved.dataset)
        if key not in loaded:
            loaded[key] = load(spec, resolved, sources)
        return loaded[key]

    return find


def load(
    spec: RunSpec, resolved: Resolved, sources: Mapping[str, DatasetSource] = DATASETS
) -> Dataset:
    """The request's dataset. Sizes that the request leaves open are the preset's."""
    sizes = {
        name: default if getattr(spec, name) is None else getattr(spec, name)
        for name, default in resolved.preset.sizes_of(resolved.dataset)
    }
    dataset = load_dataset(
        resolved.dataset,
        data_dir=spec.data_dir,
        download=spec.download,
        seed=spec.data_seed,
        class_names=spec.class_names,
        sources=sources,
        **sizes,
    )
    check_target(spec, dataset.name, dataset.num_classes)
    _check_held_out(spec, dataset)
    return dataset


def _check_held_out(spec: RunSpec, dataset: Dataset) -> None:
    """Raise ConfigError where no image is left to check a teacher that is trained here."""
    if spec.attacks and not len(held_out_rows(dataset.train.labels, spec.data_seed)):
        raise ConfigError(
            f"{dataset.name} has {counted(len(dataset.train), 'training image')}, no two of them "
            "of one class; a class with two holds out one to check the teacher; use more of them "
            "(--train-size)"
        )


def check_target(spec: RunSpec, name: str, num_classes: int) -> None:
    """Raise ConfigError where the dataset has no such class."""
    if spec.target_class >= num_classes:
        raise ConfigError(
            f"--target-class {spec.target_class} is out of range: {name} has classes 0 to "
            f"{num_classes - 1}"
        )


def check_models(resolved: Resolved, dataset: Dataset, registry: Answers) -> list[str]:
    """Build every network once at the dataset's size. Returns what makes no sense in their groups.

    A student that cannot be built is found now, and not after hours of training its teacher.

    Raises:
        ConfigError: a network cannot take such images.
    """
    size = dataset.image_size
    notes: list[str] = []
    for name in dict.fromkeys(name for pair in resolved.spec.pairs for name in pair):
        try:
            facts = registry.network(name, dataset.num_classes, size)
        except KdbenchError:
            raise
        # A library may raise anything for a size or a number of classes that it does not support.
        except Exception as error:
            raise ConfigError(
                f"model {name!r} cannot be built for {size}x{size} images: {error}"
            ) from error
        notes += [f"{name} at {size}x{size}: {note}" for note in facts.notes]
    return notes
