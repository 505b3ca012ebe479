"""How a page shows what came of a cell: a word, a mark and a colour. Never the colour alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdbench.report.columns import Row
from kdbench.report.verdict import MEANING, TRANSFER_FLOOR
from kdbench.report.words import SHOWN, shown_verdict
from kdbench.report.words import UNDEFENDED as UNDEFENDED


@dataclass(frozen=True)
class Mark:
    """One outcome of a cell, as it is shown."""

    word: str
    style: str
    """The end of two classes of the style sheet: ``v-`` has the colour, ``m-`` the mark, too."""
    about: str
    """What it means."""


#: The outcomes in the order of a legend. The fuller the mark, the more was removed.
MARKS: Mapping[str, Mark] = {
    "stopped": Mark("stopped", "stopped", MEANING["stopped"]),
    "partly": Mark("partly", "partly", MEANING["partly"]),
    "not stopped": Mark("not stopped", "not", MEANING["not stopped"]),
    "inconclusive": Mark(
        "inconclusive",
        "little",
        f"under {TRANSFER_FLOOR:.0f} points of ASR travelled, too few to judge a defense",
    ),
    "undefended": Mark("undefended", "base", SHOWN["undefended"]),
    "no verdict": Mark(
        "no verdict", "none", "measured, but a control is missing or the trigger is not known"
    ),
    "failed": Mark("failed", "failed", "not measured; the section on failures says why"),
}


def outcome(row: Row) -> str:
    """The outcome of a cell, a key of :data:`MARKS`."""
    return shown_verdict(row) or "no verdict" if row.get("status") == "ok" else "failed"


def outcomes(rows: Iterable[Row]) -> Counter[str]:
    """How many cells have each outcome, in the order of :data:`MARKS`."""
    counts = Counter(map(outcome, rows))
    return Counter({name: counts[name] for name in MARKS if counts[name]})
