"""Jobs whose plugin takes over their process when it is imported."""

from __future__ import annotations

import time
from pathlib import Path

from kdbench.bench.kinds import Kind
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.bench.work.job import BOX, IN, OUT, PLUGINS, Done, Job, Outcome, Progressed
from tests.bench.work.tasks import task_record

#: The plugin finds the way to the coordinator, as a hostile one would.
_PREAMBLE = """
import gc, json, os, signal, socket, subprocess, sys, time

BOX = os.getcwd()
channel = next(thing for thing in gc.get_objects() if isinstance(thing, socket.socket)
               and thing.family == socket.AF_UNIX and thing.fileno() >= 0)
STEP = {"place": 0, "epoch": 1, "epochs": 2, "done": 3, "total": 4, "images": 5, "loss": 0.5}
GOOD = {"status": "ok", "facts": {"loss": 0.5}}

def say(*values):
    for value in values:
        channel.sendall(json.dumps(value).encode() + b"\\n")

def end(*outcomes):
    say({"outcomes": [GOOD | outcome for outcome in outcomes or ({},)]})
    os._exit(0)

"""


def job(folder: Path, code: str = "end()", key: str = "key", kind=Kind.DISTILL, **changes) -> Job:
    """A job in whose process ``code`` runs, before anything else of a plugin."""
    for name in (IN, PLUGINS, f"{BOX}/{OUT}"):
        (folder / name).mkdir(parents=True)
    (folder / PLUGINS / "hostile_plugin.py").write_text(_PREAMBLE + code)
    task = task_record(folder, kind, points={"hostile": "hostile_plugin"})
    return Job(key, kind, "title", folder, task, **changes)


def carry_out(executor: LocalExecutor, *jobs: Job) -> tuple[dict[str, Outcome], list[Progressed]]:
    """(the outcome of each job, the steps). Each job ends once, and without waiting for a limit."""
    outcomes: dict[str, Outcome] = {}
    steps: list[Progressed] = []
    for each in jobs:
        executor.start(each)
    keys = {member.key for each in jobs for member in (each, *each.beside)}
    begin = time.monotonic()
    while outcomes.keys() != keys:
        assert time.monotonic() - begin < 600, "it never ended"
        for event in executor.wait(200.0):
            if isinstance(event, Done):
                assert event.key not in outcomes, "it ended twice"
                outcomes[event.key] = event.outcome
            else:
                steps.append(event)
    assert executor.wait(0.0) == []
    return outcomes, steps
