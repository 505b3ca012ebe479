"""The whole plugin contract on one page.

A plugin is an installed package with an entry point in the group ``kdbench``. Its module implements any of these hooks
with ``@kdbench.hookspecs.hookimpl`` and returns classes; kdbench instantiates them. It may say which versions of this contract
it works with: ``kdbench_api = ">=1,<2"``. With another one it is not loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from kdbench.attack import Attack
    from kdbench.defense import Defense
    from kdbench.distiller import Distiller

#: Of this page and of what the classes it names promise. The first number changes when a plugin may have to (CONTRIBUTING.md).
API_VERSION = "1.0"

hookspec = pluggy.HookspecMarker("kdbench")
hookimpl = pluggy.HookimplMarker("kdbench")


@hookspec
def kdbench_attacks() -> list[type[Attack]]:
    """Return attack classes."""


@hookspec
def kdbench_distillers() -> list[type[Distiller]]:
    """Return distiller classes."""


@hookspec
def kdbench_defenses() -> list[type[Defense]]:
    """Return defense classes."""
