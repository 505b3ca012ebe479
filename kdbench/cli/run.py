"""``kdbench run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench.cli.choice import plugin_options
from kdbench.cli.execute import Execution, execute, execution_options
from kdbench.cli.junit import check_junit, junit_option, not_written
from kdbench.cli.request import request_options, store_option
from kdbench.cli.sections import SectionedCommand
from kdbench.cli.tell import tell

if TYPE_CHECKING:
    from kdbench.loading.choice import PluginChoice
    from kdbench.report.columns import Row


@click.command("run", cls=SectionedCommand)
@request_options
@plugin_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results.  [default: runs/TIME-ATTACK-DEFENSE-PAIR]",
)
@store_option
@execution_options
@junit_option("the cells; those that were not measured are errors")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show the stages, what they cost, the cells and every number; run nothing.",
)
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    choice: PluginChoice,
    out: Path | None,
    store_dir: Path | None,
    how: Execution,
    junit: Path | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Run attacks against defenses and write the results to a folder.

    Every combination of attack, defense, distiller, pair, dataset, preset and seed is one cell, one
    row of results.csv. What the store has is not computed again; a run that was interrupted goes on
    when it is called again. Exits with 0 when every cell was measured, 1 when one failed, 2 when
    the request is wrong, 130 when interrupted.
    """
    check_junit(junit)
    how.begin()
    from kdbench.cli.processes import command_processes

    # Its processes import torch while we import the rest.
    with command_processes(choice, how.executor, computes=not dry_run) as processes:
        executor = how.make_executor(processes)
        try:
            if not dry_run:
                executor.warm_up()
            from kdbench.bench.plan.prepare import prepare
            from kdbench.bench.session.folders import default_out
            from kdbench.bench.session.networks import tell_notes
            from kdbench.bench.session.request import build_spec
            from kdbench.bench.store.artefacts import Store

            known, store = processes.answers(), Store(store_dir)
            spec = build_spec(known, store, tell, **options)
            if dry_run:
                from kdbench.cli.plan import show_plan

                prepared = prepare(spec, known, store)
                tell_notes(prepared.notes, tell)
                show_plan(prepared, store, how.jobs or 1, processes, how.as_json)
                return
            store.check_writable()
            folder = out if out is not None else default_out(spec)
            fresh = not folder.exists() or out is None
            code, _, rows = execute(
                spec, known, folder, store, executor, how, fresh=fresh, processes=processes
            )
            if junit is not None and code != 130:
                code = max(code, _write_junit(junit, rows))
            ctx.exit(code)
        finally:
            executor.close()


def _write_junit(path: Path, rows: list[Row]) -> int:
    """Write the cells as tests: 1 where that cannot be written, which costs no result."""
    from kdbench.report.junit import cells_as_tests, write_junit

    try:
        write_junit("kdbench run", cells_as_tests(rows), path)
    except OSError as error:
        tell(not_written(path, error))
        return 1
    return 0
