"""What ``kdbench list KIND NAME`` shows of one method or one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdbench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from kdbench.loading.choice import PluginChoice
    from kdbench.method import Method
    from kdbench.models import ModelSource

#: The kinds of methods, by the words of the command line.
METHODS = {"attacks": "attack", "defenses": "defense", "distillers": "distiller"}

#: A line of a table: values by the headings of their columns.
Entry = dict[str, Any]


def details(kind: str, name: str, image_size: int, choice: PluginChoice) -> dict[str, list[Entry]]:
    """The lines of each table, by its title.

    Raises:
        UsageError: there is nothing of that name, or nothing more to show of that kind.
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


def _parameters(cls: type[Method], variant: str) -> list[Entry]:
    """Every parameter of a method: its default or the variant's value, the presets that differ, and
    its meaning."""
    entries = []
    of_variant = cls.variants[variant].params if variant else {}
    for name, field in cls.Params.model_fields.items():
        others = [
            f"{preset} {values[name]!r}" for preset, values in cls.presets.items() if name in values
        ]
        entries.append(
            {
                "field": name,
                "value": repr(of_variant.get(name, field.default)),
                "presets": "; ".join(others),
                "what": field.description or "",
            }
        )
    return entries


def _groups(name: str, size: int, sources: Mapping[str, ModelSource]) -> dict[str, list[Entry]]:
    """The groups of a network at an image size, and what its taps are."""
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
    columns = zip(out.groups, out.taps, ends, model.tap_norms(), strict=True)
    entries = [
        {
            "group": f"G{number}",
            "channels x height x width": _shape(group),
            "tap": _shape(tap),
            "module": end,
            "tap's batch norm": "none" if norm is None else "yes",
        }
        for number, (group, tap, end, norm) in enumerate(columns, 1)
    ]
    count = sum(parameter.numel() for parameter in model.parameters())
    return {f"{name} at {side}x{side}, {count:,} parameters with 10 classes": entries}


def _shape(features: Tensor) -> str:
    return "x".join(map(str, features.shape[1:]))
