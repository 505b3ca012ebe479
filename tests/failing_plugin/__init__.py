"""Puts the plugin in this folder on the path of a run, as ``pip install`` would."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests import forked


def plant(folder: Path) -> Path:
    """A folder for PYTHONPATH that holds the plugin and its entry point."""
    site = folder / "site"
    about = site / "kdbench_failing-0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: kdbench-failing\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[kdbench]\nfailing = kdbench_failing\n")
    shutil.copy(Path(__file__).with_name("kdbench_failing.py"), site)
    return site


def environment(site: Path, store: Path) -> dict[str, str]:
    """For a child process with the plugin and a store of its own."""
    return {**os.environ, "PYTHONPATH": str(site), "KDBENCH_STORE": str(store)}


def kdbench(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would."""
    return forked.run(arguments, env=env, cwd=cwd)


#: A cell of seconds: BadNets on the embedded signs, the smallest network, one short epoch of
#: everything.
TINY = (
    "run",
    "--attack",
    "badnets",
    "--pair",
    "wrn10_1-wrn10_1",
    "--train-size",
    "80",
    "--test-size",
    "77",
    "--threads",
    "1",
    *(
        word
        for key in ("clean", "poison", "distill", "repair")
        for word in ("--set", f"{key}.epochs=1")
    ),
    *("--set", "min_teacher_acc=0"),
)
