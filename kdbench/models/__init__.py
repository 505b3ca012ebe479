"""Networks by name."""

from __future__ import annotations

from collections.abc import Mapping

from kdbench._libraries import LIBRARIES
from kdbench.errors import ConfigError, ContractError, UnknownMethodError, spelled_alike, unknown
from kdbench.models.base import FeatureModel
from kdbench.models.builtin import MODELS
from kdbench.models.source import ModelMaker, ModelSource
from kdbench.models.spelling import library_names, plain_name

__all__ = [
    "ModelMaker",
    "ModelSource",
    "blank_model",
    "create_model",
    "is_model",
    "model_names",
    "model_source",
    "plain_name",
    "split_pair",
]


def model_names() -> list[str]:
    """Sorted names of the built-in networks. ``timm/NAME`` and ``torchvision/NAME`` work, too."""
    return sorted(MODELS)


def model_source(name: str, sources: Mapping[str, ModelSource] = MODELS) -> ModelSource:
    """The source of a network.

    Args:
        sources: networks by name. ``Registry.models`` has those of plugins as well.

    Raises:
        UnknownMethodError: there is none.
    """
    library, slash, rest = name.partition("/")
    if slash and library in LIBRARIES and rest:
        return _from_library(library, rest, sources)
    if name not in sources:
        hint = "timm/NAME and torchvision/NAME take any classification model of those libraries"
        raise UnknownMethodError(unknown("model", name, sources, hint, _of_libraries()))
    return sources[name]


def _from_library(library: str, name: str, sources: Mapping[str, ModelSource]) -> ModelSource:
    names = library_names(library)
    if name not in names:
        plain, note = plain_name(f"{library}/{name}")
        known = f"{library} has {len(names)} classification models"
        if note:
            raise UnknownMethodError(f"unknown {library} model {name!r}: {note}; write {plain}")
        # With its library, so that names of the same one are closer.
        full = f"{library}/{name}"
        text = unknown(f"{library} model", full, [], "", [*_of_libraries(library), *sources])
        text = text.split(" known:")[0].replace(repr(full), repr(name), 1)
        raise UnknownMethodError(f"{text} {known}")
    from kdbench.models.external import ExternalModel

    return ModelSource(
        lambda num_classes, image_size: ExternalModel(library, name, num_classes, image_size)
    )


def _of_libraries(first: str = "timm") -> list[str]:
    """The full names of all models of libraries."""
    libraries = sorted(LIBRARIES, key=lambda library: library != first)
    return [f"{library}/{name}" for library in libraries for name in library_names(library)]


def is_model(name: str, sources: Mapping[str, ModelSource] = MODELS) -> bool:
    """Whether there is such a network, in one of its spellings."""
    library, slash, rest = plain_name(name)[0].partition("/")
    return name in sources or bool(
        slash and library in LIBRARIES and rest in library_names(library)
    )


def create_model(
    name: str,
    num_classes: int,
    *,
    image_size: int | None = None,
    sources: Mapping[str, ModelSource] = MODELS,
) -> FeatureModel:
    """Build a network with fresh weights from torch's global random state.

    Args:
        name: see :func:`model_names`.
        num_classes: at least 2.
        image_size: pixels a side. Only some timm models must know it.
        sources: see :func:`model_source`.

    Raises:
        UnknownMethodError: there is no such model.
        ConfigError: fewer than two classes.
        ContractError: a plugin's model is no FeatureModel.
    """
    source = model_source(name, sources)
    if num_classes < 2:
        raise ConfigError(f"num_classes must be at least 2, got {num_classes}")
    model: object = source.make(num_classes, image_size)
    if not isinstance(model, FeatureModel):
        raise ContractError(
            f"model {name!r} is a {type(model).__name__}; derive it from "
            "kdbench.models.base.FeatureModel"
        )
    return model


def blank_model(
    name: str,
    num_classes: int,
    *,
    image_size: int | None = None,
    sources: Mapping[str, ModelSource] = MODELS,
) -> FeatureModel:
    """As :func:`create_model`, but torch's random state stays as it is.

    This is for callers that need the structure of a network and not its weights.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        return create_model(name, num_classes, image_size=image_size, sources=sources)


def split_pair(pair: str, sources: Mapping[str, ModelSource] = MODELS) -> tuple[str, str]:
    """``teacher-student`` -> (teacher, student).

    Names of models may hold dashes, as long as there is one way only to read the pair.

    Raises:
        ConfigError: it is no pair with a dash, or may be several.
        UnknownMethodError: one of the two does not exist.
    """
    cuts = [(pair[:i], pair[i + 1 :]) for i, c in enumerate(pair) if c == "-"]
    pairs = [cut for cut in cuts if all(is_model(name, sources) for name in cut)]
    if len(pairs) == 1:
        return pairs[0]
    advice = "name them with --teacher and --student"
    if pairs:
        ways = " or ".join(f"{teacher} and {student}" for teacher, student in pairs)
        raise ConfigError(f"pair {pair!r} may be {ways}; {advice}")
    near = _near_pair(pair, sources)
    if near is None and len(cuts) == 1 and all(cuts[0]):
        for name in cuts[0]:
            model_source(name, sources)
    meant = f"; did you mean {near!r}?" if near else ";"
    raise ConfigError(f"pair {pair!r} is not TEACHER-STUDENT with one dash{meant} {advice}")


def _near_pair(pair: str, sources: Mapping[str, ModelSource]) -> str | None:
    """The pair whose names are spelled like this with other signs. None: there is none."""
    names = {spelled_alike(name): name for name in (*_of_libraries(), *sources)}
    for i in range(1, len(pair)):
        halves = [names.get(spelled_alike(half)) for half in (pair[:i], pair[i:])]
        if None not in halves:
            return "-".join(map(str, halves))
    return None
