"""Is a run's table what it claims to be? Compares digests, and computes some of its rows again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from kdbench import __version__
from kdbench._files import read_record
from kdbench.bench.keys import MODEL
from kdbench.bench.kinds import Kind
from kdbench.bench.plan.plan import Plan
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.events import Reporter
from kdbench.bench.run.runner import run
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.job import Executor
from kdbench.errors import ConfigError
from kdbench.loading.answers import Answers
from kdbench.report import software
from kdbench.report.columns import COLUMNS, SCHEMA, Row
from kdbench.report.read import UNSTEADY, ResultsFile, cell_key
from kdbench.report.settings import difference_in_words
from kdbench.report.tables import text_of, written

#: Columns that are the same whenever a row is computed.
STEADY = tuple(name for name in COLUMNS if name not in UNSTEADY)
#: Columns that follow from the measurements. Those of the weights are compared with the files.
_RESULTS = tuple(
    name
    for name, column in COLUMNS.items()
    if column.role in ("result", "images") and not name.endswith("_sha256")
)


@dataclass(frozen=True)
class RowDifference:
    """A column that differs between a row of the table and the same row computed again."""

    #: Line of the file.
    line: int
    #: Name of the column.
    column: str
    #: What the table says.
    table: Any
    #: What came out when it was computed again, or what the store has.
    again: Any
    #: Where ``again`` is from, in words.
    source: str = "when computed again"


def read_request(folder: Path) -> RunSpec:
    """The request of the run that made a folder.

    Raises:
        ConfigError: the folder has no usable run.json.
    """
    try:
        record = read_record(folder / "run.json")
        # The folder may be a stranger's, who could name any folder to download into.
        request = record["config"]["request"] | {"download": False}
        return RunSpec(**request)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(
            f"{folder} has no run.json that can be read: kdbench {__version__} does not take its "
            f"{field}, and it is from {_version(record)}; verify it with that version"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder} has no run.json that can be read ({type(error).__name__}); name the folder "
            "of a run"
        ) from error


def _version(record: Any) -> str:
    versions = record.get("versions")
    version = versions.get("kdbench") if isinstance(versions, dict) else None
    return f"kdbench {version}" if isinstance(version, str) else "a kdbench that it does not name"


@dataclass(frozen=True)
class OtherKeys:
    """Rows that have another key on this machine. There is nothing here to compare them with."""

    machine: list[int]
    """Lines of rows made with the same numbers by another machine, software or plugin."""

    older: list[int]
    """Lines of rows of a schema that did not record its numbers."""

    numbers: dict[int, tuple[str, str]]
    """Rows made with other numbers: line -> (numbers of the row, numbers used here)."""

    strangers: list[int] = field(default_factory=list)
    """Lines of rows of cells that the request does not ask for."""

    made_by: dict[str, list[str]] = field(default_factory=dict)
    """By what the rows of ``machine`` were made, where that differs from here: the values that were
    recorded, and last the one here."""


#: By key of a cell: the columns that say by what its row is made here.
Stated = Mapping[str, Row]


def other_keys(
    results: ResultsFile, plan: Plan, stated: Stated = MappingProxyType({})
) -> OtherKeys:
    """The rows that cannot be compared here, by the reason."""
    keys = {cell.key for cell in plan.cells}
    named = {cell_key(_as_read(cell.names)): cell for cell in plan.cells}
    others = OtherKeys([], [], {})
    for line, row in zip(results.lines, results.rows, strict=True):
        if row["config_digest"] in keys:
            continue
        here = named.get(cell_key(row))
        if row["setting_digest"] is None:
            others.older.append(line)
        elif here is None:
            others.strangers.append(line)
        elif here.names["setting_digest"] == row["setting_digest"]:
            others.machine.append(line)
            _add_differences(others.made_by, row, stated.get(here.key, {}))
        else:
            names = {"kdbench_version": __version__, **here.names}
            others.numbers[line] = difference_in_words(row, names)
    return others


def _add_differences(made_by: dict[str, list[str]], row: Row, here: Row) -> None:
    """Add by what a row was made, where that differs from here."""
    there = dict(software.made_by(row))
    for what, which in software.made_by({"schema": SCHEMA, **here}):
        value = there.get(what, which)
        if value != which:
            *values, _ = made_by.get(what, [which])
            made_by[what] = [*dict.fromkeys([*values, value]), which]


def missing(results: ResultsFile, plan: Plan) -> int:
    """How many cells of the request have no row."""
    rows = {cell_key(row) for row in results.rows}
    return sum(cell_key(_as_read(cell.names)) not in rows for cell in plan.cells)


def _as_read(names: Row) -> Row:
    """The names of a cell as a table has them."""
    return {
        name: text_of(str(written(name, value))) if isinstance(value, str) else value
        for name, value in names.items()
    }


def misnamed(results: ResultsFile, plan: Plan, stated: Stated = MappingProxyType({})) -> list[int]:
    """Lines of the rows whose columns do not state what their key stands for: names, numbers, and
    by what they were made."""
    known = {cell.key: {**cell.names, **stated.get(cell.key, {})} for cell in plan.cells}
    return [
        line
        for line, row in zip(results.lines, results.rows, strict=True)
        if (columns := known.get(row["config_digest"])) is not None
        and any(written(name, row[name]) != written(name, value) for name, value in columns.items())
    ]


def check_numbers(
    results: ResultsFile, plan: Plan, store: Store
) -> tuple[int, list[RowDifference]]:
    """Compare the numbers of the rows with those of the same rows in the store.

    Returns (number of rows that are there, the differences).
    """
    keys = {cell.key for cell in plan.cells}
    there, differences = 0, []
    for line, row in zip(results.lines, results.rows, strict=True):
        manifest = store.find(row["config_digest"]) if row["config_digest"] in keys else None
        if manifest is None or not isinstance(kept := manifest.facts.get("row"), dict):
            continue
        there += 1
        for name in _RESULTS:
            table, stored = written(name, row[name]), written(name, kept.get(name))
            if table != stored:
                differences.append(RowDifference(line, name, table, stored, "in the store"))
    return there, differences


def check_weights(
    results: ResultsFile, plan: Plan, store: Store
) -> tuple[int, list[int], list[int]]:
    """Compare the weights in the store with the digests of the rows.

    Returns (number of rows whose weights are the same, lines of rows whose weights differ, lines of
    rows whose weights are not there). Damaged artefacts are put aside and count as not there.
    """
    cells = {cell.key: cell for cell in plan.cells}
    same, wrong, gone = 0, [], []
    for line, row in zip(results.lines, results.rows, strict=True):
        known = cells.get(row["config_digest"])
        if known is None or row["status"] != "ok":
            continue
        teacher = store.verified(known.trained["teacher"])
        student = store.verified(known.trained["student"])
        if teacher is None or student is None:
            gone.append(line)
        elif (
            teacher.files[MODEL]["sha256"] == row["teacher_sha256"]
            and student.files[MODEL]["sha256"] == row["student_sha256"]
        ):
            same += 1
        else:
            wrong.append(line)
    return same, wrong, gone


def choose(results: ResultsFile, plan: Plan, count: int, seed: int) -> list[int]:
    """Lines of up to ``count`` rows of status ok that can be computed again here, at random."""
    keys = {cell.key for cell in plan.cells}
    rows = zip(results.lines, results.rows, strict=True)
    possible = [
        line for line, row in rows if row["status"] == "ok" and row["config_digest"] in keys
    ]
    return sorted(random.Random(seed).sample(possible, min(count, len(possible))))


def again(
    results: ResultsFile,
    lines: list[int],
    prepared: Prepared,
    registry: Answers,
    store: Store,
    folder: Path,
    reporter: Reporter,
    executor: Executor,
) -> list[RowDifference]:
    """Compute rows again in an empty store under ``folder``, and return the differences.

    Timings and memory do not count. Only imported teachers, which cannot be computed, are taken
    from ``store``.
    """
    rows = dict(zip(results.lines, results.rows, strict=True))
    wanted = {rows[line]["config_digest"]: line for line in lines}
    cells = [cell for cell in prepared.plan.cells if cell.key in wanted]
    empty = Store(folder / "store")
    for stage in prepared.plan.stages.values():
        if stage.kind is Kind.IMPORTED:
            empty.take_over(stage.key, store)
    narrowed = replace(prepared, plan=Plan(prepared.plan.stages, cells))
    rows_again = run(narrowed, registry, folder / "out", reporter, empty, executor)
    differences = []
    for known, row in zip(cells, rows_again, strict=True):
        line = wanted[known.key]
        for name in STEADY:
            table, computed = written(name, rows[line][name]), written(name, row[name])
            if table != computed:
                differences.append(RowDifference(line, name, table, computed))
    return differences
