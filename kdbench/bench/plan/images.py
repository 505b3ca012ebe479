"""What the parts of a request are trained on, and who chose the size of the images."""

from __future__ import annotations

from collections.abc import Iterable

from kdbench._counted import counted
from kdbench.bench.plan.plan import LoadedPart
from kdbench.bench.request.spec import Resolved
from kdbench.data import Dataset, load
from kdbench.data.description import Description, Shares, describe
from kdbench.errors import ConfigError
from kdbench.untrusted.files import size_in_words


def descriptions(parts: Iterable[LoadedPart]) -> list[Description]:
    """Each dataset of some parts once, as it is loaded."""
    return list(dict.fromkeys(map(description_of, parts)))


def description_of(part: LoadedPart) -> Description:
    """What a part is trained on."""
    names = [name for name, teacher in part.imported.items() if teacher.is_described]
    # The request has the teacher's size: another one is refused.
    why = f"as teacher {names[0]} needs" if names else image_size_from(part.resolved)
    return describe(part.dataset, why, shares_of(part.resolved, part.dataset))


def shares_of(resolved: Resolved, dataset: Dataset) -> Shares:
    """Who has how many of the training images of a part."""
    spec, preset = resolved.spec, resolved.preset
    fractions = preset.transfer_fraction, preset.clean_fraction, spec.unlabeled
    return Shares.of(dataset.train.labels, spec.data_seed, *fractions)


def check_pool(resolved: Resolved, dataset: Dataset) -> None:
    """Raise ConfigError where no image is left for the defender's pool, or more than fit."""
    spec, share = resolved.spec, resolved.preset.transfer_fraction
    if spec.unlabeled is None:
        return
    images, side = shares_of(resolved, dataset).unlabeled or 0, dataset.image_size
    if not images:
        raise ConfigError(
            f"--unlabeled {spec.unlabeled:g}: no image of {dataset.name} is left without labels, "
            f"since the deployer has a share of {share:g} of those that are not held out; give a "
            "smaller --transfer-fraction"
        )
    # In memory even where the dataset is not: the path of an image on disk may name its class.
    if images * side * side * 3 > load.MEMORY_LIMIT:
        raise ConfigError(
            f"--unlabeled {spec.unlabeled:g}: {counted(images, 'image')} of {side}x{side} take "
            f"more than {size_in_words(load.MEMORY_LIMIT)}, and images without labels are "
            "kept in memory; give a smaller share"
        )


def image_size_from(resolved: Resolved) -> str:
    """Who chose the size of the images. Empty: the dataset has no other."""
    spec, kind = resolved.spec, resolved.dataset.partition(":")[0]
    if spec.image_size is not None:
        return "as requested"
    if resolved.preset.sizes_of(resolved.dataset).image_size is not None:
        return f"the default of {kind} in preset {resolved.preset_name}; --image-size changes it"
    if resolved.source.image_size is not None:
        return f"the default of {kind}; --image-size changes it"
    return ""
