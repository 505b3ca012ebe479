"""The table of ``kdbench run --profile``."""

from __future__ import annotations

import csv
from pathlib import Path

from rich.console import Console

from kdbench._counted import counted
from kdbench.bench.run.profile import TABLE
from kdbench.cli.display import duration, plain_table, safe, safe_path
from kdbench.training.profiling import PARTS


def print_profile(console: Console, folder: Path, wall: float, workers: int) -> None:
    """Print where the time of each computed stage went, and the share of methods and measurements
    in the time of the run."""
    try:
        with (folder / TABLE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:  # A full disk, for example. The run itself went on.
        console.print(f"profile: {safe_path(folder / TABLE)} could not be written")
        return
    if not rows:
        console.print("profile: no stage was computed, everything was in the store")
        return
    table = plain_table("where the time went (%)", [])
    table.add_column("stage", overflow="fold")
    for header in ("wall", "steps", "ms a step", *PARTS, "MiB"):
        table.add_column(header, justify="right", no_wrap=True)
    working = 0.0
    for row in rows:
        spent = {name: float(row[f"{name}_s"] or 0) for name in PARTS}
        whole, steps = sum(spent.values()), int(float(row["steps"] or 0))
        work = whole - spent["files"]
        working += work
        table.add_row(
            safe(f"{row['number']} {row['title']}"),
            duration(float(row["wall_s"])),
            str(steps),
            f"{1000 * work / steps:.3g}" if steps else "-",
            *(f"{100 * seconds / whole:.1f}" if whole else "-" for seconds in spent.values()),
            f"{float(row['peak_mem_mb']):.0f}",
        )
    console.print(table)
    console.print(
        f"{duration(working)} of {duration(wall)} with {counted(workers, 'worker')}: "
        f"{100 * working / (wall * workers):.1f} % in methods and measurements"
    )
    console.print(f"profile: {safe_path(folder)}", soft_wrap=True)
