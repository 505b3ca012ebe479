"""What a request comes to on a machine that may lack its data: for what a run would cost, never for a run."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.bench.machine import arithmetic, code_digest, software
from kdbench.bench.plan import Setting, Stage
from kdbench.bench.prepare import check_target, loader
from kdbench.bench.spec import RunSpec, resolve_all
from kdbench.data.facts import OFFICIAL
from kdbench.numerics import Numerics, choose_numerics
from kdbench.registry import Registry
from kdbench.training import Recipe

#: Kinds of stage that train by the recipe they are told, on all training images.
_BY_RECIPE = ("clean", "alone", "backdoor", "distill", "repair")


@dataclass(frozen=True)
class Outline:
    """settings: as for a plan. train: training images of each. absent: datasets that are not here and only counted on."""

    settings: list[Setting]
    train: list[int]
    absent: list[str]
    numerics: Numerics


def outline(spec: RunSpec, registry: Registry) -> Outline:
    """The settings of a request; without a ``data_dir``, a dataset that needs one has its official number of images.

    Raises:
        UsageError: a name, a value or a dataset will not do.
    """
    numerics = choose_numerics(spec.device, spec.numerics, spec.threads)
    computing = arithmetic(numerics), code_digest(), software()
    settings, sizes, absent, find = [], [], [], loader(spec, registry.datasets)
    for resolved in resolve_all(spec, registry):
        name = resolved.dataset
        if spec.data_dir is None and name != "signs" and name in OFFICIAL:
            known = OFFICIAL[name]
            classes, train = spec.num_classes or known.num_classes, min(spec.train_size or known.train, known.train)
            check_target(spec, name, classes)
            digests = (f"not here: {name}",) * 2
            absent.append(name)
        else:
            data = find(resolved)
            name, classes, train = data.name, data.num_classes, len(data.train)
            digests = data.train_digest, data.test_digest
        sizes.append(train)
        settings.append(Setting(resolved, name, *digests, classes, *computing))
    return Outline(settings, sizes, list(dict.fromkeys(absent)), numerics)


def images_trained(stage: Stage, train: int) -> int:
    """Images that pass through a training by recipe, each as often as it is seen; 0 for other stages.

    A method's own phases (a trigger's search, a detoxification) and poisons added to the set are not in it.
    """
    if stage.kind not in _BY_RECIPE:
        return 0
    return Recipe(**stage.values["recipe"]).passes(train) * train
