"""What happens inside the process of one job: it gives up what it does not need, computes, and
leaves its outcome in a file.

The process is told nothing but a folder. What it may know lies there.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch

from kdbench._files import jsonable
from kdbench.bench.work.job import OUTCOME, TASK, TRACES, Outcome
from kdbench.bench.work.stages import perform, perform_together
from kdbench.bench.work.task import Product, Task
from kdbench.errors import DivergedError
from kdbench.loading.plugin import GROUP
from kdbench.loading.registry import Registry
from kdbench.numerics import device_name, peak_mib
from kdbench.training import Progress
from kdbench.training.profiling import profiled, span
from kdbench.untrusted.confine import confine, device_paths, interpreter_paths
from kdbench.untrusted.text import strip_control

_MESSAGE = 3500  # a pipe takes 4096 bytes at once or not at all
_STEP_EVERY_S = 0.2
_MEMORY_MESSAGES = ("can't allocate memory", "out of memory", "Cannot allocate memory", "bad_alloc")


def ended(error: BaseException, seconds: float = 0.0) -> Outcome:
    """How a job that raised ended."""
    reason = strip_control(f"{type(error).__name__}: {error}")[:2000]
    if isinstance(error, DivergedError):
        return Outcome("diverged", reason, seconds)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        part in str(error) for part in _MEMORY_MESSAGES
    )
    return Outcome("out of memory" if memory else "failed", reason, seconds)


def attempt(
    tasks: Sequence[Task], registry: Callable[[], Registry], progress: Sequence[Progress]
) -> list[Outcome]:
    """Compute a task, or several that share their teacher; whatever a plugin raises, even
    SystemExit, is an outcome. Tracebacks go to standard error. The time of several is divided among
    them."""
    start = time.perf_counter()
    found: list[Product | BaseException]
    try:
        with span("files"):
            methods = registry()
        if len(tasks) == 1:
            found = [perform(tasks[0], methods, progress[0])]
        else:
            found = list(perform_together(tasks, methods, progress))
    except (Exception, SystemExit) as error:
        found = [error] * len(tasks)
    seconds = (time.perf_counter() - start) / len(tasks)
    return [
        _outcome(task, one, seconds, len(tasks)) for task, one in zip(tasks, found, strict=True)
    ]


def _outcome(task: Task, found: Product | BaseException, seconds: float, together: int) -> Outcome:
    try:
        if isinstance(found, BaseException):
            raise found
        facts = jsonable(found.facts)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return ended(error, seconds)
    facts["device"] = device_name(torch.device(task.device))
    if together > 1:
        facts["cohort"] = together
    return Outcome("ok", "", seconds, peak_mib(torch.device(task.device)), facts, found.files)


class _Reporter:
    """Sends steps to the coordinator, a few a second. ``place``: whose, among those of its
    process."""

    def __init__(self, send: Callable[[dict[str, Any]], None], place: int) -> None:
        self._send, self._place, self._next = send, place, 0.0

    def step(
        self, *, epoch: int, epochs: int, done: int, total: int, loss: float | None, images: int
    ) -> None:
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + _STEP_EVERY_S
            values = {
                "epoch": epoch,
                "epochs": epochs,
                "done": done,
                "total": total,
                "loss": loss,
                "images": images,
            }
            self._send({"step": jsonable(values), "place": self._place})


def run(folder: Path, token: str, events: int) -> None:
    """Body of the process. ``events``: a pipe on which lines of JSON are sent, each marked with the
    job's ``token``."""

    def send(message: dict[str, Any]) -> None:
        line = json.dumps({"job": token, **message}).encode() + b"\n"
        if len(line) <= _MESSAGE:
            os.write(events, line)

    os.chdir(folder)
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    for name in ("TMPDIR", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ[name] = str(temporary)
    faulthandler.enable()  # a crash leaves its traceback in the log
    told = json.loads((folder / TASK).read_text())
    (folder / TASK).unlink()
    reads = [Path(path) for path in told.pop("reads")]
    sys.path.append(str(folder / "plugins"))  # one-off plugins, each in a file
    tasks = [told, *told.pop("beside")]
    points = {name: value for task in tasks for name, value in task.pop("points").items()}
    writes = [Path(task["folder"]) for task in tasks]
    wall = "none"
    if told.pop("confine"):
        wall = confine([*interpreter_paths(), *reads], [*writes, Path("/dev/shm"), *device_paths()])
    os.environ["HOME"] = str(temporary)
    made = [make_task(task) for task in tasks]
    torch.set_num_threads(made[0].threads)
    found = [EntryPoint(name, value, GROUP) for name, value in points.items()]
    reporters = [_Reporter(send, place) for place in range(len(made))]
    with (
        profiled(folder / TRACES, torch.device(made[0].device))
        if told["profile"]
        else nullcontext() as profile
    ):
        outcomes = attempt(made, lambda: Registry.load(found), reporters)
        if profile is not None:
            for outcome in outcomes:
                outcome.facts["profile"] = profile.facts(among=len(made))
    sys.stdout.flush()
    sys.stderr.flush()
    reports = [asdict(outcome) for outcome in outcomes]
    for report in reports:
        report["facts"]["confinement"] = wall
    (folder / OUTCOME).write_text(json.dumps(reports, allow_nan=False))


def make_task(told: dict[str, Any]) -> Task:
    """A task from the JSON that a job carries."""
    known = {f.name for f in fields(Task)}
    values = {name: value for name, value in told.items() if name in known}
    for name in ("mean", "std", "packages"):
        values[name] = tuple(values[name])
    return Task(**values | {"folder": Path(values["folder"])})
