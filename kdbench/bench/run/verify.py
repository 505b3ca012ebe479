"""Is a run's table what it claims to be? Compares digests, and computes some of its rows again."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
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
from kdbench.report.columns import COLUMNS
from kdbench.report.read import UNSTEADY, Results, cell_key
from kdbench.report.settings import DIGESTS, difference_in_words
from kdbench.report.tables import cell

#: Columns that are the same whenever a row is computed.
STEADY = tuple(name for name in COLUMNS if name not in UNSTEADY)


@dataclass(frozen=True)
class RowDifference:
    """A column that differs between a row of the table and the same row computed again."""

    #: Line of the file.
    line: int
    #: Name of the column.
    column: str
    #: What the table says.
    table: Any
    #: What came out when it was computed again.
    again: Any


def read_request(folder: Path) -> RunSpec:
    """The request of the run that made a folder.

    Raises:
        ConfigError: the folder has no usable run.json.
    """
    try:
        record = read_record(folder / "run.json")
        # The folder may be a stranger's, who could name any folder to download into.
        return RunSpec(**record["config"]["request"] | {"download": False})
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(
            f"{folder} has no run.json that can be read ({type(error).__name__}); name the folder "
            "of a run"
        ) from error


@dataclass(frozen=True)
class OtherKeys:
    """Rows that have another key on this machine. There is nothing here to compare them with."""

    machine: list[int]
    """Lines of rows made with the same numbers by another machine, software or plugin."""

    older: list[int]
    """Lines of rows of a schema that did not record its numbers."""

    numbers: dict[int, tuple[str, str]]
    """Rows made with other numbers: line -> (numbers of the row, numbers used here)."""


def other_keys(results: Results, plan: Plan) -> OtherKeys:
    """The rows that cannot be compared here, by the reason."""
    keys = {cell.key for cell in plan.cells}
    named = {cell_key(cell.names): cell.names for cell in plan.cells}
    others = OtherKeys([], [], {})
    for line, row in zip(results.lines, results.rows, strict=True):
        if row["config_digest"] in keys:
            continue
        here = named.get(cell_key(row))
        if row["setting_digest"] is None:
            others.older.append(line)
        elif here is None or here["setting_digest"] == row["setting_digest"]:
            others.machine.append(line)
        else:
            here = {"kdbench_version": __version__, **here}
            others.numbers[line] = difference_in_words(row, here)
    return others


def misnamed(results: Results, plan: Plan) -> list[int]:
    """Lines of the rows whose columns do not state the numbers that their key stands for."""
    known = {cell.key: cell.names for cell in plan.cells}
    claims = ("setting_digest", *DIGESTS, "changed")
    return [
        line
        for line, row in zip(results.lines, results.rows, strict=True)
        if (names := known.get(row["config_digest"])) is not None
        and any(row[name] != names[name] for name in claims)
    ]


def check_weights(results: Results, plan: Plan, store: Store) -> tuple[int, list[int], list[int]]:
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


def choose(results: Results, plan: Plan, count: int, seed: int) -> list[int]:
    """Lines of up to ``count`` rows of status ok that can be computed again here, at random."""
    keys = {cell.key for cell in plan.cells}
    rows = zip(results.lines, results.rows, strict=True)
    possible = [
        line for line, row in rows if row["status"] == "ok" and row["config_digest"] in keys
    ]
    return sorted(random.Random(seed).sample(possible, min(count, len(possible))))


def again(
    results: Results,
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
            table, computed = cell(rows[line][name]), cell(row[name])
            if table != computed:
                differences.append(RowDifference(line, name, table, computed))
    return differences
