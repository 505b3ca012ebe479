"""``kdbench plan``, and what ``kdbench run --dry-run`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench._counted import counted
from kdbench.cli.choice import plugin_options
from kdbench.cli.here import check_current_folder
from kdbench.cli.request import request_options, store_option
from kdbench.cli.sections import SectionedCommand
from kdbench.cli.tell import tell
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.run.forecast import Forecast
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.store.artefacts import Store
    from kdbench.data.description import Description
    from kdbench.loading.choice import PluginChoice


@click.command("plan", cls=SectionedCommand)
@click.argument("spec_file", metavar="[SPEC.toml]", required=False, type=click.Path(path_type=Path))
@request_options
@plugin_options
@store_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Workers to estimate the time for.",
)
@click.option("--toml", "as_toml", is_flag=True, help="Print the request as a spec file instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan_command(
    spec_file: Path | None,
    choice: PluginChoice,
    store_dir: Path | None,
    jobs: int,
    as_toml: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what a request comes to: its stages, which are in the store, which will run and why,
    time and disk."""
    check_current_folder()
    from kdbench.bench.session.networks import tell_notes
    from kdbench.bench.session.request import build_spec
    from kdbench.bench.store.artefacts import Store
    from kdbench.cli.processes import command_processes

    if spec_file is not None:
        if options["spec"] is not None:
            raise ConfigError("SPEC.toml and --spec name two files; give one of them")
        options["spec"] = spec_file
    store = Store(store_dir)
    with command_processes(choice, computes=False) as processes:
        known = processes.answers()
        spec = build_spec(known, store, tell, **options)
        if as_toml:
            from kdbench.bench.request.specfile import write_spec

            click.echo(write_spec(spec), nl=False)
            return
        from kdbench.bench.plan.prepare import prepare

        prepared = prepare(spec, known, store)
        tell_notes(prepared.notes, tell)
        show_plan(prepared, store, jobs, processes, as_json)


def show_plan(
    prepared: Prepared, store: Store, jobs: int, processes: Processes, as_json: bool
) -> None:
    """Print the stages with their states and costs, the cells, and every resolved number."""
    from kdbench._files import jsonable
    from kdbench.bench.plan.machine import in_words
    from kdbench.bench.session.planned import Planned

    calibrate = processes.calibrate(prepared.numerics)
    planned = Planned.of(prepared, store, jobs, tell, calibrate)
    summary, cells = planned.summary, planned.cells
    machine = {"device": str(prepared.numerics.device), "numerics": str(prepared.numerics)}
    request = prepared.spec.model_dump(mode="json")
    parts = prepared.numbers()
    datasets = prepared.descriptions()
    if as_json:
        value = {
            "summary": summary,
            "stages": planned.stages,
            "cells": cells,
            "datasets": [description.as_dict() for description in datasets],
            "config": {"request": request, "parts": parts},
            "machine": machine,
        }
        click.echo(json.dumps(jsonable(value), indent=1, allow_nan=False))
        return
    numbers = {
        "request": request,
        **{
            f"{p['dataset']}, preset {p['preset']['name']}, with --set": _own(p, cells)
            for p in parts
        },
        "this machine": {**machine, "numerics": in_words(prepared.numerics)},
    }
    _print_tables(datasets, planned.forecasts, cells, numbers, summary)


def _own(part: dict[str, Any], cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a part, without those that its preset has for other datasets and teachers."""
    named = {
        "datasets": {part["dataset"].partition(":")[0]},
        "networks": {cell["teacher"] for cell in cells},
    }
    preset = dict(part["preset"])
    for table, names in named.items():
        preset[table] = {name: of for name, of in preset[table].items() if name in names}
    return {**part, "preset": {name: of for name, of in preset.items() if of != {}}}


def _print_tables(
    datasets: list[Description],
    forecasts: list[Forecast],
    cells: list[dict[str, Any]],
    numbers: Mapping[str, Any],
    summary: dict[str, Any],
) -> None:
    """Print the datasets, the stages, the cells, each table of ``numbers`` under its title, and the
    summary."""
    from kdbench.cli.display import make_console, plain_table, safe

    console = make_console()
    _print_datasets(console, datasets)
    table = plain_table(
        f"stages: {len(forecasts)}", ["number", "state", "time", "title", "seed", "why"]
    )
    table.columns[2].no_wrap = True
    for f in forecasts:
        # A stage that trains nothing draws nothing, so its seed says nothing.
        seed = "" if f.stage.kind.training == "none" else f.stage.seed
        values = (f.stage.number, f.state, _time(f), f.stage.title, seed, f.why)
        table.add_row(*map(safe, values))
    console.print(table)
    names = ("dataset", "preset", "attack", "defense", "distiller", "teacher", "student", "seed")
    table = plain_table(f"cells: {len(cells)}", names)
    for cell in cells:
        table.add_row(*(safe(cell[name]) for name in names))
    console.print(table)
    for title, group in numbers.items():
        table = plain_table(safe(title), ["name", "value"])
        for name, value in _flat("", group):
            table.add_row(safe(name), safe("none" if value is None else value))
        console.print(table)
    for line in _words(summary):
        console.print(safe(line))


def _print_datasets(console: Console, datasets: list[Description]) -> None:
    """Print what will be trained on, in sentences and with the images a class."""
    from kdbench.cli.display import plain_table, print_line, safe

    for description in datasets:
        for line in description.lines():
            print_line(console, safe(line))
    table = plain_table("images", ["dataset", "split", "images", "a class", "held"])
    for description in datasets:
        for name, split in (("train", description.train), ("test", description.test)):
            values = (description.name, name, split.images, split.a_class, split.where)
            table.add_row(*map(safe, values))
    console.print(table)


def _time(f: Forecast) -> str:
    """What a stage will take: ``~`` where it is estimated, ``?`` where nothing is known."""
    from kdbench.cli.display import duration

    if f.state != "run":
        return ""
    if f.cost is None:
        return "?"
    return f"{'' if f.cost.exact else '~'}{duration(f.cost.seconds)}"


def _words(summary: dict[str, Any]) -> Iterator[str]:
    from kdbench.cli.display import duration

    s = summary
    cells = f"{counted(s['cells'], 'cell')}, {s['rows_cached']} of them in the store"
    yield f"{cells}; {counted(s['stages'], 'stage')}, shared ones counted once:"
    yield f"{s['cached']} in the store, {s['to_run']} to run, {s['not_needed']} not needed"
    known = s["to_run"] - s["without_estimate"]
    if known:
        workers = counted(s["jobs"], "worker")
        estimate = f"estimate: about {duration(s['seconds'])} on this machine with {workers}"
        stages = counted(known, "stage")
        yield f"{estimate}, {s['bytes'] / 2**20:.0f} MiB in the store, for {stages}"
    if s["tried"]:
        yield f"{s['tried']} of them by trying a few steps: nothing like them was computed here"
    if s["without_estimate"]:
        stages = counted(s["without_estimate"], "stage")
        yield f"no estimate for {stages}: nothing comparable was computed here yet"
    yield "nothing was run"


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Nested tables as the dotted keys that ``--set`` takes."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield (
            prefix,
            json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else value,
        )
