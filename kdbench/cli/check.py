"""``kdbench check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbench._counted import counted
from kdbench.cli.choice import plugin_options
from kdbench.errors import UsageError

if TYPE_CHECKING:
    from kdbench.loading.catalogue import Catalogue
    from kdbench.loading.choice import PluginChoice
    from kdbench.loading.facts import CheckFacts


@click.command("check")
@click.argument("names", metavar="NAME", nargs=-1, required=True)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of a dataset that reads one."
)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check_command(
    ctx: click.Context,
    names: tuple[str, ...],
    data_dir: Path | None,
    choice: PluginChoice,
    as_json: bool,
) -> None:
    """Check that a method, network or dataset keeps its contract: the same conformance kit for
    built-ins and strangers, on a CPU.

    NAME is a method, a variant of one, a network, a dataset, NAME:PATH, or KIND.NAME. KIND is
    attack, defense, distiller, network or dataset. Exits with 1 when a check fails that is not
    among its known failures.
    """
    from kdbench.cli.display import safe
    from kdbench.cli.processes import catalogue
    from kdbench.loading.answers import CHECKED_KINDS

    results: dict[str, list[CheckFacts]] = {}
    with catalogue(choice) as known:
        found = {name: known.identify(name, CHECKED_KINDS) for name in names}
        if data_dir is not None and all(kind != "dataset" for kind, _, _ in found.values()):
            raise UsageError("--data-dir is the folder of a dataset; name a dataset, or drop it")
        for name, (kind, base, rest) in found.items():
            if not as_json:
                click.echo(safe(f"{name}: {_what(known, kind, base)}"))
            results[name] = []
            for result in known.check(kind, base, rest, data_dir):
                results[name].append(result)
                if not as_json:
                    _print(result)
    failed = sum(r.status == "failed" for of_one in results.values() for r in of_one)
    if as_json:
        checks = {name: [r.model_dump() for r in of_one] for name, of_one in results.items()}
        click.echo(json.dumps({"failed": failed, "checks": checks}, indent=1, allow_nan=False))
    else:
        total = sum(map(len, results.values()))
        click.echo(
            f"{counted(failed, 'check')} of {total} failed"
            if failed
            else f"{counted(total, 'check')}: all hold or do not apply"
        )
    ctx.exit(1 if failed else 0)


def _what(known: Catalogue, kind: str, base: str) -> str:
    """What is checked: the class of a method, or whose network or dataset it is."""
    from kdbench.loading.answers import kind_word
    from kdbench.method import METHOD_KINDS

    if kind in METHOD_KINDS:
        return known.facts(kind, base).class_name
    return f"{kind_word(kind)} of {known.entry(kind, base).plugin.owner}"


def _print(result: CheckFacts) -> None:
    from kdbench.cli.display import safe

    click.echo(
        safe(
            f"  {result.status:<14} {result.name:<24} {result.seconds:5.1f} s  "
            f"{result.text}".rstrip()
        )
    )
