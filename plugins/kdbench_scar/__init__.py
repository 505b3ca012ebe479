"""The scar attack, as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from kdbench.attack import Attack

kdbench_api = ">=1.4,<2"


@hookimpl
def kdbench_attacks() -> list[type[Attack]]:
    """The attack, imported only when someone asks."""
    from kdbench_scar.method import SCAR

    return [SCAR]
