"""The columns that say what a defense found before it removed anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Text of ``flagged_classes`` where a defense looked and flagged no class.
NONE = "none"


def flagged_text(facts: Iterable[Mapping[str, Any]]) -> str | None:
    """The column ``flagged_classes`` of the facts of a row's stages. None: nobody reported."""
    reported = [each["flagged"] for each in facts if each.get("flagged") is not None]
    if not reported:
        return None
    return " ".join(map(str, sorted({c for flagged in reported for c in flagged}))) or NONE


def target_flagged(flagged: str | None, target: int | None) -> str | None:
    """The column of that name. None: nobody reported, or nobody knows the target."""
    if flagged is None or target is None:
        return None
    return "yes" if flagged != NONE and str(target) in flagged.split() else "no"
