"""``kdbench doctor``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbench._counted import counted
from kdbench.cli.choice import plugin_options
from kdbench.cli.here import check_current_folder
from kdbench.cli.request import store_option
from kdbench.cli.tell import tell

if TYPE_CHECKING:
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.session.health import Health
    from kdbench.bench.session.remedies import Finding
    from kdbench.loading.choice import PluginChoice

#: What is estimated: the two requests of ``make demo``.
_DEMO = {
    "a small pair (wrn16_2-wrn16_1)": ("wrn16_2", "wrn16_1"),
    "a deep pair (pyramid200-pyramid110)": ("pyramid200", "pyramid110"),
}
_ATTACK, _DEFENSE = "lba", "robustkd"


@click.command("doctor")
@plugin_options
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor_command(
    ctx: click.Context, choice: PluginChoice, store_dir: Path | None, as_json: bool
) -> None:
    """Look at this machine: what computes, what keeps plugins in, where results go, how fast it is.

    It trains small networks for some seconds and says from that what usual requests take. It ends
    with what is slow or missing here, and what to do. Exits with 0, and with 1 where kdbench cannot
    work here.
    """
    check_current_folder()
    if not as_json:
        tell("looking at this machine: about 15 seconds ...")
    from kdbench.bench.session.health import examine
    from kdbench.bench.session.remedies import findings
    from kdbench.bench.store.artefacts import Store
    from kdbench.cli.processes import command_processes

    with command_processes(choice, shows_broken=True) as processes:
        health = examine(processes, Store(store_dir), _requests())
    advice = findings(health)
    if as_json:
        value = {**asdict(health), "findings": [asdict(finding) for finding in advice]}
        click.echo(json.dumps(value, indent=1, allow_nan=False))
    else:
        show(health, advice)
    ctx.exit(1 if any(finding.stops for finding in advice) else 0)


def _requests() -> dict[str, tuple[RunSpec, int]]:
    """The requests that are estimated, with the stages that run side by side."""
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.work.executors.slots import cores

    return {
        name: (
            RunSpec(attacks=(_ATTACK,), defenses=(_DEFENSE,), pairs=(pair,), threads=1),
            min(2, cores()),
        )
        for name, pair in _DEMO.items()
    }


def show(health: Health, advice: list[Finding]) -> None:
    """Print what was found, and then what to do."""
    from kdbench.cli.display import make_console, plain_table, safe

    console = make_console()
    table = plain_table("this machine", ["what", "is"])
    for name, value in _lines(health):
        table.add_row(safe(name), safe(value))
    console.print(table)
    if health.timed:
        where = "on the GPU" if health.computing.gpus else "with one thread"
        names = ["network", "images", "batch", "steps a second"]
        # Nothing is left out: what could not be timed has a reason in place of a number.
        names += ["why there is none"] * any(timed.why for timed in health.timed)
        table = plain_table(f"plain training {where}", names)
        for timed in health.timed:
            side = f"{timed.image_size}x{timed.image_size}"
            steps = "-" if timed.steps_per_s is None else f"{timed.steps_per_s:.3g}"
            values = (timed.network, side, timed.batch_size, steps, timed.why)
            table.add_row(*map(safe, values[: len(names)]))
        console.print(table)
    if advice:
        console.print("[bold]what is slow or missing here[/]")
    for finding in advice:
        console.print(
            f"- {'[bold]kdbench cannot work here:[/] ' * finding.stops}{safe(finding.text)}"
        )
    if not advice:
        console.print("nothing is slow or missing here")


def _lines(health: Health) -> Iterator[tuple[str, str]]:
    from kdbench.cli.display import duration

    computing, storage, plugins = health.computing, health.storage, health.plugins
    yield "versions", ", ".join(f"{name} {version}" for name, version in health.versions.items())
    yield "processor", f"{computing.processor}, {counted(computing.cores, 'core')} to use"
    bf16 = "multiplies bfloat16" if computing.bf16 else "no bfloat16"
    yield "instructions", f"{computing.instructions}, {bf16}"
    yield "GPU", ", ".join(computing.gpus) or "none"
    yield "arithmetic of a run", computing.numerics
    yield "memory", _size(computing.memory_gib, "GiB")
    yield "shared memory", f"{_size(storage.shared_mib, 'MiB')} free in /dev/shm"
    yield "wall around plugins", health.wall or "not known"
    free, speed = _size(storage.free_gib, "GiB"), _size(storage.write_mib_s, "MiB a second")
    yield "store", f"{storage.root}: {free} free, writes {speed}"
    kinds = ", ".join(counted(count, kind) for kind, count in plugins.methods.items())
    yield "plugins", f"{plugins.loaded} loaded, {len(plugins.broken)} broken: {kinds}"
    for estimate in health.estimates:
        if estimate.seconds is None:
            yield estimate.name, f"not known: {estimate.why}"
            continue
        about = "more than" if estimate.unknown else "about"
        jobs = f"--threads 1 --jobs {estimate.jobs}"
        yield estimate.name, f"{about} {duration(estimate.seconds)} with {jobs}, one seed"


def _size(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:.0f} {unit}"
