"""Networks by name."""

from __future__ import annotations

from collections.abc import Mapping

from kdbench._libraries import LIBRARIES
from kdbench.errors import ConfigError, ContractError, UnknownMethodError, unknown
from kdbench.models.base import FeatureModel
from kdbench.models.builtin import MODELS
from kdbench.models.source import ModelMaker, ModelSource

__all__ = [
    "ModelMaker",
    "ModelSource",
    "blank_model",
    "create_model",
    "model_names",
    "model_source",
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
        return _from_library(library, rest)
    if name not in sources:
        hint = "timm/NAME and torchvision/NAME take any classification model of those libraries"
        raise UnknownMethodError(unknown("model", name, sources, hint))
    return sources[name]


def _from_library(library: str, name: str) -> ModelSource:
    from kdbench.models.external import ExternalModel, check

    check(library, name)
    return ModelSource(
        lambda num_classes, image_size: ExternalModel(library, name, num_classes, image_size)
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

    Raises:
        ConfigError: there is not exactly one dash.
        UnknownMethodError: one of the two does not exist.
    """
    names = pair.split("-")
    if len(names) != 2 or not all(names):
        raise ConfigError(
            f"pair {pair!r} is not TEACHER-STUDENT with one dash; name them with --teacher and "
            "--student"
        )
    for name in names:
        model_source(name, sources)
    return names[0], names[1]
