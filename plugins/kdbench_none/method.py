"""No defense: every step of the base class returns what it was given.

It exists so that the undefended student (control C3) runs through exactly the same code as the
defended ones.
"""

from __future__ import annotations

from kdbench.defense import Defense
from kdbench.method import Info


class NoDefense(Defense):
    """Changes nothing."""

    info = Info(
        name="none",
        title="No defense (control)",
        authors="kdbench",
        venue="-",
        year=2024,
        link="https://arxiv.org/abs/2406.03409",
    )
    zero = {}
    presets = {"quick": {}, "standard": {}, "paper": {}}
