"""Attention transfer, as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from kdbench.distiller import Distiller

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_distillers() -> list[type[Distiller]]:
    """The distiller, imported only when someone asks."""
    from kdbench_at.method import AT

    return [AT]
