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
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch

from kdbench._files import jsonable
from kdbench.bench.kinds import Kind
from kdbench.bench.work.job import OUTCOME, TASK, TRACES, Outcome
from kdbench.bench.work.stages import perform, perform_together
from kdbench.bench.work.task import Product, Task
from kdbench.errors import DivergedError
from kdbench.loading.plugin import GROUP
from kdbench.loading.registry import Registry
from kdbench.numerics import device_name, peak_mib
from kdbench.training import Progress, Step
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
    products: list[Product | BaseException]
    try:
        with span("files"):
            methods = registry()
        if len(tasks) == 1:
            products = [perform(tasks[0], methods, progress[0])]
        else:
            products = list(perform_together(tasks, methods, progress))
    except (Exception, SystemExit) as error:
        products = [error] * len(tasks)
    seconds = (time.perf_counter() - start) / len(tasks)
    return [
        _outcome(task, product, seconds, len(tasks))
        for task, product in zip(tasks, products, strict=True)
    ]


def _outcome(
    task: Task, product: Product | BaseException, seconds: float, together: int
) -> Outcome:
    try:
        if isinstance(product, BaseException):
            raise product
        facts = jsonable(product.facts)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return ended(error, seconds)
    facts["device"] = device_name(torch.device(task.device))
    if together > 1:
        facts["cohort"] = together
    return Outcome("ok", "", seconds, peak_mib(torch.device(task.device)), facts, product.files)


class _Throttled:
    """Hands on a few steps a second, and the last of each training."""

    def __init__(self, hand_on: Callable[[Step], None]) -> None:
        self._hand_on, self._next = hand_on, 0.0

    def step(self, step: Step) -> None:
        now = time.monotonic()
        if now >= self._next or step.done == step.total:
            self._next = now + _STEP_EVERY_S
            self._hand_on(step)


def compute(
    records: Sequence[dict[str, Any]],
    registry: Callable[[], Registry],
    progressed: Callable[[int, Step], None],
    confinement: str,
) -> list[Outcome]:
    """Compute the tasks of a job and of those beside it in this process.

    Args:
        records: a task each, as the jobs carry them.
        progressed: hears of some of the steps, with the place of the task among them.
        confinement: how this process is confined; each outcome says so.
    """
    tasks = [make_task(record) for record in records]
    torch.set_num_threads(tasks[0].threads)
    watchers = [_Throttled(partial(progressed, place)) for place in range(len(tasks))]
    with (
        profiled(tasks[0].folder / TRACES, torch.device(tasks[0].device))
        if records[0]["profile"]
        else nullcontext() as profile
    ):
        outcomes = attempt(tasks, registry, watchers)
        if profile is not None:
            for outcome in outcomes:
                outcome.facts["profile"] = profile.facts(among=len(tasks))
    for outcome in outcomes:
        outcome.facts["confinement"] = confinement
    return outcomes


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
    message = json.loads((folder / TASK).read_text())
    (folder / TASK).unlink()
    reads = [Path(path) for path in message["reads"]]
    sys.path.append(str(folder / "plugins"))  # one-off plugins, each in a file
    records = [message, *message["beside"]]
    values = {name: value for record in records for name, value in record["points"].items()}
    writes = [Path(record["folder"]) for record in records]
    wall = "none"
    if message["confine"]:
        wall = confine([*interpreter_paths(), *reads], [*writes, Path("/dev/shm"), *device_paths()])
    os.environ["HOME"] = str(temporary)
    points = [EntryPoint(name, value, GROUP) for name, value in values.items()]

    def progressed(place: int, step: Step) -> None:
        send({"step": jsonable(asdict(step)), "place": place})

    outcomes = compute(records, lambda: Registry.load(points), progressed, wall)
    sys.stdout.flush()
    sys.stderr.flush()
    reports = [asdict(outcome) for outcome in outcomes]
    (folder / OUTCOME).write_text(json.dumps(reports, allow_nan=False))


def make_task(record: dict[str, Any]) -> Task:
    """A task from the JSON that a job carries."""
    known = {f.name for f in fields(Task)}
    values = {name: value for name, value in record.items() if name in known}
    for name in ("mean", "std", "packages"):
        values[name] = tuple(values[name])
    return Task(**values | {"kind": Kind(values["kind"]), "folder": Path(values["folder"])})
