"""``kdbench check``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from kdbench._counted import counted
from kdbench.cli.choice import plugin_options

if TYPE_CHECKING:
    from kdbench.loading.choice import PluginChoice
    from kdbench.loading.facts import CheckFacts


@click.command("check")
@click.argument("names", metavar="NAME", nargs=-1, required=True)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check_command(
    ctx: click.Context, names: tuple[str, ...], choice: PluginChoice, as_json: bool
) -> None:
    """Check that a method keeps its contract: the same conformance kit for built-ins and strangers,
    on a CPU, without data.

    NAME is a method, a variant of one, or KIND.NAME. Exits with 1 when a check fails that is not
    among its known failures.
    """
    from kdbench.cli.display import safe
    from kdbench.cli.processes import catalogue

    results: dict[str, list[CheckFacts]] = {}
    with catalogue(choice) as known:
        methods = {name: known.identify(name) for name in names}
        for name, (kind, base, variant) in methods.items():
            if not as_json:
                click.echo(safe(f"{name}: {known.facts(kind, base).class_name}"))
            results[name] = []
            for result in known.check(kind, base, variant):
                results[name].append(result)
                if not as_json:
                    _print(result)
    failed = sum(r.status == "failed" for of_method in results.values() for r in of_method)
    if as_json:
        checks = {name: [r.model_dump() for r in of_method] for name, of_method in results.items()}
        click.echo(json.dumps({"failed": failed, "checks": checks}, indent=1, allow_nan=False))
    else:
        total = sum(map(len, results.values()))
        click.echo(
            f"{counted(failed, 'check')} of {total} failed"
            if failed
            else f"{counted(total, 'check')}: all hold or do not apply"
        )
    ctx.exit(1 if failed else 0)


def _print(result: CheckFacts) -> None:
    from kdbench.cli.display import safe

    click.echo(
        safe(
            f"  {result.status:<14} {result.name:<24} {result.seconds:5.1f} s  "
            f"{result.text}".rstrip()
        )
    )
