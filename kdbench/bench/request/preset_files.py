"""The files of the presets. Listing them takes no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any

_SUFFIX = ".toml"
#: The section of a preset's file that holds words, and no number.
_REMARKS = "remarks"


@dataclass(frozen=True)
class PresetRemarks:
    """Section ``[remarks]`` of a preset: what its trainings are worth.

    Remarks are no numbers, so they are part of no key and no digest.
    """

    about: str
    """How far the preset's verdicts may be believed, in one sentence."""
    methods: Mapping[str, str]
    """``KIND.NAME`` of a method -> what the preset is known to get wrong about it, in one
    sentence. It holds for the variants of the method, too."""


def _folder() -> Traversable:
    return resources.files("kdbench.bench.request") / "presets"


def preset_names() -> list[str]:
    """Sorted names of the presets that the package holds."""
    names = (entry.name for entry in _folder().iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def preset_text(name: str) -> str:
    """The file of a preset that exists."""
    return (_folder() / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def preset_numbers(name: str) -> dict[str, Any]:
    """The table of a preset that exists, without its remarks."""
    table = tomllib.loads(preset_text(name))
    return {section: values for section, values in table.items() if section != _REMARKS}


@cache
def preset_remarks(name: str) -> PresetRemarks:
    """The remarks of a preset that exists."""
    remarks = dict(tomllib.loads(preset_text(name))[_REMARKS])
    return PresetRemarks(remarks.pop("about"), MappingProxyType(remarks))
