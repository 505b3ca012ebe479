"""The parts of a request on a machine that may not have its data.

They serve to estimate what a run costs. They are never run.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.bench.plan.machine import arithmetic, code_digest, software
from kdbench.bench.plan.plan import Part
from kdbench.bench.plan.prepare import check_target, loaded_part, loader
from kdbench.bench.request.spec import Resolved, RunSpec, resolve_all
from kdbench.loading.answers import Answers
from kdbench.numerics import Numerics, choose_numerics


@dataclass(frozen=True)
class Outline:
    """The parts of a request, some of them without data."""

    parts: list[Part]
    """Each block with each dataset and preset."""
    absent: list[str]
    """Names of the datasets that are not on this machine."""
    numerics: Numerics
    """Device and arithmetic."""


def outline(spec: RunSpec, registry: Answers) -> Outline:
    """The parts of a request.

    A dataset that needs a ``data_dir`` and has none counts with its official number of images.

    Raises:
        UsageError: a name, a value or a dataset will not do.
    """
    numerics = choose_numerics(spec.device, spec.numerics, spec.threads)
    parts: list[Part] = []
    absent, find = [], loader(spec, registry.datasets)
    for resolved in resolve_all(spec, registry):
        part = _absent_part(spec, resolved, numerics)
        if part is None:
            part = loaded_part(resolved, find(resolved), numerics, {})
        else:
            absent.append(part.dataset_name)
        parts.append(part)
    return Outline(parts, list(dict.fromkeys(absent)), numerics)


def _absent_part(spec: RunSpec, resolved: Resolved, numerics: Numerics) -> Part | None:
    """A part with the official numbers of its dataset.

    None: the dataset can be loaded, or no official numbers are known.
    """
    name, source = resolved.dataset, resolved.source
    official_classes, official_size = source.num_classes, source.train_size
    if spec.data_dir is not None or not source.folder:
        return None
    if official_classes is None or official_size is None:
        return None
    sizes = resolved.preset.sizes_of(resolved.dataset)
    classes = spec.num_classes or sizes.num_classes or official_classes
    train_size = spec.train_size or sizes.train_size or official_size
    check_target(spec, name, classes)
    return Part(
        resolved=resolved,
        dataset_name=name,
        train_digest=f"not here: {name}",
        test_digest=f"not here: {name}",
        num_classes=classes,
        train_size=min(train_size, official_size),
        numerics=arithmetic(numerics),
        code=code_digest(),
        software=software(),
    )
