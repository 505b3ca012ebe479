"""What a request comes to on a machine that may lack its data: for what a run would cost, never for
a run."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.bench.plan.machine import arithmetic, code_digest, software
from kdbench.bench.plan.plan import Setting
from kdbench.bench.plan.prepare import check_target, loader
from kdbench.bench.request.spec import RunSpec, resolve_all
from kdbench.data.facts import OFFICIAL
from kdbench.loading.registry import Registry
from kdbench.numerics import Numerics, choose_numerics


@dataclass(frozen=True)
class Outline:
    """settings: as for a plan. absent: datasets that are not here and only counted on."""

    settings: list[Setting]
    absent: list[str]
    numerics: Numerics


def outline(spec: RunSpec, registry: Registry) -> Outline:
    """The settings of a request; without a ``data_dir``, a dataset that needs one has its official
    number of images.

    Raises:
        UsageError: a name, a value or a dataset will not do.
    """
    numerics = choose_numerics(spec.device, spec.numerics, spec.threads)
    computing = arithmetic(numerics), code_digest(), software()
    settings, absent, find = [], [], loader(spec, registry.datasets)
    for resolved in resolve_all(spec, registry):
        name = resolved.dataset
        if spec.data_dir is None and name != "signs" and name in OFFICIAL:
            known = OFFICIAL[name]
            classes, train = (
                spec.num_classes or known.num_classes,
                min(spec.train_size or known.train, known.train),
            )
            check_target(spec, name, classes)
            digests = (f"not here: {name}",) * 2
            absent.append(name)
        else:
            data = find(resolved)
            name, classes, train = data.name, data.num_classes, len(data.train)
            digests = data.train_digest, data.test_digest
        settings.append(Setting(resolved, name, *digests, classes, train, *computing))
    return Outline(settings, list(dict.fromkeys(absent)), numerics)
