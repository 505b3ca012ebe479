"""Networks by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from kdbench.errors import ConfigError, ContractError, UnknownMethodError, unknown
from kdbench.models.base import FeatureModel

__all__ = ["NO_MODELS", "ModelMaker", "blank_model", "create_model", "model_names", "split_pair"]

#: (number of classes, side of the images in pixels or None) -> a network with fresh weights.
ModelMaker = Callable[[int, int | None], FeatureModel]
NO_MODELS: Mapping[str, ModelMaker] = MappingProxyType({})

# name: (module, class, arguments before num_classes)
_MODELS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "wrn28_4": ("wrn", "WideResNet", (28, 4)),
    "wrn16_4": ("wrn", "WideResNet", (16, 4)),
    "wrn28_2": ("wrn", "WideResNet", (28, 2)),
    "wrn16_2": ("wrn", "WideResNet", (16, 2)),
    "wrn16_1": ("wrn", "WideResNet", (16, 1)),
    "wrn10_1": ("wrn", "WideResNet", (10, 1)),
    "resnet56": ("resnet", "ResNet", (56,)),
    "resnet20": ("resnet", "ResNet", (20,)),
    "pyramid110": ("pyramid", "PyramidNet110", ()),
    "pyramid200": ("pyramid", "PyramidNet200", ()),
}
_LIBRARIES = ("timm", "torchvision")


def model_names() -> list[str]:
    """Sorted names of the built-in networks; ``timm/NAME`` and ``torchvision/NAME`` work as
    well."""
    return sorted(_MODELS)


def check_model_name(name: str, own: Mapping[str, ModelMaker] = NO_MODELS) -> None:
    """Raise UnknownMethodError unless ``name`` can be created. ``own``: the models of plugins."""
    library, slash, rest = name.partition("/")
    if slash and library in _LIBRARIES and rest:
        importlib.import_module("kdbench.models.external").check(library, rest)
    elif name not in _MODELS and name not in own:
        hint = "timm/NAME and torchvision/NAME take any classification model of those libraries"
        raise UnknownMethodError(unknown("model", name, [*_MODELS, *own], hint))


def create_model(
    name: str,
    num_classes: int,
    *,
    image_size: int | None = None,
    own: Mapping[str, ModelMaker] = NO_MODELS,
) -> FeatureModel:
    """Build a network with fresh weights from torch's global random state.

    Args:
        name: see :func:`model_names`. num_classes: at least 2. image_size: only some timm models
            must know it.
        own: the models of plugins (``Registry.models``).

    Raises:
        UnknownMethodError: no such model. ConfigError: fewer than two classes. ContractError: a
            plugin's is no FeatureModel.
    """
    check_model_name(name, own)
    if num_classes < 2:
        raise ConfigError(f"num_classes must be at least 2, got {num_classes}")
    if "/" in name:
        library, _, rest = name.partition("/")
        return importlib.import_module("kdbench.models.external").ExternalModel(
            library, rest, num_classes, image_size
        )
    if name in own:
        model = own[name](num_classes, image_size)
        if not isinstance(model, FeatureModel):
            raise ContractError(
                f"model {name!r} is a {type(model).__name__}; derive it from "
                "kdbench.models.base.FeatureModel"
            )
        return model
    module, cls, arguments = _MODELS[name]
    return getattr(importlib.import_module(f"kdbench.models.{module}"), cls)(
        name, *arguments, num_classes
    )


def blank_model(
    name: str,
    num_classes: int,
    *,
    image_size: int | None = None,
    own: Mapping[str, ModelMaker] = NO_MODELS,
) -> FeatureModel:
    """As :func:`create_model`, for whoever wants its structure and not its weights: the random
    state stays as it is."""
    import torch

    with torch.random.fork_rng(devices=[]):
        return create_model(name, num_classes, image_size=image_size, own=own)


def split_pair(pair: str, own: Mapping[str, ModelMaker] = NO_MODELS) -> tuple[str, str]:
    """``teacher-student`` -> (teacher, student).

    Raises:
        ConfigError: not exactly one dash. UnknownMethodError: one of the two does not exist.
    """
    names = pair.split("-")
    if len(names) != 2 or not all(names):
        raise ConfigError(
            f"pair {pair!r} is not TEACHER-STUDENT with one dash; name them with --teacher and "
            "--student"
        )
    for name in names:
        check_model_name(name, own)
    return names[0], names[1]
