"""Four runs of one request over one store, as the tasks of a job array have it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pandas as pd
import pytest

from kdbench.bench.store.locks import lock_warning
from tests import forked
from tests.failing_plugin import TINY

RUNS = 4
PATIENCE_S = 600
#: What a stage that was computed twice has twice.
ABOUT_THE_MACHINE = ["wall_s", "peak_mem_mb"]
#: No controls: three trainings and two measurements are enough to get into each other's way.
REQUEST = (*TINY, "--no-controls", "--quiet")


def started(folder, number, *, locks):
    environment = {**os.environ, "KDBENCH_STORE": str(folder / "store")}
    arguments = (*REQUEST, "--out", str(folder / f"out{number}"))
    with open(folder / f"log{number}", "wb") as log:
        streams = {"stdout": log.fileno(), "stderr": log.fileno()}
        if locks:
            return forked.start(arguments, env=environment, cwd=folder, **streams)
        command = [sys.executable, str(Path(__file__).with_name("unlocked.py")), *arguments]
        return subprocess.Popen(command, env=environment, cwd=folder, **streams)


def run_all(folder, *, locks):
    """(the numbers of each run, how many stages all of them computed)."""
    runs = [started(folder, number, locks=locks) for number in range(RUNS)]
    codes = [run.wait(PATIENCE_S) for run in runs]
    assert codes == [0] * RUNS, (folder / "log0").read_text()
    folders = [folder / f"out{number}" for number in range(RUNS)]
    records = [json.loads((out / "run.json").read_text()) for out in folders]
    computed = [s["key"] for r in records for s in r["stages"] if s["status"] == "ok"]
    tables = [pd.read_csv(out / "results.csv").drop(columns=ABOUT_THE_MACHINE) for out in folders]
    return tables, computed


@pytest.mark.parametrize("locks", [True, False])
def test_runs_over_one_store_share_the_work_and_have_one_table(tmp_path, locks):
    tables, computed = run_all(tmp_path, locks=locks)
    assert tables[0].status.tolist() == ["ok"]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    if locks:
        assert len(computed) == len(set(computed)), "each stage once"


def test_locks_that_everybody_gets_are_noticed(tmp_path, monkeypatch):
    assert lock_warning(tmp_path) == ""
    monkeypatch.setattr(
        "filelock.FileLock.acquire",
        lambda self, *arguments, **options: filelock.AcquireReturnProxy(self),
    )
    assert lock_warning(tmp_path).startswith("Locks do not work in the store's file system")
    assert list(tmp_path.iterdir()) == []
