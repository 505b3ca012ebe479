"""``kdbench report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbench.cli.outputs import check_outputs
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from kdbench.page.source import Source


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    help="The page, one file that needs no network.",
)
@click.option(
    "--split",
    is_flag=True,
    help="Show rows of one name that were made with other numbers as settings of their own, "
    "instead of refusing them.",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write figures for a paper to this folder, too: each as PDF and PNG, one column wide, and "
    "table.tex.",
)
def report_command(runs: tuple[Path, ...], out: Path, split: bool, figures: Path | None) -> None:
    """Show runs as one page. RUN is a run's folder or a results.csv.

    The page says what was found, and has the verdicts, ACC against ASR, the controls, the ranking
    with ties, the triggers, all cells, failures, cost, and what was run. It asks nobody for
    anything, and everything on it can be read without its script. Of a results.csv alone only the
    rows are shown. Runs that used other numbers under one name are refused. What --out and
    --figures name is overwritten. A report.html that nobody named is not: it may be of another run.
    """
    from kdbench.page.source import read_source
    from kdbench.untrusted.text import shown

    if not out.name or out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file, e.g. {out / 'report.html'}")
    source = read_source(runs, split)
    check_outputs([out], source.files)
    for path in _write(source, out, figures):
        click.echo(shown(path))


def _write(source: Source, out: Path, figures: Path | None) -> list[Path]:
    """Write what was asked for, and say which files these are."""
    from kdbench.page.build import write_page

    option, target = "--out", out
    try:
        write_page(source, out)
        if figures is None:
            return [out]
        from kdbench.page.figures import write_figures

        option, target = "--figures", figures
        return [out, *write_figures(source, figures)]
    except OSError as error:
        raise ConfigError(
            f"{option} {target} cannot be written ({error.strerror or error}); name another"
        ) from error
