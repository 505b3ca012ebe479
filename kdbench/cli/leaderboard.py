"""``kdbench leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from kdbench.report.read import Results

#: Column of the leaderboard: heading.
_SHOWN = {"rank": "rank", "defense": "defense", "student_asr": "ASR", "": "95 % interval", "acc_lost": "ACC lost"}
_SHOWN |= {"n_seeds": "seeds", "verdict": "verdict", "rank_reason": "remark"}
_SHOWN_OVERALL = {"rank": "rank", "defense": "defense", "worst_attack": "worst attack", "student_asr": "ASR"}
_SHOWN_OVERALL |= {"": "95 % interval", "acc_lost": "ACC lost", "n_seeds": "seeds", "n_attacks": "attacks"}
_SHOWN_OVERALL |= {"missing_attacks": "missing", "rank_reason": "remark"}


@click.command("leaderboard")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="leaderboard.csv",
    show_default=True,
    help="The ranking for each attack; the worst case over attacks goes to a second file, NAME-overall.csv.",
)
def leaderboard_command(runs: tuple[Path, ...], out: Path) -> None:
    """Merge runs into one ranking. RUN is a run's folder or a results.csv.

    For each dataset, attack, distiller and pair the defenses are ranked by the student's mean ASR, lowest first, and over all
    attacks by the worst of them. Defenses whose intervals overlap that of the best of their group share its rank; a defense
    that loses more than 3 points of ACC comes after all that do not; what was not measured, or is inconclusive, has no rank.
    Files that exist are overwritten.
    """
    from kdbench.report.leaderboard import write_leaderboard, write_overall
    from kdbench.report.read import merge, read_results

    files = [read_results(run) for run in runs]
    rows = merge(files)
    paths = _outputs(out, files)
    try:
        write_leaderboard(rows, paths[0])
        write_overall(rows, paths[1])
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror or error}); name another file") from error
    _show(rows, paths, sum(len(file.rows) for file in files), len(files))


def _outputs(out: Path, files: list[Results]) -> tuple[Path, Path]:
    """The two files to write.

    Raises:
        ConfigError: ``out`` is a folder, or one of them was read.
    """
    if not out.name or out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file, e.g. {out / 'leaderboard.csv'}")
    paths = out, out.with_name(f"{out.stem}-overall{out.suffix}")
    read = {file.path.resolve() for file in files}
    for path in paths:
        if path.resolve() in read:
            raise ConfigError(f"--out would overwrite {path}, which is one of the runs; name another file")
    return paths


def _show(rows: list[dict[str, Any]], paths: tuple[Path, ...], read: int, files: int) -> None:
    from kdbench.cli.display import make_console, safe
    from kdbench.report.leaderboard import leaderboard, overall
    from kdbench.report.notes import notes

    console = make_console()
    summary, worst = leaderboard(rows), overall(rows)
    _show_groups(console, summary.to_dict("records"), ("attack", "distiller", "teacher", "student"), _SHOWN)
    _show_groups(console, worst.to_dict("records"), ("distiller", "teacher", "student"), _SHOWN_OVERALL)
    console.print("ASR: of the student, mean over seeds. Equal ranks: the intervals overlap that of the best of the group.")
    twice = f", {read - len(rows)} of them twice and counted once" if read > len(rows) else ""
    console.print(f"{read} rows from {files} file{'s' if files > 1 else ''}{twice}")
    for note in notes(rows, summary):
        console.print(f"note: {safe(note)}")
    console.print(f"leaderboard: {safe(paths[0])}, {safe(paths[1])}", soft_wrap=True)


def _show_groups(console: Console, records: list[dict[str, Any]], names: tuple[str, ...], shown: dict[str, str]) -> None:
    """One table for what is ranked together."""
    from kdbench.cli.display import plain_table, safe

    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        title = " / ".join(str(record[name]) for name in ("dataset", *names, "preset"))
        groups.setdefault(title if "attack" in names else f"{title}: worst case over attacks", []).append(record)
    for title, members in groups.items():
        table = plain_table(safe(title), shown.values())
        for record in members:
            table.add_row(*(safe(_cell(record, name)) for name in shown))
        console.print(table)
        console.print()


def _cell(record: dict[str, Any], name: str) -> str:
    import pandas as pd

    if name == "":
        low, high = record["rank_low"], record["rank_high"]
        return "-" if pd.isna(low) or pd.isna(high) else f"{low:.1f} to {high:.1f}"
    value = record[name]
    if pd.isna(value):
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
