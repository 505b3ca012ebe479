"""``kdbench check``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kdbench.cli.choice import plugin_options

if TYPE_CHECKING:
    from kdbench.loading.choice import PluginChoice
    from kdbench.testing import Result


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
    from kdbench.loading.registry import Registry
    from kdbench.testing import run_checks

    registry = Registry.load(choice=choice)
    methods = {name: registry.find(name) for name in names}
    results = {}
    for name, (cls, variant) in methods.items():
        if not as_json:
            click.echo(f"{name}: {cls.__module__}.{cls.__qualname__}")
        results[name] = run_checks(cls, variant, report=(lambda _: None) if as_json else _print)
    failed = sum(r.status == "failed" for of_method in results.values() for r in of_method)
    if as_json:
        checks = {name: [asdict(r) for r in of_method] for name, of_method in results.items()}
        click.echo(json.dumps({"failed": failed, "checks": checks}, indent=1, allow_nan=False))
    else:
        total = sum(map(len, results.values()))
        click.echo(
            f"{total - failed} of {total} checks hold"
            if failed
            else f"all {total} checks hold or do not apply"
        )
    ctx.exit(1 if failed else 0)


def _print(result: Result) -> None:
    from kdbench.cli.display import safe

    click.echo(
        safe(
            f"  {result.status:<14} {result.name:<24} {result.seconds:5.1f} s  "
            f"{result.text}".rstrip()
        )
    )
