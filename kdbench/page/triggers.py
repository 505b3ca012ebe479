"""How much the triggers of a page change images, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.page.numbers import text
from kdbench.page.record import number, table, tables
from kdbench.page.source import Source

#: No picture of 8 bits has a larger PSNR, dB, and no value changes by more than 1.
_MOST_DB = 400.0


def strengths_of(source: Source) -> dict[str, str]:
    """SHA-256 of a picture -> how much its trigger changes the images on it. A picture of which
    the record says nothing, as one of an older run, is left out."""
    words: dict[str, str] = {}
    for run in source.runs:
        for stage in tables(run.record.get("stages")):
            digests = table(stage.get("files")).values()
            if said := _words(table(stage.get("facts"))):
                words |= {digest: said for digest in digests if isinstance(digest, str)}
    return words


def _words(facts: Mapping[str, Any]) -> str:
    """Both numbers of :func:`kdbench.report.pictures.strength`. Empty: they are not there."""
    largest, psnr = number(facts.get("linf")), number(facts.get("psnr_db"))
    if largest is None or not 0 <= largest <= 1:
        return ""
    if largest == 0:
        return "The images do not change."
    if psnr is None or not 0 <= psnr <= _MOST_DB:
        return ""
    return (
        f"PSNR {text(psnr)} dB. The largest change of a value (L-inf) is {text(255 * largest)} of "
        "255."
    )
