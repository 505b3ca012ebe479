"""``kdbench cite``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdbench.cli.choice import plugin_options

if TYPE_CHECKING:
    from kdbench.loading.choice import PluginChoice


@click.command("cite")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@plugin_options
def cite_command(names: tuple[str, ...], choice: PluginChoice) -> None:
    """Print BibTeX of kdbench, and of the papers of the methods named.

    NAME is a method, a variant of one, or KIND.NAME. A run's report.html has the entries of all
    methods that it used.
    """
    from kdbench.page.cite import kdbench_entry, paper_entry

    entries = [kdbench_entry()]
    if names:
        from kdbench.cli.processes import catalogue
        from kdbench.cli.tell import tell

        with catalogue(choice) as known:
            for name in names:
                kind, base, _ = known.identify(name)
                entry = paper_entry(base, known.facts(kind, base).info.model_dump())
                if entry:
                    entries.append(entry)
                else:
                    tell(f"{name} has no paper")
    click.echo("\n\n".join(dict.fromkeys(entries)))
