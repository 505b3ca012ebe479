"""``kdbench run``."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench.cli.number import Number
from kdbench.cli.request import build_spec, divide, request_options, store_option
from kdbench.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from kdbench.bench.spec import RunSpec

_OUTPUTS = ("results.csv", "leaderboard.csv", "run.json")


@click.command("run")
@request_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: runs/TIME-ATTACK-DEFENSE-PAIR]")
@store_option
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Stages computed side by side.")
@click.option("--time-limit", type=Number(min=1), default=86400.0, show_default=True, help="Seconds for one stage.")
@click.option("--memory-limit", type=Number(min=0.1), help="GiB of resident memory for one stage.")
@click.option(
    "--checkpoint-every",
    type=Number(min=0),
    default=60.0,
    show_default=True,
    help="Seconds between checkpoints of a training, at epochs' ends.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first stage that fails.")
@click.option("--dry-run", is_flag=True, help="Show the stages, what they cost, the cells and every number; run nothing.")
@click.option("--quiet", is_flag=True, help="Print only the folder of the results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    out: Path | None,
    store_dir: Path | None,
    jobs: int,
    time_limit: float,
    memory_limit: float | None,
    checkpoint_every: float,
    fail_fast: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run attacks against defenses and write the results to a folder.

    Every combination of attack, defense, distiller, pair, dataset, preset and seed is one cell, one row of results.csv.
    What the store has is not computed again; a run that was interrupted goes on when it is called again. Exits with 0 when
    every cell was measured, 1 when one failed, 2 when the request is wrong, 130 when interrupted.
    """
    if quiet and as_json:
        raise UsageError("--quiet and --json exclude each other; drop one of them")
    from kdbench.bench.executors.local import Limits, LocalExecutor

    limits = Limits(time_limit, None if memory_limit is None else memory_limit * 1024)
    executor = LocalExecutor(jobs=jobs, limits=limits)
    try:
        if not dry_run:
            executor.warm_up()  # imports torch while we do
        from kdbench.bench.prepare import prepare
        from kdbench.bench.store import Store
        from kdbench.registry import Registry

        registry, store = Registry.load(), Store(store_dir)
        spec = build_spec(registry, store, **options)
        if dry_run:
            from kdbench.cli.plan import show_plan

            show_plan(prepare(spec, registry, store), store, jobs, as_json)
            return
        store.check_writable()
        folder = out if out is not None else default_out(spec)
        created = not folder.exists() or out is None
        check_out(folder, spec)
        try:
            prepared = prepare(spec, registry, store)
        except BaseException:  # a refusal, be it of the request or of a file
            if created and not any(folder.iterdir()):
                folder.rmdir()
            raise
        slots = divide(jobs, prepared.numerics)
        executor.jobs, executor.devices = slots.jobs, slots.devices
        ctx.exit(_execute(prepared, registry, folder, store, executor, fail_fast, checkpoint_every, quiet, as_json))
    finally:
        executor.close()


def _execute(
    prepared: Any,
    registry: Any,
    folder: Path,
    store: Any,
    executor: Any,
    fail_fast: bool,
    every: float,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run and watch; the exit code."""
    from kdbench.bench import runner
    from kdbench.cli.display import make_display

    display = make_display(quiet, as_json)
    before = signal.signal(signal.SIGTERM, _interrupt)  # what a cluster sends
    try:
        rows = runner.run(
            prepared, registry, folder, display, store, executor, fail_fast=fail_fast, checkpoint_s=every
        )  # fmt: skip
    except KeyboardInterrupt:
        display.close()
        click.echo(f"Interrupted. What was measured so far is in {folder}. To go on:", err=True)
        click.echo(f"  {resume_command(sys.argv[1:], folder)}", err=True)
        return 130
    finally:
        display.close()
        signal.signal(signal.SIGTERM, before)
    left = len(prepared.plan.cells) - len(rows) if fail_fast else 0
    if left:
        click.echo(f"Stopped at the first failure: {left} of {len(prepared.plan.cells)} cells were not run.", err=True)
    return 0 if not left and all(row.get("status") == "ok" for row in rows) else 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def resume_command(arguments: list[str], folder: Path) -> str:
    """The same command into the same folder."""
    named = any(part == "--out" or part.startswith("--out=") for part in arguments)
    return shlex.join(["kdbench", *arguments, *([] if named else ["--out", str(folder)])])


def default_out(spec: RunSpec) -> Path:
    """Make ``runs/TIME-ATTACK-DEFENSE-PAIR``, with a count where there are several: a new folder, even if two runs start
    in the same second.

    Raises:
        ConfigError: it cannot be made here.
    """

    def one(names: list[str], what: str) -> str:
        return names[0].replace("/", "_") if len(names) == 1 else f"{len(names)}{what}"

    pairs = ["-".join(pair) for pair in spec.pairs]
    attacks = [*spec.attacks, *spec.teacher_from]
    parts = [time.strftime("%Y%m%d-%H%M%S"), one(attacks, "attacks"), one(list(spec.defenses), "defenses")]
    base = Path("runs") / "-".join([*parts, one(pairs, "pairs")])
    folder, number = base, 2
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder, number = base.with_name(f"{base.name}-{number}"), number + 1
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made ({error.strerror or error}); name a folder with --out") from error


def check_out(folder: Path, spec: RunSpec) -> None:
    """Create the folder and write to it once, before hours are spent. One that holds the same request's results is taken up.

    Raises:
        ConfigError: it cannot be written to, or holds the results of another request.
    """
    import json

    there = [name for name in _OUTPUTS if (folder / name).exists()]
    if there:
        try:
            request = json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]["request"]
        except (OSError, ValueError, KeyError, TypeError):
            request = None
        if request != spec.model_dump(mode="json"):
            raise ConfigError(
                f"--out {folder} already holds results of another request ({', '.join(there)}); name another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be written to ({error.strerror or error}); name another folder") from error
