"""What ``kdbench list KIND NAME`` tells of one method or one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdbench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kdbench.loading.choice import PluginChoice
    from kdbench.models import ModelSource

#: What is listed -> the kind of method that it is.
METHODS = {"attacks": "attack", "defenses": "defense", "distillers": "distiller"}


def details(
    kind: str, name: str, image_size: int, choice: PluginChoice
) -> dict[str, list[dict[str, Any]]]:
    """Title of a table -> its rows.

    Raises:
        UsageError: there is nothing of that name, or nothing more to tell of that kind.
    """
    from kdbench.loading.registry import Registry, base_name

    registry = Registry.load(choice=choice)
    if kind in METHODS:
        cls, variant = registry.find(f"{METHODS[kind]}.{name}")
        return {
            f"{name}, --set {METHODS[kind]}.{base_name(name)}.FIELD=VALUE": _parameters(
                cls, variant
            )
        }
    if kind == "models":
        return _groups(name, image_size, registry.models)
    raise UsageError(
        f"nothing more is known of {kind} than `kdbench list {kind}` tells; NAME goes with methods "
        "and models"
    )


def _parameters(cls: Any, variant: str) -> list[dict[str, Any]]:
    """Every parameter: its default, where the presets or the variant differ, and what it is."""
    found = []
    own = cls.variants[variant].params if variant else {}
    for name, field in cls.Params.model_fields.items():
        others = [
            f"{preset} {values[name]!r}" for preset, values in cls.presets.items() if name in values
        ]
        value = own.get(name, field.default)
        found.append(
            {
                "field": name,
                "value": repr(value),
                "presets": "; ".join(others),
                "what": field.description or "",
            }
        )
    return found


def _groups(
    name: str, size: int, sources: Mapping[str, ModelSource]
) -> dict[str, list[dict[str, Any]]]:
    """The three groups of a network at an image size, and what its taps are."""
    import torch

    from kdbench.models import blank_model
    from kdbench.models.external import ExternalModel

    model = blank_model(name, 10, image_size=size, sources=sources).eval()
    side = model.blank_size if isinstance(model, ExternalModel) else size
    with torch.no_grad():
        out = model.features(torch.zeros(1, 3, side, side))
    ends = (
        [end.path for end in model.ends]
        if isinstance(model, ExternalModel)
        else [""] * len(out.groups)
    )
    rows = []
    for i, (group, tap, norm) in enumerate(
        zip(out.groups, out.taps, model.tap_norms(), strict=True)
    ):
        shape, tapped = ("x".join(map(str, tensor.shape[1:])) for tensor in (group, tap))
        rows.append(
            {
                "group": f"G{i + 1}",
                "channels x height x width": shape,
                "tap": tapped,
                "module": ends[i],
            }
        )
        rows[-1]["tap's batch norm"] = "none" if norm is None else "yes"
    count = sum(parameter.numel() for parameter in model.parameters())
    return {f"{name} at {side}x{side}, {count:,} parameters with 10 classes": rows}
