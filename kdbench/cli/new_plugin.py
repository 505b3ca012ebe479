"""``kdbench new-plugin``."""

from __future__ import annotations

from pathlib import Path

import click

from kdbench.loading.scaffold import KINDS, distribution, listed, write_plugin
from kdbench.untrusted.text import command_line, shown


@click.command("new-plugin")
@click.argument("kind", type=click.Choice(sorted(KINDS)))
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to make.  [default: kdbench-NAME]"
)
def new_plugin_command(kind: str, name: str, out: Path | None) -> None:
    """Write an installable package with a method, network or dataset of your own, its entry point,
    tests and README.

    It installs, appears in kdbench list, runs and passes kdbench check as it is written; then
    change it.
    """
    folder = out if out is not None else Path(distribution(name))
    for path in write_plugin(kind, name, folder):
        click.echo(shown(path))
    install = command_line(["pip", "install", "-e", str(folder)])
    click.echo(f"\nNext:\n  {install}\n  kdbench check {name}\n  kdbench list {listed(kind)}")
