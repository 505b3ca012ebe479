"""What a request comes to on a machine that may lack its data: for what a run would cost, never for a run."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.bench.machine import arithmetic, code_digest, software
from kdbench.bench.plan import Setting, Stage
from kdbench.bench.prepare import load
from kdbench.bench.spec import Resolved, RunSpec, resolve_all
from kdbench.data.facts import OFFICIAL
from kdbench.errors import ConfigError
from kdbench.registry import Registry
from kdbench.training import Numerics, Recipe, choose_numerics

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
    """The settings of a request; a dataset that is not here has its official number of images.

    Raises:
        UsageError: a name or a value will not do, or a dataset is not here and nothing is known of it.
    """
    numerics = choose_numerics(spec.device, spec.numerics, spec.threads)
    settings, sizes, absent = [], [], []
    for resolved in resolve_all(spec, registry):
        name, digests, classes, train = _data(spec, resolved)
        if not all(digests):
            absent.append(name)
            digests = (f"not here: {name}",) * 2
        sizes.append(train)
        settings.append(Setting(resolved, name, *digests, classes, arithmetic(numerics), code_digest(), software()))
    return Outline(settings, sizes, list(dict.fromkeys(absent)), numerics)


def _data(spec: RunSpec, resolved: Resolved) -> tuple[str, tuple[str, str], int, int]:
    """(name, digests of the splits, classes, training images); digests empty where the data is not here."""
    try:
        data = load(spec, resolved)
        return data.name, (data.train_digest, data.test_digest), data.num_classes, len(data.train)
    except ConfigError:
        known = OFFICIAL.get(resolved.dataset)
        if known is None:
            raise
        return (
            resolved.dataset,
            ("", ""),
            spec.num_classes or known.num_classes,
            min(spec.train_size or known.train, known.train),
        )


def images_trained(stage: Stage, train: int) -> int:
    """Images that pass through a training by recipe, each as often as it is seen; 0 for other stages.

    A method's own phases (a trigger's search, a detoxification) and poisons added to the set are not in it.
    """
    if stage.kind not in _BY_RECIPE:
        return 0
    return Recipe(**stage.values["recipe"]).passes(train) * train
