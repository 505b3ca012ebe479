"""``kdbench run``."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench.errors import ConfigError, UnknownMethodError, UsageError, unknown

if TYPE_CHECKING:
    from kdbench.bench.spec import Resolved, RunSpec
    from kdbench.registry import Registry

PAPER_PAIRS = (
    "wrn28_4-wrn16_4",
    "wrn28_4-wrn28_2",
    "wrn28_4-wrn16_2",
    "wrn28_4-resnet56",
    "pyramid200-wrn28_4",
    "pyramid200-pyramid110",
)
_OPTION_OF = {
    "attacks": "--attack",
    "defenses": "--defense",
    "distillers": "--distiller",
    "pairs": "--pair",
    "seeds": "--seed",
    "overrides": "--set",
}


@click.command("run")
@click.option("--attack", "attacks", multiple=True, required=True, help="Attack; repeatable; 'all' for every one.")
@click.option(
    "--defense", "defenses", multiple=True, default=("none",), show_default=True, help="Defense; repeatable; or 'all'."
)
@click.option("--distiller", "distillers", multiple=True, default=("fkd",), show_default=True, help="Distiller; as above.")
@click.option("--pair", "pairs", multiple=True, help="TEACHER-STUDENT; repeatable; 'all' for the six pairs of the paper.")
@click.option("--teacher", help="Teacher whose name holds a dash; with --student.")
@click.option("--student", help="Student whose name holds a dash; with --teacher.")
@click.option("--dataset", default="signs", show_default=True, help="Dataset; a folder of yours is imagefolder:PATH.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the dataset.")
@click.option("--download", is_flag=True, help="Fetch the dataset where torchvision can: cifar10, cifar100, gtsrb.")
@click.option("--image-size", type=int, help="Pixels a side.")
@click.option("--num-classes", type=int, help="Number of classes.")
@click.option("--train-size", type=int, help="Training images.")
@click.option("--test-size", type=int, help="Test images.")
@click.option(
    "--data-seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of what a dataset draws or splits; all --seeds share it.",
)
@click.option("--preset", default="quick", show_default=True, help="Training lengths and rates; see `kdbench list presets`.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Root seed.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many seeds, from --seed upwards.")
@click.option("--target-class", type=int, default=0, show_default=True, help="The attacker's target.")
@click.option("--clean-fraction", type=float, help="The defender's share of the training images, above 0 to 1.")
@click.option("--controls/--no-controls", default=True, show_default=True, help="Train the controls; no verdict without.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to compute.")
@click.option("--numerics", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True, help="Arithmetic.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one number, e.g. clean.epochs=2; repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: runs/TIME-ATTACK-DEFENSE-PAIR]")
@click.option("--dry-run", is_flag=True, help="Show the stages, the cells and every number; run nothing.")
@click.option("--quiet", is_flag=True, help="Print only the folder of the results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.pass_context
def run_command(ctx: click.Context, /, out: Path | None, dry_run: bool, quiet: bool, as_json: bool, **options: Any) -> None:
    """Run attacks against defenses and write the results to a folder.

    Every combination of attack, defense, distiller, pair and seed is one cell, one row of results.csv. Exits with 0
    when every cell was measured, 1 when one failed, 2 when the request is wrong.
    """
    if quiet and as_json:
        raise UsageError("--quiet and --json exclude each other; drop one of them")
    from kdbench.bench.spec import resolve
    from kdbench.registry import Registry

    registry = Registry.load()
    spec = build_spec(registry, **options)
    resolved = resolve(spec, registry)
    if dry_run:
        show_plan(resolved, as_json)
        return
    folder = out if out is not None else default_out(spec)
    created = not folder.exists() or out is None
    check_writable(folder)
    try:
        ok = _execute(resolved, registry, folder, quiet, as_json)
    except UsageError:
        if created and not any(folder.iterdir()):
            folder.rmdir()
        raise
    ctx.exit(0 if ok else 1)


def _execute(resolved: Resolved, registry: Registry, folder: Path, quiet: bool, as_json: bool) -> bool:
    """Run and watch; True when every row is ok."""
    from kdbench.bench import runner
    from kdbench.cli.display import make_display

    display = make_display(quiet, as_json)
    try:
        rows = runner.run(resolved, registry, folder, display)
    except KeyboardInterrupt:
        display.close()
        if (folder / "results.csv").exists():
            click.echo(f"What was measured so far is in {folder / 'results.csv'}", err=True)
        raise
    finally:
        display.close()
    return all(row.get("status") == "ok" for row in rows)


def build_spec(
    registry: Registry,
    *,
    attacks: tuple[str, ...],
    defenses: tuple[str, ...],
    distillers: tuple[str, ...],
    pairs: tuple[str, ...],
    teacher: str | None,
    student: str | None,
    seed: int,
    seeds: int,
    settings: tuple[str, ...],
    **rest: Any,
) -> RunSpec:
    """Turn the options into a request.

    Raises:
        UsageError: a name does not exist, or a value is out of range (names the option).
    """
    from pydantic import ValidationError

    from kdbench.bench.spec import RunSpec
    from kdbench.data import dataset_names

    if rest["dataset"].partition(":")[0] not in dataset_names():
        raise UnknownMethodError(unknown("dataset", rest["dataset"], dataset_names(), "a folder of yours is imagefolder:PATH"))
    try:
        return RunSpec(
            attacks=_expand(attacks, lambda: registry.names("attack")),
            defenses=_expand(defenses, lambda: registry.names("defense")),
            distillers=_expand(distillers, lambda: registry.names("distiller")),
            pairs=parse_pairs(pairs, teacher, student),
            seeds=tuple(range(seed, seed + seeds)),
            overrides=parse_settings(settings),
            **rest,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "request"
        option = _OPTION_OF.get(name, f"--{name.replace('_', '-')}")
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise ConfigError(f"{option}: {message}; got {first.get('input')!r}") from error


def _expand(names: Iterable[str], everything: Callable[[], Iterable[str]]) -> tuple[str, ...]:
    """Replace 'all', keep the order, drop repetitions."""
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys(everything() if name == "all" else [name])
    return tuple(found)


def parse_pairs(pairs: tuple[str, ...], teacher: str | None, student: str | None) -> tuple[tuple[str, str], ...]:
    """Pairs from ``--pair`` and from ``--teacher`` with ``--student``.

    Raises:
        UsageError: no pair at all, half a pair, or a model that does not exist.
    """
    from kdbench.models import check_model_name, split_pair

    if (teacher is None) != (student is None):
        raise ConfigError("--teacher and --student belong together; give both, or --pair TEACHER-STUDENT")
    found = [split_pair(pair) for pair in _expand(pairs, lambda: PAPER_PAIRS)]
    if teacher is not None and student is not None:
        check_model_name(teacher)
        check_model_name(student)
        found.append((teacher, student))
    if not found:
        raise ConfigError("no pair given; add --pair TEACHER-STUDENT, e.g. --pair wrn16_2-wrn16_1, or --pair all")
    return tuple(dict.fromkeys(found))


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` items as a mapping; a later one wins.

    Raises:
        ConfigError: no ``=``, or nothing before it.
    """
    found = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {item!r} is not KEY=VALUE; write for example --set clean.epochs=2")
        found[key.strip()] = value.strip()
    return found


