"""``kdbench compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench._counted import counted
from kdbench.cli.junit import check_junit, junit_option, not_written
from kdbench.cli.tell import tell
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from kdbench.report.columns import Row
    from kdbench.report.compare import Change, Comparison, Family

_PATH = click.Path(path_type=Path)
#: Cells that only one file has, shown by name.
_LISTED = 20


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
    names = [str(file.path) for file in files]
    if as_json:
        from kdbench._files import jsonable

        value = {"a": names[0], "b": names[1], **comparison.as_dict()}
        value["worse"] = len(comparison.worse)
        click.echo(json.dumps(jsonable(value), indent=1, sort_keys=True, allow_nan=False))
    else:
        _show(comparison, names)
    check_shared(comparison, *files)
    if junit is not None:
        from kdbench.report.junit import comparison_as_tests, write_junit

        try:
            write_junit("kdbench compare", comparison_as_tests(comparison, files[0].rows), junit)
        except OSError as error:
            raise ConfigError(not_written(junit, error)) from error
    if fail_if is not None and comparison.worse:
        from kdbench.report.junit import why_worse

        tell(f"worse in B: {len(comparison.worse)} of the changes above")
        for change in comparison.worse:
            tell(f"- {_words(change.cell)}: {why_worse(change)}")
        ctx.exit(1)


def _show(comparison: Comparison, names: list[str]) -> None:
    from kdbench.cli.display import make_console, safe, safe_path
    from kdbench.report.noise import LEVEL

    console = make_console()
    for letter, name in zip("AB", names, strict=True):
        console.print(f"{letter}: {safe_path(name)}", soft_wrap=True)
    console.print(f"cells in both: {comparison.shared}")
    for letter, cells in (("A", comparison.only_in_a), ("B", comparison.only_in_b)):
        for cell in cells[:_LISTED]:
            console.print(f"only in {letter}: {safe(_words(cell))}")
        if len(cells) > _LISTED:
            console.print(f"only in {letter}: {len(cells) - _LISTED} more; --json names them all")
    noises = {
        "single cells": (
            comparison.cells,
            "that of the test images; another training seed may change more",
        ),
        "means over seeds": (comparison.over_seeds, "the spread between seeds, paired"),
    }
    for title, (family, noise) in noises.items():
        if family.compared or family.changes:
            _show_family(console, title, family)
            tested = [change for change in family.changes if change.p is not None]
            beyond = sum(change.more_than_noise is True for change in tested)
            console.print(
                f"{title}: {counted(family.compared, 'number')} compared, {len(tested)} of them "
                f"changed, {beyond} by more than noise "
                f"(Holm: the chance of a false alarm anywhere is at most {100 * LEVEL:.0f} %). "
                f"Noise: {noise}."
            )
    if comparison.others:
        columns = [f"{other['column']} in {other['cells']}" for other in comparison.others]
        console.print(
            f"also changed, not tested, of {counted(comparison.shared, 'cell')}: "
            f"{', '.join(columns)}"
        )
    _show_causes(console, comparison)


def _show_family(console: Console, title: str, family: Family) -> None:
    from kdbench.cli.display import plain_table, safe

    if not family.changes:
        return
    table = plain_table(f"what changed, {title}", ["setting", "what"])
    for heading in ("A", "B", "B - A", "95 % interval", "p (Holm)"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("more than noise")
    previous = None
    for change in family.changes:
        # The name of a cell stands on the first of its lines only.
        table.add_row(
            "" if change.cell == previous else safe(_words(change.cell)),
            change.column,
            *(safe(_value(value)) for value in (change.a, change.b)),
            *_difference(change),
            {True: "yes", False: "no", None: ""}[change.more_than_noise],
        )
        previous = change.cell
    console.print(table)


def _difference(change: Change) -> tuple[str, str, str]:
    """B - A, its interval and its corrected error probability, empty where there is no number."""
    if change.difference is None:
        return "", "", ""
    interval = f"{change.low:+.1f} to {change.high:+.1f}"
    return f"{change.difference:+.1f}", interval, f"{change.p_holm:.2g}"


def _show_causes(console: Console, comparison: Comparison) -> None:
    from kdbench.cli.display import safe

    for cause in comparison.causes:
        values = (
            ""
            if cause["a"] is None and cause["b"] is None
            else f": {_value(cause['a'])} in A, {_value(cause['b'])} in B"
        )
        console.print(
            f"possible cause: {safe(cause['column'])} differs in {cause['cells']} of "
            f"{counted(comparison.shared, 'cell')}{safe(values)}"
        )
    if comparison.cells.changes and not comparison.causes:
        console.print(
            "no cause is recorded: parameters, machine, software and teachers are the same by "
            "their digests"
        )


def _words(cell: Row) -> str:
    """A cell, or a setting over its seeds, in one line."""
    seeds = cell.get("seeds", [cell.get("seed")])
    end = f"seed {seeds[0]}" if "seed" in cell else f"seeds {', '.join(map(str, seeds))}"
    names = [str(v) for name, v in cell.items() if name not in ("seed", "seeds", "changed")]
    changed = f" [{cell['changed']}]" if "changed" in cell else ""
    return " / ".join([*names, end]) + changed


def _value(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
