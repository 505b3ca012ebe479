"""``kdbench plugins``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kdbench.cli.choice import plugin_options

if TYPE_CHECKING:
    from kdbench.loading.choice import PluginChoice
    from kdbench.loading.plugin import Plugin

_SLOW_S = 2.0


@click.command("plugins")
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins_command(choice: PluginChoice, as_json: bool) -> None:
    """Show every plugin, what it defines, and why it could not be loaded. Exits with 0 even if one
    is broken.

    $KDBENCH_LOAD_PLUGINS, if set, names the only ones to load, by plugin or distribution, separated
    by commas; empty for none.
    """
    from kdbench.hookspecs import API_VERSION
    from kdbench.loading.registry import Registry

    found = [_record(plugin) for plugin in Registry.load(choice=choice).plugins]
    if as_json:
        click.echo(
            json.dumps({"kdbench_api": API_VERSION, "plugins": found}, indent=1, allow_nan=False)
        )
        return
    from kdbench.cli.display import make_console, plain_table, safe

    console = make_console()
    table = plain_table(
        f"plugins for kdbench_api {API_VERSION}",
        ("name", "distribution", "version", "api", "status", "defines"),
    )
    for plugin in found:
        words = (
            plugin["name"],
            plugin["distribution"],
            plugin["version"],
            plugin["api"] or "any",
            plugin["status"],
        )
        table.add_row(*map(safe, (*words, ", ".join(plugin["defines"]))))
    console.print(table)
    for plugin in found:
        if plugin["cause"]:
            console.print(
                safe(
                    f"{plugin['name']} ({plugin['distribution']} {plugin['version']}) is broken: "
                    f"{plugin['cause']}"
                )
            )
        if plugin["seconds"] > _SLOW_S:
            console.print(
                safe(
                    f"{plugin['name']} took {plugin['seconds']:.1f} s to import, in every command "
                    "that loads plugins"
                )
            )


def _record(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "api": plugin.api,
        "status": plugin.status,
        "defines": [f"{one.kind} {one.name}" for one in plugin.defines],
        "module": plugin.module,
        "path": None if plugin.path is None else str(plugin.path),
        "source_sha256": plugin.source,
        "seconds": round(plugin.seconds, 3),
        "cause": plugin.cause,
        "traceback": plugin.trace,
    }
