"""The ARGD defense, as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from kdbench.defense import Defense

kdbench_api = ">=1.4,<2"


@hookimpl
def kdbench_defenses() -> list[type[Defense]]:
    """The defense, imported only when someone asks."""
    from kdbench_argd.method import ARGD

    return [ARGD]