def default_out(spec: RunSpec) -> Path:
    """Make ``runs/TIME-ATTACK-DEFENSE-PAIR``, with a count where there are several: a new folder, even if two runs start
    in the same second.

    Raises:
        ConfigError: it cannot be made here.
    """

    def one(names: list[str], what: str) -> str:
        return names[0].replace("/", "_") if len(names) == 1 else f"{len(names)}{what}"

    pairs = ["-".join(pair) for pair in spec.pairs]
    parts = [time.strftime("%Y%m%d-%H%M%S"), one(list(spec.attacks), "attacks"), one(list(spec.defenses), "defenses")]
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


def check_writable(folder: Path) -> None:
    """Create the folder and write to it once, before hours are spent.

    Raises:
        ConfigError: it cannot be written to, or holds the results of another run.
    """
    for name in ("results.csv", "leaderboard.csv", "run.json"):
        if (folder / name).exists():
            raise ConfigError(f"--out {folder} already holds results ({name}); name another folder, or move them away first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be written to ({error.strerror or error}); name another folder") from error


def show_plan(resolved: Resolved, as_json: bool) -> None:
    """Print the stages, the cells and every resolved number."""
    from kdbench.bench.plan import build_plan
    from kdbench.cli.display import make_console, plain_table, safe
    from kdbench.report.record import jsonable
    from kdbench.training import choose_numerics

    plan = build_plan(resolved)
    numerics = choose_numerics(resolved.spec.device, resolved.spec.numerics)
    machine = {"device": str(numerics.device), "numerics": str(numerics)}
    names = ("attack", "defense", "distiller", "teacher", "student", "seed")
    cells = [{name: getattr(cell, name) for name in names} for cell in plan.cells]
    stages = [{"number": s.number, "kind": s.kind, "title": s.title, "seed": s.seed} for s in plan.stages]
    config = resolved.as_dict()
    if as_json:
        found = {"stages": stages, "cells": cells, "config": config, "machine": machine}
        click.echo(json.dumps(jsonable(found), indent=1, allow_nan=False))
        return
    console = make_console()
    for title, rows in (("stages", stages), ("cells", cells)):
        table = plain_table(f"{title}: {len(rows)}", rows[0] if rows else [])
        for row in rows:
            table.add_row(*(safe(value) for value in row.values()))
        console.print(table)
    preset = f"preset {safe(resolved.spec.preset)}, with --set"
    named = {"request": config["request"], preset: config["preset"], "methods": config["methods"], "this machine": machine}
    for title, values in named.items():
        table = plain_table(title, ["name", "value"])
        for name, value in _flat("", values):
            table.add_row(safe(name), safe(value))
        console.print(table)
    console.print("nothing was run (--dry-run)")


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Nested tables as the dotted keys that ``--set`` takes."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield prefix, json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else value
