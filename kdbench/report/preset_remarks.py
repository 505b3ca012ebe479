"""The column ``preset_remark``: what a preset is known to get wrong about a method of the row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from kdbench.report.columns import Row

_KINDS = ("attack", "defense", "distiller")
#: Between two remarks of one row. No remark holds it.
_SEPARATOR = "; "
#: Remarks that a list of lines names. A table of a stranger may hold a remark for each row.
_NAMED = 8


def preset_remark(names: Mapping[str, object], remarks: Mapping[str, str]) -> str | None:
    """The column of a row: ``robustkd: a sentence``. None: nothing is known.

    A remark on a variant wins over that on its method.

    Args:
        names: the row's names.
        remarks: of its preset, by ``KIND.NAME``.
    """
    return _SEPARATOR.join(_entries(names, remarks)) or None


def _entries(names: Mapping[str, object], remarks: Mapping[str, str]) -> Iterator[str]:
    for kind in _KINDS:
        name = str(names.get(kind))
        for remarked in dict.fromkeys((name, name.partition(".")[0])):
            if sentence := remarks.get(f"{kind}.{remarked}"):
                yield f"{remarked}: {sentence}"
                break


def remark_lines(rows: Iterable[Row]) -> list[str]:
    """The remarks on measured rows, each once: ``preset quick, robustkd: a sentence``."""
    lines = dict.fromkeys(
        f"preset {row.get('preset')}, {entry}"
        for row in rows
        if row.get("status") == "ok"
        for entry in filter(None, str(row.get("preset_remark") or "").split(_SEPARATOR))
    )
    left = len(lines) - _NAMED
    more = [f"{left} more remarks: see the column preset_remark"] if left > 0 else []
    return [*list(lines)[:_NAMED], *more]
