"""``kdbench verify``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbench.bench.work.executors.make import ExecutorName, make_executor
from kdbench.cli.choice import plugin_options
from kdbench.cli.execute import check_executor, executor_option, jobs_option
from kdbench.cli.here import check_current_folder
from kdbench.cli.request import store_option
from kdbench.cli.tell import tell
from kdbench.errors import IntegrityError
from kdbench.untrusted.box import temporary_folder

if TYPE_CHECKING:
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.run.verify import OtherKeys, RowDifference, Stated
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.store.artefacts import Store
    from kdbench.loading.choice import PluginChoice
    from kdbench.report.read import Results

#: Lines that a message names.
_LISTED = 8


@click.command("verify")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@plugin_options
@store_option
@click.option(
    "--cells",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="How many random cells to compute again.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=None,
    help="Which ones.  [default: others each time]",
)
@executor_option
@jobs_option
@click.pass_context
def verify_command(
    ctx: click.Context,
    folder: Path,
    choice: PluginChoice,
    store_dir: Path | None,
    cells: int,
    seed: int | None,
    executor: ExecutorName,
    jobs: int,
) -> None:
    """Compare a run's digests with the store, and compute some of its cells again from nothing.

    Exits with 4 when a weight or a number is not what the table says, with 1 when nothing here
    could be compared (another machine, other software, other data): kdbench promises the same bits
    only on the same machine with the same software.
    """
    check_current_folder()
    from kdbench.bench.plan.prepare import prepare
    from kdbench.bench.run import verify
    from kdbench.bench.run.origin import stated_columns
    from kdbench.bench.store.artefacts import Store
    from kdbench.cli.processes import command_processes
    from kdbench.report.read import read_results

    check_executor(executor)
    store, results = Store(store_dir), read_results(folder)
    with command_processes(choice, executor) as processes:
        known = processes.answers()
        prepared = prepare(verify.read_request(folder), known, store)
        stated = {cell.key: stated_columns(cell, prepared, known) for cell in prepared.plan.cells}
        known.close()

        def compute_again(lines: list[int]) -> list[RowDifference]:
            return _compute_again(results, lines, prepared, processes, store, executor, jobs)

        ctx.exit(_verify(folder, results, prepared, stated, store, cells, seed, compute_again))


def _verify(
    folder: Path,
    results: Results,
    prepared: Prepared,
    stated: Stated,
    store: Store,
    cells: int,
    seed: int | None,
    compute_again: Callable[[list[int]], list[RowDifference]],
) -> int:
    """Compare, and print what was compared: the exit code."""
    import secrets

    from kdbench.bench.run import verify
    from kdbench.cli.display import safe

    others = verify.other_keys(results, prepared.plan, stated)
    misnamed = verify.misnamed(results, prepared.plan, stated)
    total = len(results.rows)
    for line in _other_keys(others, total):
        click.echo(safe(line))
    if absent := verify.missing(results, prepared.plan):
        click.echo(f"{absent} of {len(prepared.plan.cells)} cells of the request have no row")
    same, wrong, gone = verify.check_weights(results, prepared.plan, store)
    click.echo(
        f"weights: {same} of {total} rows have theirs in the store, {len(gone)} rows' are not there"
    )
    there, differences = verify.check_numbers(results, prepared.plan, store)
    click.echo(f"numbers: {there} of {total} rows have theirs in the store")
    # The message names the seed, so that the same cells can be computed again.
    seed = secrets.randbelow(2**31) if seed is None else seed
    lines = verify.choose(results, prepared.plan, cells, seed)
    if lines:
        click.echo(f"computing again: line {_few(lines)} of results.csv (--seed {seed})")
        differences += compute_again(lines)
    for d in differences:
        click.echo(
            safe(f"line {d.line}: {d.column} is {d.table} in the table and {d.again} {d.source}")
        )
    if wrong or misnamed or differences:
        raise IntegrityError(
            f"{folder} is not what it says it is: the weights of {len(wrong)} rows (lines "
            f"{_few(wrong) or '-'}), the settings of {len(misnamed)} rows (lines "
            f"{_few(misnamed) or '-'}) and {len(differences)} numbers differ"
        )
    click.echo(
        f"verified: {same} rows by their weights, {len(lines)} computed again to the same bits"
    )
    return 1 if not same and not lines else 0


def _compute_again(
    results: Results,
    lines: list[int],
    prepared: Prepared,
    processes: Processes,
    store: Store,
    executor: ExecutorName,
    jobs: int,
) -> list[RowDifference]:
    """What differs when the cells on some lines are computed again, in a store of their own."""
    from kdbench.bench.run import verify
    from kdbench.bench.session.execution import place
    from kdbench.cli.watch import make_display

    with temporary_folder("kdbench-verify-") as temporary:
        worker = make_executor(executor, lambda: processes.registry, zygote=processes.zygote)
        display = make_display(quiet=False, as_json=False, live=worker.apart)
        try:
            place(worker, jobs, prepared.numerics, tell)
            return verify.again(
                results, lines, prepared, processes.answers(), store, temporary, display, worker
            )
        finally:
            display.close()


def _other_keys(others: OtherKeys, total: int) -> Iterator[str]:
    """The rows that are not compared, and why."""
    for lines, why in (
        (others.machine, "have another key here: another machine, software or plugin made"),
        (
            others.older,
            "are of an older schema, whose keys nobody makes any more: another kdbench made",
        ),
        (others.strangers, "are of cells that run.json does not ask for: somebody added"),
    ):
        if lines:
            yield (
                f"{len(lines)} of {total} rows {why} them (lines {_few(lines)}); they are not "
                "compared"
            )
    for what, (*values, here) in list(others.made_by.items())[:_LISTED]:
        yield f"these rows were made by other software: {what} {', '.join(values)}; here {here}"
    for line, (row, here) in list(others.numbers.items())[:_LISTED]:
        yield f"line {line} was made with other numbers, and is not compared: {row}; here {here}"
    if len(others.numbers) > _LISTED:
        yield f"{len(others.numbers) - _LISTED} more rows were made with other numbers"


def _few(lines: list[int]) -> str:
    return ", ".join(map(str, lines[:_LISTED])) + (", ..." if len(lines) > _LISTED else "")
