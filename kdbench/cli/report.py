"""``kdbench report``."""

from __future__ import annotations

from pathlib import Path

import click

from kdbench.errors import ConfigError


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    help="The page.",
)
@click.option(
    "--split",
    is_flag=True,
    help="Show rows of one name that were made with other numbers as settings of their own, "
    "instead of refusing them.",
)
def report_command(runs: tuple[Path, ...], out: Path, split: bool) -> None:
    """Show runs as one page that needs no network. RUN is a run's folder or a results.csv."""
    from kdbench.page.build import write_page
    from kdbench.page.source import read_source

    source = read_source(runs, split)
    try:
        write_page(source, out)
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror or error}); name another file"
        ) from error
