"""By what a row is made: the columns that are known before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from kdbench.bench.plan.machine import ROW_CODE, STAGE_CODE, code_digest, software
from kdbench.bench.plan.plan import Cell
from kdbench.bench.plan.prepare import Prepared
from kdbench.loading.answers import Answers, Registered, base_name
from kdbench.report.columns import SCHEMA
from kdbench.report.software import software_text

#: Digits of a digest that tell two apart.
_SHORT = 12
#: They have columns of their own.
_APART = ("kdbench", "torch")


def stated_columns(cell: Cell, prepared: Prepared, registry: Answers) -> dict[str, Any]:
    """The columns of a cell that say by what its row is made here."""
    versions = software()
    plugins = dict(_plugins(cell, prepared, registry))
    return {
        "schema": SCHEMA,
        "numerics": str(prepared.numerics),
        "kdbench_version": versions["kdbench"],
        "torch_version": versions["torch"],
        "plugins": "; ".join(
            sorted({entry.plugin.owner for entry in plugins.values()})
            + [
                words
                for what, entry in plugins.items()
                for words in entry.known_failures(what.partition(".")[2])
            ]
        ),
        "software": software_text(
            {**_libraries(), **{name: _code(entry) for name, entry in plugins.items()}}
        ),
        "dataset_digest": prepared.parts[cell.part].dataset.digest,
        "config_digest": cell.key,
    }


def _plugins(
    cell: Cell, prepared: Prepared, registry: Answers
) -> Iterator[tuple[str, Registered[Any]]]:
    """``KIND.NAME`` of all that plugins bring to a cell, and what brings it."""
    used = [(kind, base_name(cell.names[kind])) for kind in ("defense", "distiller", "attack")]
    used += [("model", cell.names[role]) for role in ("teacher", "student")]
    used.append(("dataset", prepared.parts[cell.part].resolved.dataset))
    for kind, name in used:
        for entry in registry.entries([(kind, base_name(name))]):
            yield f"{kind}.{base_name(name)}", entry


def _code(entry: Registered[Any]) -> str:
    return entry.plugin.source[:_SHORT] or entry.plugin.owner


@cache
def _libraries() -> dict[str, str]:
    versions = {name: value for name, value in software().items() if name not in _APART}
    code = tuple(sorted({*STAGE_CODE, *ROW_CODE}))
    return versions | {"kdbench": code_digest(code)[:_SHORT]}
