"""``kdbench reproduce``: the paper's tables and figures, with our numbers beside the printed
ones."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench._counted import counted
from kdbench.cli.choice import plugin_options
from kdbench.cli.execute import Execution, elsewhere_command, execute, execution_options
from kdbench.cli.request import request_options, store_option
from kdbench.cli.sections import TargetCommand
from kdbench.cli.tell import tell
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from kdbench.bench.plan.plan import Plan, Stage
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.run.calibration import Calibration
    from kdbench.bench.run.forecast import Calibrate
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.store.artefacts import Store
    from kdbench.loading.answers import Answers
    from kdbench.loading.choice import PluginChoice
    from kdbench.paper.printed import Target
    from kdbench.report.columns import Row

_ALL = "all"


@click.command("reproduce", cls=TargetCommand)
@click.argument("names", metavar="table3|table4|...|fig7|all", nargs=-1, required=True)
@request_options
@plugin_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results, one folder in it for each NAME.",
)
@store_option
@execution_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what each table and figure costs, shared stages once; run nothing.",
)
@click.pass_context
def reproduce_command(
    ctx: click.Context,
    /,
    names: tuple[str, ...],
    choice: PluginChoice,
    out: Path | None,
    store_dir: Path | None,
    how: Execution,
    dry_run: bool,
    **options: Any,
) -> None:
    """Run a table or a figure of the RobustKD paper and put our numbers beside the printed ones.

    Each is a request: what it asks for (the paper's datasets, pairs and attacks, preset paper,
    three seeds) gives way to the options, e.g. --dataset gtsrb --data-dir DATA --preset quick.
    Beside what kdbench run writes there is NAME.csv (ours, the paper's, the difference, with what
    else a printed number is at odds, and how far the preset may be believed) or NAME.png.
    """
    if options["spec"] is not None:
        raise ConfigError(
            "--spec and the name of a table or figure are two requests; use kdbench run --spec for "
            "a file of yours"
        )
    how.begin()
    from kdbench.bench.session.request import build_spec
    from kdbench.bench.store.artefacts import Store
    from kdbench.cli.processes import command_processes
    from kdbench.paper.printed import read_target, target_names, target_path

    # A dict drops repeated names and keeps their order.
    targets = {
        target: read_target(target_path(target))
        for name in names
        for target in (target_names() if name == _ALL else [name])
    }
    store = Store(store_dir)
    with command_processes(choice, how.executor, computes=not dry_run) as processes:
        known = processes.answers()
        specs = {
            name: build_spec(known, store, tell, **(options | {"spec": target_path(name)}))
            for name in targets
        }
        if dry_run:
            _show_costs(specs, known, store, how.jobs or 1, processes, how.as_json)
            return
        store.check_writable()
        start = f"{time.strftime('%Y%m%d-%H%M%S')}-reproduce"
        base = out if out is not None else Path("runs") / start
        worst = 0
        for name, target in targets.items():
            folder = base / name
            executor = how.make_executor(processes)
            try:
                code, prepared, rows = execute(
                    specs[name],
                    known,
                    folder,
                    store,
                    executor,
                    how,
                    fresh=not folder.exists(),
                    processes=processes,
                )
            finally:
                executor.close()
            if code == 130:  # Interrupted. The targets that are left are not begun.
                ctx.exit(code)
            whole = _report(name, target, prepared, rows, store, folder, how)
            worst = max(worst, code, 0 if whole else 1)
        ctx.exit(worst)


def _report(
    name: str,
    target: Target,
    prepared: Prepared,
    rows: list[Row],
    store: Store,
    folder: Path,
    how: Execution,
) -> bool:
    """Write the comparison or the figure, and print it: whether it could be written."""
    from kdbench.paper import printed as paper

    worth = _credibility(prepared.spec.presets, rows)
    if target.table is not None:
        records = paper.beside_the_paper(target, rows)
        path = folder / f"{name}.csv"
        lost = _lost(path, lambda: paper.write_beside_the_paper(records, path))
        have, total = paper.coverage(target, records)
        have_ours = f"printed numbers with one of ours beside them: {have} of {total}"
        _print(records, f"{target.title}: {have_ours}; {lost or path}", worth, how)
        return not lost
    from kdbench.paper import figures
    from kdbench.paper.variances import variances

    path, title = folder / f"{name}.png", "\n".join([target.title, *worth])
    panels = 0
    ratios: list[Row] = []

    def draw() -> None:
        nonlocal panels, ratios
        if target.figure == "defenses":
            panels = figures.draw_defenses(rows, target.labels, target.axis, title, path)
            return
        groups = variances(prepared.plan, store)
        ratios = figures.variance_ratios(groups, "clean")
        panels = figures.draw_variance(groups, title, path)
        figures.write_ratios(ratios, folder / f"{name}.csv")

    lost = _lost(path, draw)
    drawn = lost or (str(path) if panels else "nothing to draw")
    _print(ratios, f"{target.title}: {drawn}. The paper: {target.claim}.", worth, how)
    return not lost


def _credibility(presets: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """What the presets of a request say of how far their numbers may be believed, as lines."""
    from kdbench.bench.request.preset_files import preset_remarks
    from kdbench.report.preset_remarks import remark_lines

    return [f"preset {name}: {preset_remarks(name).about}" for name in presets] + remark_lines(rows)


def _lost(path: Path, write: Callable[[], object]) -> str:
    """Write a file: why it could not be written, and what to do. Empty: it was."""
    try:
        write()
    except OSError as error:
        lost = f"{path} could not be written ({error.strerror or error})"
        again = elsewhere_command(sys.argv[1:])
        tell(f"{lost}. All that was computed is in the store: {again}")
        return lost
    return ""


def _show_costs(
    specs: Mapping[str, RunSpec],
    registry: Answers,
    store: Store,
    jobs: int,
    processes: Processes,
    as_json: bool,
) -> None:
    """Print what each target costs, what it adds to the targets above it, and what all cost
    together."""
    from kdbench.bench.plan.build import build_plan
    from kdbench.bench.plan.outline import outline
    from kdbench.bench.session.execution import divide

    outlines = {name: outline(spec, registry) for name, spec in specs.items()}
    numerics = next(iter(outlines.values())).numerics
    slots = divide(jobs, numerics, tell)
    # What is tried for all of them serves each.
    calibrate = processes.calibrate(numerics)
    if calibrate is not None:
        calibrate = _tried_once(calibrate)
    together = _cost(
        "together",
        build_plan(part for o in outlines.values() for part in o.parts),
        store,
        set(),
        slots.pace,
        calibrate,
    )
    seen: set[str] = set()
    lines = [
        _cost(name, build_plan(o.parts), store, seen, slots.pace, calibrate)
        for name, o in outlines.items()
    ]
    absent = list(dict.fromkeys(name for o in outlines.values() for name in o.absent))
    if as_json:
        costs = {
            "targets": lines,
            "together": together,
            "jobs": slots.jobs,
            "datasets_not_here": absent,
        }
        click.echo(json.dumps(costs, indent=1, allow_nan=False))
        return
    _print_costs([*lines, together], slots.jobs, absent)


def _tried_once(calibrate: Calibrate) -> Calibrate:
    """The same, whose first answer serves for all stages."""
    answers: list[Calibration | None] = []

    def once(stages: Sequence[Stage]) -> Calibration | None:
        if not answers:
            answers.append(calibrate(stages))
        return answers[0]

    return once


def _cost(
    name: str,
    plan: Plan,
    store: Store,
    seen: set[str],
    pace: float,
    calibrate: Calibrate | None = None,
) -> Row:
    """The line of one target.

    Args:
        seen: keys of the stages of the lines above. Those of this line are added.
        calibrate: tries how fast this machine is, where stages have no cost.
    """
    from kdbench.bench.run.forecast import forecast

    forecasts, rows = forecast(plan, store, calibrate)
    run = [f for f in forecasts if f.state == "run"]
    new = [f for f in run if f.stage.key not in seen]
    seen |= {f.stage.key for f in run}
    return {
        "name": name,
        "cells": len(plan.cells),
        "rows_cached": rows,
        "stages": len(forecasts),
        "to_run": len(run),
        "new": len(new),
        "images": sum(f.stage.images for f in new),
        "seconds": sum(f.cost.seconds for f in new if f.cost is not None) / pace,
        "without_estimate": sum(f.cost is None for f in new),
    }


def _print_costs(lines: Sequence[Row], jobs: int, absent: Sequence[str]) -> None:
    from kdbench.cli.display import duration, make_console, plain_table, safe

    names = (
        "name",
        "cells",
        "in the store",
        "stages",
        "to run",
        "not in the ones above: stages",
        "images",
        "time",
        "of",
    )
    table = plain_table(f"what it costs, with {counted(jobs, 'worker')}", names)
    for line in lines:
        known = line["new"] - line["without_estimate"]
        table.add_row(
            *(
                safe(line[key])
                for key in ("name", "cells", "rows_cached", "stages", "to_run", "new")
            ),
            f"{line['images'] / 1e6:,.1f} M",
            f"~{duration(line['seconds'])}" if known else "",
            counted(known, "stage") if known else "",
        )
    console = make_console()
    console.print(table)
    console.print(
        "Images: seen in training by recipe. Time: of those stages the like of which (kind, "
        "networks, method) was computed here, and of trainings of which a few steps were tried now."
    )
    if absent:
        console.print(
            "Not here, so counted with their official number of images: "
            f"{', '.join(map(safe, absent))}."
        )
    console.print("Nothing was run.")


def _print(
    records: Sequence[Row], message: str, credibility: Sequence[str], how: Execution
) -> None:
    from kdbench._files import jsonable
    from kdbench.cli.display import make_console, plain_table, safe

    if how.as_json:
        click.echo(
            json.dumps(
                jsonable(
                    {
                        "event": "paper",
                        "text": message,
                        "credibility": list(credibility),
                        "records": list(records),
                    }
                ),
                allow_nan=False,
            )
        )
        return
    if how.quiet:
        return
    console = make_console()
    if records:
        columns = _columns(records)
        table = plain_table("", columns)
        for record in records:
            table.add_row(*(safe(word) for word in _words(record, columns)))
        console.print(table)
    for line in (*credibility, message):
        console.print(safe(line))


def _columns(records: Sequence[Row]) -> list[str]:
    """The columns that are shown: those that hold something, without the ends of intervals, which
    stand beside their middle. What a preset is worth stands under the table."""
    names = [
        name
        for name in records[0]
        if name != "credibility" and any(record.get(name) not in (None, "") for record in records)
    ]
    return [name for name in names if _middle(name) == name or _middle(name) not in names]


def _middle(end: str) -> str:
    """The column of an interval's middle, or the column itself."""
    return end.removesuffix("_low").removesuffix("_high")


def _words(record: Row, columns: Sequence[str]) -> Iterator[str]:
    for name in columns:
        low, high = record.get(f"{name}_low"), record.get(f"{name}_high")
        interval = (
            ""
            if low is None or high is None or math.isnan(low) or math.isnan(high)
            else f" ({low:.2f} to {high:.2f})"
        )
        value = record.get(name)
        if isinstance(value, float):
            yield "" if math.isnan(value) else f"{value:.2f}{interval}"
        else:
            yield "" if value is None else str(value)
