"""``kdbench plugins``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kdbench.bench.session.health import SLOW_S
from kdbench.cli.choice import plugin_options

if TYPE_CHECKING:
    from kdbench.loading.candidates import Plugin
    from kdbench.loading.choice import PluginChoice


@click.command("plugins")
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins_command(choice: PluginChoice, as_json: bool) -> None:
    """Show every plugin, what it defines, and why it could not be loaded. Exits with 0 even if one
    is broken.

    $KDBENCH_LOAD_PLUGINS, if set, names the only ones to load, by plugin or distribution, separated
    by commas; empty for none.
    """
    from kdbench.cli.processes import catalogue
    from kdbench.hookspecs import API_VERSION

    with catalogue(choice, shows_broken=True) as known:
        plugins = [_record(plugin) for plugin in known.plugins]
    if as_json:
        click.echo(
            json.dumps({"kdbench_api": API_VERSION, "plugins": plugins}, indent=1, allow_nan=False)
        )
        return
    from kdbench.cli.display import make_console, plain_table, safe

    console = make_console()
    columns = ("name", "distribution", "version", "api", "status", "defines")
    table = plain_table(f"plugins for kdbench_api {API_VERSION}", columns)
    for plugin in plugins:
        words = plugin | {"api": plugin["api"] or "any", "defines": ", ".join(plugin["defines"])}
        table.add_row(*(safe(words[name]) for name in columns))
    console.print(table)
    for plugin in plugins:
        for remark in _remarks(plugin):
            console.print(safe(remark))


def _remarks(plugin: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a plugin, line by line."""
    if plugin["cause"]:
        yield (
            f"{plugin['name']} ({plugin['distribution']} {plugin['version']}".rstrip()
            + f") is broken: {plugin['cause']}"
        )
    if plugin["seconds"] > SLOW_S:
        yield (
            f"{plugin['name']} took {plugin['seconds']:.1f} s to import, in every command that "
            "loads plugins"
        )


def _record(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "api": plugin.api,
        "status": plugin.status,
        "defines": [f"{entry.kind} {entry.name}" for entry in plugin.defines],
        "module": plugin.module,
        "path": None if plugin.path is None else str(plugin.path),
        "source_sha256": plugin.source,
        "seconds": round(plugin.seconds, 3),
        "cause": plugin.cause,
        "traceback": plugin.trace,
    }
