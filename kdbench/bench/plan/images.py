"""What the parts of a request are trained on, and who chose the size of the images."""

from __future__ import annotations

from collections.abc import Iterable

from kdbench.bench.plan.plan import LoadedPart
from kdbench.bench.request.spec import Resolved
from kdbench.data.description import Description, Shares, describe


def descriptions(parts: Iterable[LoadedPart]) -> list[Description]:
    """Each dataset of some parts once, as it is loaded."""
    return list(dict.fromkeys(map(description_of, parts)))


def description_of(part: LoadedPart) -> Description:
    """What a part is trained on."""
    names = [name for name, teacher in part.imported.items() if teacher.is_described]
    # The request has the teacher's size: another one is refused.
    why = f"as teacher {names[0]} needs" if names else image_size_from(part.resolved)
    preset, seed = part.resolved.preset, part.resolved.spec.data_seed
    fractions = preset.transfer_fraction, preset.clean_fraction
    return describe(part.dataset, why, Shares.of(part.dataset.train.labels, seed, *fractions))


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
