"""Settings over seeds, and what the leaderboard makes of them, for tests of the rankings."""

from __future__ import annotations

import csv

from click.testing import CliRunner

from kdbench.cli import main
from kdbench.report.leaderboard import leaderboard
from kdbench.report.tables import write_results
from tests.report.report_rows import cell


def seeds(n=2, **values):
    """One setting at n seeds, equal ones."""
    return [cell(seed=s, **values) for s in range(n)]


def setting(defense, hits, **values):
    """One setting with these hits of 900 at seeds 0, 1, ..."""
    return [cell(defense=defense, seed=s, student_asr=n, **values) for s, n in enumerate(hits)]


def ranks(rows, **only):
    """defense: rank (None without one)."""
    records = leaderboard(rows).astype({"rank": object}).to_dict("records")
    chosen = [r for r in records if all(r[name] == value for name, value in only.items())]
    return {r["defense"]: r["rank"] if isinstance(r["rank"], int) else None for r in chosen}


def line(table, **only):
    (found,) = (
        r for r in table.to_dict("records") if all(r[name] == value for name, value in only.items())
    )
    return found


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def call(*arguments):
    return CliRunner().invoke(main, ["leaderboard", *map(str, arguments)])


def paired(folder):
    """The comparisons of defenses in a folder's paired.csv, those with C1 left out."""
    return [r for r in read(folder / "paired.csv") if r["defense_a"] != "C1"]


def save(folder, rows):
    folder.mkdir(exist_ok=True)
    write_results(rows, folder / "results.csv")
    return folder
