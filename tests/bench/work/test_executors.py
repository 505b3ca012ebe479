"""``--executor``: who computes, and what a debugger reaches."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

from kdbench.bench.work.executors.inline import InlineExecutor
from kdbench.bench.work.executors.local import JobLimits, LocalExecutor
from kdbench.bench.work.executors.make import EXECUTORS, make_executor
from tests import forked
from tests.failing_plugin import TINY

PLUGIN = """
from kdbench.defense import Defense
from kdbench.hookspecs import hookimpl
from kdbench.method import Info
from kdbench_none.method import NoDefense

class Halts(NoDefense):
    info = Info("halts", "title", "authors", "venue", 2020, "https://example.org")

    def cleanse_teacher(self, teacher, setting):
        secret = 6 * 7
        breakpoint()
        return teacher

@hookimpl
def kdbench_defenses():
    return [Halts]
"""


def kdbench(folder, *arguments, said=""):
    """The command line as a user would call it, with a terminal's input."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONBREAKPOINT"}
    environment["KDBENCH_STORE"] = str(folder / "store")
    return forked.run(arguments, env=environment, cwd=folder, said=said)


@pytest.fixture
def halting(tmp_path):
    """The options of a run whose defense calls ``breakpoint()``."""
    (tmp_path / "halting.py").write_text(PLUGIN)
    return [*TINY, "--plugin-file", "halting.py", "--defense", "halts", "--no-controls"]


def test_each_name_makes_its_executor(registry):
    made = {name: make_executor(name, lambda: registry, JobLimits(seconds=5)) for name in EXECUTORS}
    assert {name: type(executor) for name, executor in made.items()} == {
        "local": LocalExecutor,
        "inline": InlineExecutor,
    }
    assert made["local"].limits == JobLimits(seconds=5)
    assert {name: executor.apart for name, executor in made.items()} == {
        "local": True,
        "inline": False,
    }
    for executor in made.values():
        executor.use(3, ("0", "1"))
    assert (made["local"].jobs, made["local"].devices) == (3, ("0", "1"))
    assert made["inline"].jobs == 1


def test_plugins_are_loaded_here_only_for_jobs_that_are_computed_here():
    make_executor("local", lambda: pytest.fail("loaded"))


def test_a_debugger_in_a_plugin_is_reached_and_nothing_claims_confinement(halting, tmp_path):
    inline = ("--executor", "inline", "--store", "debug")
    done = kdbench(tmp_path, *halting, *inline, "--out", "out", said="p secret\nc\n")
    assert done.returncode == 0, done.stderr
    assert "(Pdb) 42" in done.stdout
    assert "attacker and defender share this process" in done.stderr
    assert pd.read_csv(tmp_path / "out" / "results.csv").status.tolist() == ["ok"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    walls = {stage["facts"].get("confinement") for stage in record["stages"]}
    assert walls == {record["confinement"]} == {"none (inline: both sides in one process)"}
    # What was computed without walls says so in a later run, too, that is given its store.
    later = kdbench(tmp_path, *halting, "--store", "debug", "--out", "later")
    assert later.returncode == 0, later.stderr
    record = json.loads((tmp_path / "later" / "run.json").read_text())
    assert record["confinement"] == "none (inline: both sides in one process)"


def test_in_a_process_of_its_own_a_job_has_no_terminal(halting, tmp_path):
    done = kdbench(tmp_path, *halting, "--out", "out", said="c\n")
    assert done.returncode == 1
    assert "(Pdb)" not in done.stdout
    assert pd.read_csv(tmp_path / "out" / "results.csv").status.tolist() == ["failed"]
