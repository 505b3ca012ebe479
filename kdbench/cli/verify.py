"""``kdbench verify``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbench._counted import counted
from kdbench.bench.work.executors.make import ExecutorName
from kdbench.cli.choice import plugin_options
from kdbench.cli.execute import check_executor, executor_option, jobs_option
from kdbench.cli.here import check_current_folder
from kdbench.cli.request import store_option
from kdbench.cli.tell import tell
from kdbench.errors import IntegrityError

if TYPE_CHECKING:
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.run.verify import OtherKeys, RowDifference
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.session.verification import Verification
    from kdbench.bench.store.artefacts import Store
    from kdbench.loading.choice import PluginChoice
    from kdbench.report.read import ResultsFile

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
    jobs: int | None,
) -> None:
    """Compare a run's digests with the store, and compute some of its cells again from nothing.

    Exits with 4 when a weight or a number is not what the table says, with 1 when nothing here
    could be compared (another machine, other software, other data): kdbench promises the same bits
    only on the same machine with the same software.
    """
    check_current_folder()
    from kdbench.bench.plan.prepare import prepare
    from kdbench.bench.run.verify import read_request
    from kdbench.bench.session.verification import compare_digests
    from kdbench.bench.store.artefacts import Store
    from kdbench.cli.processes import command_processes
    from kdbench.report.read import read_results

    check_executor(executor)
    store, results = Store(store_dir), read_results(folder)
    with command_processes(choice, executor) as processes:
        prepared = prepare(read_request(folder), processes.answers(), store)
        verified = compare_digests(results, prepared, processes, store, cells, seed)
        _show_digests(verified)
        if verified.lines:
            verified.differences += _compute_again(
                results, verified.lines, prepared, processes, store, executor, jobs or 1
            )
        ctx.exit(_end(folder, verified))


def _show_digests(verified: Verification) -> None:
    """Print what was compared with the store."""
    from kdbench.bench.session.verification import few
    from kdbench.cli.display import safe

    total = verified.total
    for line in _other_keys(verified.others, total):
        click.echo(safe(line))
    if absent := verified.missing:
        click.echo(f"without a row: {absent} of {counted(verified.cells, 'cell')} of the request")
    click.echo(
        f"weights: {verified.same} of {counted(total, 'row')} with theirs in the store, "
        f"{len(verified.gone)} without"
    )
    click.echo(f"numbers: {verified.kept} of {counted(total, 'row')} with theirs in the store")
    if lines := verified.lines:
        # The message names the seed, so that the same cells can be computed again.
        click.echo(f"computing again: line {few(lines)} of results.csv (--seed {verified.seed})")


def _end(folder: Path, verified: Verification) -> int:
    """Print what came out: the exit code.

    Raises:
        IntegrityError: something differs.
    """
    from kdbench.bench.session.verification import why_not
    from kdbench.cli.display import safe

    for d in verified.differences:
        click.echo(
            safe(f"line {d.line}: {d.column} is {d.table} in the table and {d.again} {d.source}")
        )
    if not verified.ok:
        raise IntegrityError(why_not(folder, verified))
    click.echo(
        f"verified: {counted(verified.same, 'row')} by their weights, {len(verified.lines)} "
        "computed again to the same bits"
    )
    return 0 if verified.compared else 1


def _compute_again(
    results: ResultsFile,
    lines: list[int],
    prepared: Prepared,
    processes: Processes,
    store: Store,
    executor: ExecutorName,
    jobs: int,
) -> list[RowDifference]:
    """What differs when the cells on some lines are computed again, and how that goes on."""
    from kdbench.bench.session.verification import compute_again
    from kdbench.cli.watch import make_display

    display = make_display(quiet=False, as_json=False, live=executor == "local")
    try:
        return compute_again(
            results, lines, prepared, processes, store, executor, jobs, display, tell
        )
    finally:
        display.close()


def _other_keys(others: OtherKeys, total: int) -> Iterator[str]:
    """The rows that are not compared, and why."""
    from kdbench.bench.session.verification import few

    for lines, why in (
        (others.machine, "another key here, so another machine, software or plugin made them"),
        (
            others.older,
            "an older schema, whose keys nobody makes any more, so another kdbench made them",
        ),
        (others.strangers, "cells that run.json does not ask for, so somebody added them"),
    ):
        if lines:
            yield (
                f"not compared: {len(lines)} of {counted(total, 'row')} (lines {few(lines)}): {why}"
            )
    for what, (*values, here) in list(others.made_by.items())[:_LISTED]:
        yield f"these rows were made by other software: {what} {', '.join(values)}; here {here}"
    for line, (row, here) in list(others.numbers.items())[:_LISTED]:
        yield f"line {line} was made with other numbers, and is not compared: {row}; here {here}"
    if len(others.numbers) > _LISTED:
        yield f"made with other numbers too: {counted(len(others.numbers) - _LISTED, 'more row')}"
