"""The facts beside the finding: what was run, in one look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdbench._counted import plural
from kdbench.page.marks import UNDEFENDED
from kdbench.page.record import day_of, described
from kdbench.page.source import Source

#: Values that a fact names.
_NAMED = 4


def facts_of(source: Source) -> list[tuple[str, str]]:
    """(what, its values) of the runs of a page."""
    return [(name, value) for name, value in _facts(source) if value]


def _facts(source: Source) -> Iterator[tuple[str, str]]:
    rows = source.rows
    pairs = dict.fromkeys(f"{row['teacher']} to {row['student']}" for row in rows)
    yield _plural("dataset", len(_values(source, "dataset"))), few(_values(source, "dataset"))
    notes = dict.fromkeys(about for run in source.runs for _, about in described(run.record))
    yield "images", few(list(notes))
    yield _plural("pair", len(pairs)), few(list(pairs))
    attacks = _values(source, "attack")
    yield _plural("attack", len(attacks)), few(attacks)
    defenses = [name for name in _values(source, "defense") if name != UNDEFENDED]
    yield _plural("defense", len(defenses)), few(defenses) or "none"
    for name in ("distiller", "preset"):
        yield _plural(name, len(_values(source, name))), few(_values(source, name))
    yield "seeds", str(len(_values(source, "seed")))
    yield _plural("device", len(_values(source, "device"))), few(_values(source, "device"))
    yield "started", few(list(dict.fromkeys(filter(None, map(day_of, source.runs)))))
    yield "kdbench", few(_values(source, "kdbench_version"))


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else plural(noun)


def _values(source: Source, name: str) -> list[str]:
    return list(dict.fromkeys(str(row[name]) for row in source.rows if row.get(name) is not None))


def few(values: Sequence[str], named: int = _NAMED) -> str:
    """The first values, and how many more there are."""
    left = len(values) - named
    return ", ".join([*values[:named], *([f"{left} more"] if left > 0 else [])])
