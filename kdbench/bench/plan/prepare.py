"""From a request to a plan: data loaded, networks tried, machine known. What can be refused early
is refused here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kdbench.bench.plan.build import build_plan
from kdbench.bench.plan.machine import arithmetic, code_digest, software
from kdbench.bench.plan.plan import Plan, Setting
from kdbench.bench.request.spec import Resolved, RunSpec, resolve_all
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.teachers import Imported, load_teacher
from kdbench.data import Dataset, Loader, load_dataset
from kdbench.errors import ConfigError, KdbenchError
from kdbench.loading.registry import Registry
from kdbench.models import NO_MODELS, ModelMaker, blank_model
from kdbench.numerics import Numerics, choose_numerics


@dataclass(frozen=True)
class Prepared:
    """A request, ready to run. settings and datasets belong together, one by one."""

    spec: RunSpec
    plan: Plan
    settings: list[Setting]
    datasets: list[Dataset]
    numerics: Numerics

    def parts(self) -> list[dict[str, Any]]:
        """Every number, for each dataset and preset: what its blocks share, and the methods of all
        of them."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for setting in self.settings:
            part = setting.resolved.as_dict()
            known = found.setdefault((setting.name, setting.resolved.name), part)
            known["methods"] = dict(sorted({**known["methods"], **part["methods"]}.items()))
        return list(found.values())


def prepare(spec: RunSpec, registry: Registry, store: Store) -> Prepared:
    """Resolve, load, check, plan.

    Raises:
        UsageError: a name, a value, the data or a network will not do.
    """
    parts = resolve_all(spec, registry)
    numerics = choose_numerics(spec.device, spec.numerics, spec.threads)
    imported = {name: load_teacher(store, name) for name in spec.teacher_from}
    settings, datasets, find = [], [], loader(spec, registry.datasets)
    for resolved in parts:
        dataset = find(resolved)
        check_models(resolved, dataset, registry.models)
        for teacher in imported.values():
            check_imported(spec, teacher, dataset, registry.origin_of_model(teacher.model))
        datasets.append(dataset)
        digests, sizes = (
            (dataset.train_digest, dataset.test_digest),
            (dataset.num_classes, len(dataset.train)),
        )
        computing = arithmetic(numerics), code_digest(), software()
        settings.append(Setting(resolved, dataset.name, *digests, *sizes, *computing, imported))
    called: dict[str, str] = {}
    twice = next(
        (
            s.name
            for s in settings
            if called.setdefault(s.name, s.resolved.dataset) != s.resolved.dataset
        ),
        None,
    )
    if twice is not None:
        raise ConfigError(
            f"two datasets of the request are called {twice!r} in the tables; run them one by one"
        )
    return Prepared(spec, build_plan(settings), settings, datasets, numerics)


def loader(spec: RunSpec, own: Mapping[str, Loader]) -> Callable[[Resolved], Dataset]:
    """:func:`load`, each dataset once for all blocks and presets that see the same of it. ``own``:
    the datasets of plugins."""
    loaded: dict[Any, Dataset] = {}

    def find(resolved: Resolved) -> Dataset:
        asked = (resolved.dataset, resolved.preset.signs if resolved.dataset == "signs" else None)
        if asked not in loaded:
            loaded[asked] = load(spec, resolved, own)
        return loaded[asked]

    return find


def load(
    spec: RunSpec, resolved: Resolved, own: Mapping[str, Loader] = MappingProxyType({})
) -> Dataset:
    """The request's dataset; the embedded one at the preset's size unless the request says
    otherwise."""
    signs = resolved.preset.signs.model_dump() if resolved.dataset == "signs" else {}
    asked = {
        key: getattr(spec, key) for key in ("image_size", "num_classes", "train_size", "test_size")
    }
    sizes = signs | {key: value for key, value in asked.items() if value is not None}
    dataset = load_dataset(
        resolved.dataset,
        data_dir=spec.data_dir,
        download=spec.download,
        seed=spec.data_seed,
        own=own,
        **sizes,
    )
    check_target(spec, dataset.name, dataset.num_classes)
    return dataset


def check_target(spec: RunSpec, name: str, num_classes: int) -> None:
    """Raise ConfigError where the dataset has no such class."""
    if spec.target_class >= num_classes:
        raise ConfigError(
            f"--target-class {spec.target_class} is out of range: {name} has classes 0 to "
            f"{num_classes - 1}"
        )


def check_models(
    resolved: Resolved, dataset: Dataset, own: Mapping[str, ModelMaker] = NO_MODELS
) -> None:
    """Build every network once at the dataset's size, before hours go into the teacher of one that
    cannot be built.

    Raises:
        ConfigError: a network cannot take such images.
    """
    size = dataset.image_size
    for name in dict.fromkeys(name for pair in resolved.spec.pairs for name in pair):
        try:
            blank_model(name, dataset.num_classes, image_size=size, own=own)
        except KdbenchError:
            raise
        # whatever a library makes of a size or a number of classes it was not made for
        except Exception as error:
            raise ConfigError(
                f"model {name!r} cannot be built for {size}x{size} images: {error}"
            ) from error


def check_imported(spec: RunSpec, teacher: Imported, dataset: Dataset, code: str = "") -> None:
    """Raise ConfigError where an imported teacher is not the pair's, was made for other classes, or
    is a network of a plugin whose code is now another (``code``)."""
    wrong = next((pair for pair in spec.pairs if pair[0] != teacher.model), None)
    if wrong is not None:
        raise ConfigError(
            f"--teacher-from {teacher.name} is a {teacher.model}, but the pair {'-'.join(wrong)} "
            f"asks for a {wrong[0]}; "
            f"name only a student, or pairs with {teacher.model}"
        )
    if teacher.num_classes != dataset.num_classes:
        raise ConfigError(
            f"--teacher-from {teacher.name} tells {teacher.num_classes} classes apart, "
            f"{dataset.name} has {dataset.num_classes}"
        )
    if teacher.code != code:
        raise ConfigError(
            f"--teacher-from {teacher.name} was imported when {teacher.model} was of "
            f"{teacher.code or 'kdbench'}, now it is of "
            f"{code or 'kdbench'}; import it again"
        )
