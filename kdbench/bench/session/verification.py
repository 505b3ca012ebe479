"""Is a run's table what it claims to be? What ``kdbench verify`` and :func:`kdbench.api.verify`
share."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench._counted import counted
from kdbench.bench.run import verify
from kdbench.bench.run.origin import stated_columns

if TYPE_CHECKING:
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.run.events import Reporter
    from kdbench.bench.run.verify import OtherKeys, RowDifference
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.session.tell import Tell
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.work.executors.make import ExecutorName
    from kdbench.report.read import ResultsFile

#: Lines that a message names.
_LISTED = 8


@dataclass
class Verification:
    """What was compared, and what differs. Lines are those of results.csv."""

    #: Rows of the table.
    total: int
    #: Cells of the request that have no row.
    missing: int
    #: Cells of the request.
    cells: int
    #: Rows that cannot be compared here, by the reason.
    others: OtherKeys
    #: Lines of rows whose columns do not state what their key stands for.
    misnamed: list[int]
    #: Rows whose weights are in the store, and are the same.
    same: int
    #: Lines of rows whose weights in the store are others.
    wrong: list[int]
    #: Lines of rows whose weights are not in the store.
    gone: list[int]
    #: Rows whose numbers are in the store.
    kept: int
    #: Numbers that differ, from those in the store and from those computed again.
    differences: list[RowDifference] = field(default_factory=list)
    #: Lines of the rows that are computed again.
    lines: list[int] = field(default_factory=list)
    #: Chooses these lines.
    seed: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing that was compared differs."""
        return not (self.wrong or self.misnamed or self.differences)

    @property
    def compared(self) -> bool:
        """Whether anything could be compared here."""
        return bool(self.same or self.lines)


def few(lines: list[int]) -> str:
    """The first lines, as a list in words."""
    return ", ".join(map(str, lines[:_LISTED])) + (", ..." if len(lines) > _LISTED else "")


def why_not(folder: Path, verified: Verification) -> str:
    """Why a run is not what it says it is."""
    weights, settings = (
        f"{counted(len(lines), 'row')} (lines {few(lines) or '-'})"
        for lines in (verified.wrong, verified.misnamed)
    )
    return (
        f"{folder} is not what it says it is: the weights of {weights}, the settings of {settings} "
        f"and {counted(len(verified.differences), 'number')} differ"
    )


def compare_digests(
    results: ResultsFile,
    prepared: Prepared,
    processes: Processes,
    store: Store,
    cells: int,
    seed: int | None,
) -> Verification:
    """Compare a table with the store, and choose the rows that are to be computed again.

    Args:
        cells: how many rows to choose.
        seed: chooses them. None: others each time.
    """
    known, plan = processes.answers(), prepared.plan
    stated = {cell.key: stated_columns(cell, prepared, known) for cell in plan.cells}
    known.close()
    same, wrong, gone = verify.check_weights(results, plan, store)
    kept, differences = verify.check_numbers(results, plan, store)
    seed = secrets.randbelow(2**31) if seed is None else seed
    return Verification(
        total=len(results.rows),
        missing=verify.missing(results, plan),
        cells=len(plan.cells),
        others=verify.other_keys(results, plan, stated),
        misnamed=verify.misnamed(results, plan, stated),
        same=same,
        wrong=wrong,
        gone=gone,
        kept=kept,
        differences=differences,
        lines=verify.choose(results, plan, cells, seed),
        seed=seed,
    )


def compute_again(
    results: ResultsFile,
    lines: list[int],
    prepared: Prepared,
    processes: Processes,
    store: Store,
    executor: ExecutorName,
    jobs: int,
    reporter: Reporter,
    tell: Tell,
) -> list[RowDifference]:
    """What differs when the cells on some lines are computed again, in a store of their own."""
    from kdbench.bench.session.execution import place
    from kdbench.bench.work.executors.make import make_executor
    from kdbench.untrusted.box import temporary_folder

    with temporary_folder("kdbench-verify-") as temporary:
        worker = make_executor(executor, lambda: processes.registry, zygote=processes.zygote)
        place(worker, jobs, prepared.numerics, tell)
        return verify.again(
            results, lines, prepared, processes.answers(), store, temporary, reporter, worker
        )
