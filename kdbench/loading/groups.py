"""The feature groups of a network, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from kdbench.loading.facts import Facts, Line
from kdbench.models import ModelSource, blank_model
from kdbench.models.external import ExternalModel
from kdbench.models.soundness import check_groups
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from torch import Tensor


class GroupFacts(Facts):
    """One group of a network and its tap."""

    group: Line
    """Channels, height and width."""
    tap: Line
    """Channels, height and width."""
    module: Line
    """The module of a library's network that is the group's end."""
    tap_norm: bool
    """Whether the tap's batch norm is known."""


class NetworkGroups(Facts):
    """A network at an image size, with 10 classes."""

    image_size: int = Field(ge=1, le=100_000)
    parameters: int = Field(ge=0, le=10**15)
    groups: tuple[GroupFacts, ...] = Field(max_length=100)
    notes: tuple[Line, ...] = Field((), max_length=20)
    """What makes no sense in them."""


def groups(name: str, size: int, sources: Mapping[str, ModelSource]) -> NetworkGroups:
    """The groups of a network at an image size.

    Raises:
        KdbenchError: there is no such network, or it cannot take such images.
    """
    model = blank_model(name, 10, image_size=size, sources=sources).eval()
    side = model.blank_size if isinstance(model, ExternalModel) else size
    with torch.no_grad():
        out = model.features(torch.zeros(2, 3, side, side))
    ends = (
        [end.path for end in model.ends]
        if isinstance(model, ExternalModel)
        else [""] * len(out.groups)
    )
    norms = model.tap_norms()
    notes = check_groups(model, side)
    columns = zip(out.groups, out.taps, ends, norms, strict=True)
    return NetworkGroups(
        image_size=side,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        groups=tuple(
            GroupFacts(group=_shape(group), tap=_shape(tap), module=end, tap_norm=norm is not None)
            for group, tap, end, norm in columns
        ),
        notes=tuple(strip_control(note) for note in notes),
    )


def _shape(features: Tensor) -> str:
    return "x".join(map(str, features.shape[1:]))
