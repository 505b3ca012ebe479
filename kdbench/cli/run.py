"""``kdbench run``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench.cli.choice import plugin_options
from kdbench.cli.execute import Execution, execute, execution_options
from kdbench.cli.networks import say_notes
from kdbench.cli.request import build_spec, request_options, store_option
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from kdbench.bench.request.spec import RunSpec
    from kdbench.loading.choice import PluginChoice


@click.command("run")
@request_options
@plugin_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results.  [default: runs/TIME-ATTACK-DEFENSE-PAIR]",
)
@store_option
@execution_options
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
    dry_run: bool,
    **options: Any,
) -> None:
    """Run attacks against defenses and write the results to a folder.

    Every combination of attack, defense, distiller, pair, dataset, preset and seed is one cell, one
    row of results.csv. What the store has is not computed again; a run that was interrupted goes on
    when it is called again. Exits with 0 when every cell was measured, 1 when one failed, 2 when
    the request is wrong, 130 when interrupted.
    """
    from kdbench.cli.processes import Processes

    # Its processes import torch while we import the rest.
    with Processes(choice, how.executor, computes=not dry_run) as processes:
        executor = how.make_executor(processes)
        try:
            if not dry_run:
                executor.warm_up()
            from kdbench.bench.plan.prepare import prepare
            from kdbench.bench.store.artefacts import Store

            known, store = processes.answers(), Store(store_dir)
            spec = build_spec(known, store, **options)
            if dry_run:
                from kdbench.cli.plan import show_plan

                prepared = prepare(spec, known, store)
                say_notes(prepared.notes)
                show_plan(prepared, store, how.jobs, how.as_json)
                return
            store.check_writable()
            folder = out if out is not None else default_out(spec)
            fresh = not folder.exists() or out is None
            code, _, _ = execute(spec, known, folder, store, executor, how, fresh=fresh)
            ctx.exit(code)
        finally:
            executor.close()


def default_out(spec: RunSpec) -> Path:
    """Make ``runs/TIME-ATTACK-DEFENSE-PAIR``. A count stands for several attacks, defenses or
    pairs. The folder is new, even if two runs start in the same second.

    Raises:
        ConfigError: it cannot be made here.
    """

    def part(names: list[str], what: str) -> str:
        return names[0].replace("/", "_") if len(names) == 1 else f"{len(names)}{what}"

    pairs = ["-".join(pair) for pair in spec.pairs]
    attacks = [*spec.attacks, *spec.teacher_from]
    parts = [
        time.strftime("%Y%m%d-%H%M%S"),
        part(attacks, "attacks"),
        part(list(spec.defenses), "defenses"),
        part(pairs, "pairs"),
    ]
    base = Path("runs") / "-".join(parts)
    folder, number = base, 2
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder, number = base.with_name(f"{base.name}-{number}"), number + 1
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be made ({error.strerror or error}); name a folder with --out"
            ) from error
