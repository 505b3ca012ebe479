"""``kdbench compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbench.cli.junit import check_junit, junit_option, not_written
from kdbench.cli.tell import tell
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from kdbench.report.compared import Comparison

_PATH = click.Path(path_type=Path)


@click.command("compare")
@click.argument("a", metavar="A", type=_PATH)
@click.argument("b", metavar="B", type=_PATH)
@click.option(
    "--split",
    is_flag=True,
    help="Take cells of one name that were made with other numbers for other cells, instead of "
    "refusing them.",
)
@click.option(
    "--fail-if",
    type=click.Choice(["worse"]),
    help="Exit with 1 if B is worse: a student's ASR rose by more than noise, or a cell that was "
    "measured failed.",
)
@junit_option("what both hold; what is worse in B fails")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.pass_context
def compare_command(
    ctx: click.Context,
    a: Path,
    b: Path,
    split: bool,
    fail_if: str | None,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Say what changed from A to B, and whether it is noise. A and B are runs' folders or
    results.csv.

    Every cell that both hold is compared; settings with two or more seeds in both also by their
    means over these seeds. A change is more than noise if it stays so after Holm's correction for
    the number of differences that were looked at. For single cells noise is that of the test images
    only. A and B that used other numbers under one name are refused. Exits with 0 whatever changed
    (but see --fail-if), with 2 where the two cannot be compared or share no cell.
    """
    from kdbench.report.compare import check_shared, compare
    from kdbench.report.read import read_results

    files = read_results(a), read_results(b)
    check_junit(junit, [file.path for file in files])
    comparison = compare(*files, split)
    if as_json:
        from kdbench._files import jsonable

        value = comparison.as_dict() | {"worse": len(comparison.worse)}
        click.echo(json.dumps(jsonable(value), indent=1, sort_keys=True, allow_nan=False))
    else:
        _show(comparison)
    check_shared(comparison, *files)
    if junit is not None:
        from kdbench.report.junit import comparison_as_tests, write_junit

        try:
            write_junit("kdbench compare", comparison_as_tests(comparison, files[0].rows), junit)
        except OSError as error:
            raise ConfigError(not_written(junit, error)) from error
    if fail_if is not None and comparison.worse:
        from kdbench.report.compared import cell_words
        from kdbench.report.junit import why_worse

        tell(f"worse in B: {len(comparison.worse)} of the changes above")
        for change in comparison.worse:
            tell(f"- {cell_words(change.cell)}: {why_worse(change)}")
        ctx.exit(1)


def _show(comparison: Comparison) -> None:
    from kdbench.cli.display import make_console, plain_table, safe
    from kdbench.report.compared import findings, sides

    console = make_console()
    for line in sides(comparison):
        console.print(safe(line), soft_wrap=True)
    for part in findings(comparison):
        if isinstance(part, str):
            console.print(safe(part))
            continue
        table = plain_table(part.title, [])
        for number, heading in enumerate(part.headings):
            right = number in part.numbers
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for row in part.rows:
            table.add_row(*map(safe, row))
        console.print(table)
