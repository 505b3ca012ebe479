"""``kdbench leaderboard``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbench._counted import counted
from kdbench.cli.outputs import check_outputs
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from kdbench.report.columns import Row
    from kdbench.report.read import ResultsFile

#: The headings of the columns that are shown. "" stands for the two ends of the interval.
_SHOWN = {
    "rank": "rank",
    "defense": "defense",
    "student_asr": "ASR",
    "": "95 % interval",
    "acc_lost": "ACC lost",
    "n_seeds": "seeds",
    "verdict": "verdict",
    "rank_reason": "remark",
}
_SHOWN_OVERALL = {
    "rank": "rank",
    "defense": "defense",
    "worst_attack": "worst attack",
    "student_asr": "ASR",
    "": "95 % interval",
    "acc_lost": "ACC lost",
    "n_seeds": "seeds",
    "n_attacks": "attacks",
    "missing_attacks": "missing",
    "rank_reason": "remark",
}
#: Beside the ranking, whatever that is called.
_PAIRED = "paired.csv"


@click.command("leaderboard")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="leaderboard.csv",
    show_default=True,
    help="The ranking for each attack; beside it, the worst case over attacks goes to "
    "NAME-overall.csv, the defenses one "
    f"against another to {_PAIRED}.",
)
@click.option(
    "--split",
    is_flag=True,
    help="Show rows of one name that were made with other numbers as settings of their own, "
    "instead of refusing them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def leaderboard_command(runs: tuple[Path, ...], out: Path, split: bool, as_json: bool) -> None:
    """Merge runs into one ranking. RUN is a run's folder or a results.csv.

    For each dataset, attack, distiller and pair the defenses are ranked by the student's mean ASR,
    lowest first, and over all attacks by the worst of them. A defense shares the rank of the best
    of its group unless their difference, paired seed by seed, is more than chance; one that loses
    more than 3 points of ACC comes after all that do not; what was not measured at two seeds, or is
    inconclusive, has no rank. Every two defenses are compared too, corrected for the number of
    comparisons. Runs that used other numbers under one name are refused. Numbers that a name does
    not promise stand behind it in brackets. What --out names is overwritten, and the two files
    beside it. A file of the default name is not: it may be of other runs.
    """
    from kdbench.report.leaderboard import write_leaderboard, write_overall
    from kdbench.report.merge import merge
    from kdbench.report.paired import against_control, comparisons, write_paired
    from kdbench.report.read import read_results

    files = [read_results(run) for run in runs]
    rows = merge(files, split)
    compared, control = comparisons(rows), against_control(rows)
    paths = _outputs(out, files)
    try:
        write_leaderboard(rows, paths[0])
        write_overall(rows, paths[1])
        write_paired([*compared, *control], paths[2])
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror or error}); name another file"
        ) from error
    if as_json:
        _print_json(rows, compared, control, paths)
    else:
        _show(rows, compared, control, paths, sum(len(file.rows) for file in files), len(files))


def _outputs(out: Path, files: list[ResultsFile]) -> tuple[Path, Path, Path]:
    """The three files to write.

    Raises:
        ConfigError: ``out`` is a folder or has the name of another of the three, or one of them may
            not be written over.
    """
    if not out.name or out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file, e.g. {out / 'leaderboard.csv'}")
    if out.name == _PAIRED:
        raise ConfigError(
            f"--out {out}: {_PAIRED} is for the comparisons of the defenses; name another file"
        )
    paths = out, out.with_name(f"{out.stem}-overall{out.suffix}"), out.with_name(_PAIRED)
    check_outputs(paths, [file.path for file in files])
    return paths


def _print_json(
    rows: list[Row], compared: list[Row], control: list[Row], paths: tuple[Path, ...]
) -> None:
    from kdbench._files import jsonable
    from kdbench.report.leaderboard import as_records, leaderboard, overall
    from kdbench.report.notes import notes

    value = {
        "files": [str(path) for path in paths],
        "rows": len(rows),
        "leaderboard": as_records(leaderboard(rows)),
        "overall": as_records(overall(rows)),
        "comparisons": compared,
        "against_c1": control,
        "notes": notes(rows, compared),
    }
    click.echo(json.dumps(jsonable(value), indent=1, sort_keys=True, allow_nan=False))


def _show(
    rows: list[Row],
    compared: list[Row],
    control: list[Row],
    paths: tuple[Path, ...],
    read: int,
    files: int,
) -> None:
    from kdbench.cli.display import make_console, safe, safe_path
    from kdbench.report.leaderboard import as_records, leaderboard, overall
    from kdbench.report.notes import notes
    from kdbench.report.settings import SHARED, TASK

    console = make_console()
    _show_groups(console, as_records(leaderboard(rows)), TASK, _SHOWN)
    _show_groups(console, as_records(overall(rows)), SHARED, _SHOWN_OVERALL)
    _show_comparisons(console, compared, "ASR, one defense against another")
    _show_comparisons(
        console, control, "ASR, what the trigger does to any network (C1) against each defense"
    )
    if compared or control:
        console.print(
            "Comparisons are paired by seeds; a tie is a difference that is no more than chance "
            "(Holm, in each of the two "
            "kinds: the chance of a false finding anywhere is at most 5 %). ACC too is in the file."
        )
    console.print(
        "ASR: of the student, mean over seeds. Equal ranks: the paired difference from the best of "
        "the group may be 0."
    )
    twice = f", {read - len(rows)} of them twice and counted once" if read > len(rows) else ""
    console.print(f"{counted(read, 'row')} from {counted(files, 'file')}{twice}")
    for note in notes(rows, compared):
        console.print(f"note: {safe(note)}")
    console.print(f"leaderboard: {', '.join(safe_path(path) for path in paths)}", soft_wrap=True)


def _show_groups(
    console: Console, records: list[Row], names: tuple[str, ...], shown: dict[str, str]
) -> None:
    """A table for each group of records that are ranked together."""
    from kdbench.cli.display import plain_table, safe
    from kdbench.report.settings import defense_label, told_apart

    end = "" if "attack" in names else ": worst case over attacks"
    for title, members in _titled(records, names):
        table = plain_table(safe(f"{title}{end}"), shown.values())
        defenses = told_apart(map(defense_label, members), members, ("defense_digest",))
        for record, defense in zip(members, defenses, strict=True):
            table.add_row(*(safe(_cell(record | {"defense": defense}, name)) for name in shown))
        console.print(table)
        console.print()


def _titled(records: list[Row], names: tuple[str, ...]) -> Iterator[tuple[str, list[Row]]]:
    """Groups of records, each with the names and numbers that it has in common, in words."""
    from kdbench.report.paired import grouped
    from kdbench.report.settings import attack_label, shared_label, told_apart

    digests = ("shared_digest", *(["attack_digest"] if "attack" in names else []))
    groups = grouped(records, ["schema", *names, *digests]).values()
    firsts = [members[0] for members in groups]
    titles = []
    for first in firsts:
        words = [attack_label(first) if name == "attack" else str(first[name]) for name in names]
        titles.append(" / ".join(words) + shared_label(first))
    yield from zip(told_apart(titles, firsts, digests), groups, strict=True)


def _show_comparisons(console: Console, compared: list[Row], what: str) -> None:
    """A line for the ASR of every two defenses. The ACC is in the file."""
    from kdbench.cli.display import plain_table, safe
    from kdbench.report.paired import side_label
    from kdbench.report.settings import TASK

    shown = [record for record in compared if record["metric"] == "student_asr"]
    for title, members in _titled(shown, TASK):
        table = plain_table(safe(f"{title}: {what}"), ["A", "B"])
        for heading in ("ASR of A", "of B", "B - A", "95 % interval", "p (Holm)", "seeds"):
            table.add_column(heading, justify="right", overflow="fold")
        table.add_column("finding", overflow="fold")
        for record in members:
            table.add_row(
                *(safe(side_label(record, side)) for side in "ab"),
                *(f"{record[name]:.1f}" for name in ("a", "b")),
                f"{record['difference']:+.1f}",
                f"{record['low']:+.1f} to {record['high']:+.1f}",
                f"{record['p_holm']:.2g}",
                str(record["n_seeds"]),
                safe(record["finding"])
                + ("" if record["same_teachers"] else " (not the same teachers)"),
            )
        console.print(table)
        console.print()


def _cell(record: Row, name: str) -> str:
    if name == "":
        low, high = record["rank_low"], record["rank_high"]
        return "-" if low is None or high is None else f"{low:.1f} to {high:.1f}"
    value = record[name]
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
