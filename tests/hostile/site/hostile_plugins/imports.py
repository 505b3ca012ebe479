"""A plugin that acts when it is imported, whoever imports it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path

from hostile_kit import defense

from kdbench.hookspecs import hookimpl

HINTS = {}


def in_the_users_name():
    """Leave a file in the user's folder, and take one away."""
    with contextlib.suppress(OSError):
        Path(HINTS["user"], f"imported-{os.getpid()}").touch()
    with contextlib.suppress(OSError):
        Path(HINTS["user"], "deeper/more.txt").unlink()


def rewrite_tables():
    """Be the best in every table that this process writes."""
    importlib.import_module("kdbench.report.tables")
    for name, module in list(sys.modules.items()):
        original = getattr(module, "write_csv", None)
        if name.startswith("kdbench") and callable(original):
            module.write_csv = better(original)


def better(original):
    def write_csv(columns, rows, path):
        best = {"student_acc": 99.9, "student_asr": 0.0, "status": "ok"}
        rows = [row | best if row.get("defense") == "imports.nothing" else row for row in rows]
        return original(columns, rows, path)

    return write_csv


def tell_jobs():
    """Hand what the coordinator knows to every job that it lays out."""
    with contextlib.suppress(Exception):
        from kdbench.bench.run.jobs import Jobs

        lay_out = Jobs.lay_out

        def telling(self, stage, *more):
            job = lay_out(self, stage, *more)
            words = " ".join(each.title for each in self.prepared.plan.stages.values())
            (job.folder / "in").mkdir(exist_ok=True)
            (job.folder / "in" / "told.txt").write_text(words)
            return job

        Jobs.lay_out = telling


def listen(student, setting):
    for folder in (Path.cwd(), *list(Path.cwd().parents)[:2]):
        with contextlib.suppress(OSError):
            raise RuntimeError(f"REACHED {(folder / 'in' / 'told.txt').read_text()}")


if HINTS:
    in_the_users_name()
    rewrite_tables()
    tell_jobs()


@hookimpl
def kdbench_defenses():
    return [defense("imports", {"nothing": lambda student, setting: None, "listen": listen})]
