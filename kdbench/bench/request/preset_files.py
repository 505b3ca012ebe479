"""The files of the presets. Listing them takes no torch."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

_SUFFIX = ".toml"


def _folder() -> Traversable:
    return resources.files("kdbench.bench.request") / "presets"


def preset_names() -> list[str]:
    """Sorted names of the presets that the package holds."""
    names = (entry.name for entry in _folder().iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def preset_text(name: str) -> str:
    """The file of a preset that exists."""
    return (_folder() / f"{name}{_SUFFIX}").read_text(encoding="utf-8")
