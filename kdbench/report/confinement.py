"""The column ``confinement``: what kept the defender's jobs of a row from the attacker's side."""

from __future__ import annotations

from collections.abc import Iterable

from kdbench.report.columns import Row

#: Between the texts of stages that had different walls.
_SEPARATOR = " / "
#: The text of a stage whose wall nobody knows, beside those of other stages.
_UNKNOWN = "not recorded"
#: How the text of a job without any wall begins, and what stands before the things that a trial
#: reached.
_NONE, _REACHED = "none", "(reached:"


def confinement_text(stages: Iterable[object]) -> str | None:
    """The column of a row.

    Args:
        stages: what each stage of the defender's side says. None: it says nothing.
    """
    texts = {text if isinstance(text, str) and text else _UNKNOWN for text in stages}
    return _SEPARATOR.join(sorted(texts)) if texts - {_UNKNOWN} else None


def confinement_of(rows: Iterable[Row]) -> str | None:
    """The column of a table that has one line for several rows."""
    return confinement_text(
        part for row in rows for part in (row.get("confinement") or "").split(_SEPARATOR)
    )


def wall_warning(text: str | None) -> str:
    """What the wall of this machine does not keep out, for who starts a run. Empty: nothing.

    Args:
        text: as in the column. None: there are no processes that a wall could be around.
    """
    if text is None:
        return ""
    if _REACHED in text:
        things = text.partition(_REACHED)[2].rpartition(")")[0].strip()
        start = "has no wall" if text.startswith(_NONE) else "has a wall with gaps"
        return f"This machine {start}: a plugin can reach {things}; see docs/threat-model.md."
    if text.startswith(_NONE):
        return (
            "This machine has no wall: a plugin has all your rights, and a defense can reach the "
            "trigger; see docs/threat-model.md."
        )
    return ""


def without_wall(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The measured rows whose defender was not kept apart, by what is to be said of them."""
    reasons: dict[str, list[Row]] = {}
    for row in rows:
        words = _reservation(row.get("confinement")) if row.get("status") == "ok" else ""
        if words:
            reasons.setdefault(words, []).append(row)
    return reasons


def _reservation(text: str | None) -> str:
    """What a reader must know of a row. Empty: a wall stood, and nothing got through."""
    parts = text.split(_SEPARATOR) if text else [_UNKNOWN]
    if any(part.startswith(_NONE) for part in parts):
        return "were made without a wall between the defender and the trigger"
    if _UNKNOWN in parts:
        return "do not say whether a wall kept the defender from the trigger"
    if any(_REACHED in part for part in parts):
        return "were made behind a wall that let a trial through"
    return ""
