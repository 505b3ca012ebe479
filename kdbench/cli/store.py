"""``kdbench store ls|verify|gc``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from kdbench._counted import counted
from kdbench.cli.number import Number
from kdbench.cli.request import store_option
from kdbench.errors import IntegrityError


@click.group("store")
def store_command() -> None:
    """Look after what was computed."""


@store_command.command("ls")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def ls_command(store_dir: Path | None, as_json: bool) -> None:
    """List what the store holds, oldest first."""
    from kdbench.bench.store.artefacts import Store
    from kdbench.cli.display import duration, make_console, plain_table, safe, safe_path

    store = Store(store_dir)
    manifests = sorted(filter(None, map(store.find, store)), key=lambda m: m.made)
    if as_json:
        for m in manifests:
            record = {
                "key": m.key,
                "kind": m.kind,
                "title": m.title,
                "made": m.made,
                "seconds": m.seconds,
                "bytes": m.size,
            }
            click.echo(json.dumps(record))
        return
    console = make_console()
    table = plain_table("", ["key", "kind", "made", "took", "MiB", "title"])
    for m in manifests:
        if m.kind != "row":  # Rows are small and many, so they are only counted.
            table.add_row(
                m.key[:12],
                m.kind,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(m.made)),
                duration(m.seconds),
                f"{m.size / 2**20:.1f}",
                safe(m.title),
            )
    console.print(table)
    rows = sum(m.kind == "row" for m in manifests)
    total = sum(m.size for m in manifests) / 2**20
    console.print(
        f"{safe_path(store.root)}: "
        f"{counted(len(manifests) - rows, 'result')}, {counted(rows, 'row')}, {total:.1f} MiB",
        soft_wrap=True,
    )


@store_command.command("verify")
@store_option
def verify_command(store_dir: Path | None) -> None:
    """Compare every file with its SHA-256, and the rates of every row with its counts; what is
    damaged is put aside. Exits with 4 if anything was. This finds damage, not forgery."""
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.care import verify
    from kdbench.bench.store.vault import root_warning

    store = Store(store_dir)
    if warning := root_warning(store.root):
        click.echo(warning, err=True)
    whole, damaged = verify(store)
    if damaged:
        names = ", ".join(key[:12] for key in damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        raise IntegrityError(
            f"{len(damaged)} of {counted(whole + len(damaged), 'artefact')}: damaged ({names}), "
            f"put aside in {store.vault / 'damaged'} and computed again when needed"
        )
    click.echo(
        f"{counted(whole, 'artefact')}, no damage found\n"
        "Whoever may write the store can also forge a result and its digests. Only computing a row "
        "again finds that: see `kdbench verify --help`."
    )


@store_command.command("gc")
@store_option
@click.option(
    "--days",
    type=Number(min=0),
    default=14.0,
    show_default=True,
    help="Unfinished work is kept so long.",
)
@click.option(
    "--unused-days",
    type=Number(min=0),
    help="Delete results, too, that no run asked for in so many days; imported teachers stay as "
    "long as they have a name.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def gc_command(
    store_dir: Path | None, days: float, unused_days: float | None, dry_run: bool
) -> None:
    """Delete what nobody needs: leftovers of killed runs, what was put aside and, on demand, old
    results."""
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.care import garbage
    from kdbench.untrusted.box import remove_tree

    store = Store(store_dir)
    freed, count = 0, 0
    for path in garbage(store, days, unused_days):
        count += 1
        if not dry_run:
            freed += remove_tree(path)
    click.echo(
        f"{counted(count, 'entry')} would be deleted"
        if dry_run
        else f"{counted(count, 'entry')} deleted, {freed / 2**20:.1f} MiB freed"
    )
