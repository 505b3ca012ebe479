"""What happens inside the process of one job.

It gives up the rights that it does not need, computes, and leaves its outcome in a file. It is told
nothing but a folder. All that it may know lies there.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch

from kdbench._files import jsonable
from kdbench.bench.kinds import Kind
from kdbench.bench.work.job import BOX, OUTCOME, PLUGINS, TASK, TEMPORARY, TRACES, Outcome
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

#: Longest message. A pipe takes up to 4096 bytes at once, and never a part of them.
_MESSAGE = 3500
#: Seconds between two reports of steps.
_STEP_EVERY_S = 0.2
#: By these words an error is known to be a lack of memory. Libraries raise it as RuntimeError.
_MEMORY_MESSAGES = ("can't allocate memory", "out of memory", "Cannot allocate memory", "bad_alloc")


def ended(error: BaseException, seconds: float = 0.0) -> Outcome:
    """The outcome of a job that raised."""
    reason = strip_control(f"{type(error).__name__}: {error}")[:2000]
    if isinstance(error, DivergedError):
        return Outcome("diverged", reason, seconds)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        part in str(error) for part in _MEMORY_MESSAGES
    )
    return Outcome("out of memory" if memory else "failed", reason, seconds)


def attempt(
    tasks: Sequence[Task],
    registry: Callable[[], Registry],
    progress: Sequence[Progress],
    links: Mapping[str, int],
) -> list[Outcome]:
    """Compute a task, or several tasks that share their teacher.

    Whatever a plugin raises is an outcome, even SystemExit. Tracebacks go to standard error. Tasks
    that are computed together get an equal part of the time.
    """
    start = time.perf_counter()
    products: list[Product | BaseException]
    try:
        with span("files"):
            methods = registry()
        if len(tasks) == 1:
            products = [perform(tasks[0], methods, progress[0], links)]
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
    return Outcome("ok", "", seconds, peak_mib(torch.device(task.device)), facts)


class _Throttled:
    """Hands on a few steps a second, and the last step of each training."""

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
    links: Mapping[str, int],
) -> list[Outcome]:
    """Compute the tasks of a job and of those beside it in this process.

    Args:
        records: a task each, as the jobs carry them.
        progressed: called for some of the steps, with the place of the task in ``records``.
        confinement: how this process is confined. It becomes a fact of each outcome.
        links: companion -> descriptor of the socket that leads to it.
    """
    tasks = [make_task(record) for record in records]
    torch.set_num_threads(tasks[0].threads)
    watchers = [_Throttled(partial(progressed, place)) for place in range(len(tasks))]
    with (
        profiled(tasks[0].box / TRACES, torch.device(tasks[0].device))
        if records[0]["profile"]
        else nullcontext() as profile
    ):
        outcomes = attempt(tasks, registry, watchers, links)
        if profile is not None:
            for outcome in outcomes:
                outcome.facts["profile"] = profile.facts(among=len(tasks))
    for outcome in outcomes:
        outcome.facts["confinement"] = confinement
    return outcomes


def run(folder: Path, token: str, events: int) -> None:
    """Body of the process.

    Args:
        folder: of the job.
        token: marks each message as one of this job.
        events: a pipe for messages, which are lines of JSON.
    """

    def send(message: dict[str, Any]) -> None:
        line = json.dumps({"job": token, **message}).encode() + b"\n"
        if len(line) <= _MESSAGE:
            os.write(events, line)

    box = folder / BOX
    temporary = box / TEMPORARY
    temporary.mkdir(parents=True, exist_ok=True)
    os.chdir(box)
    for name in ("TMPDIR", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ[name] = str(temporary)
    faulthandler.enable()  # a crash leaves its traceback in the log
    message = json.loads((folder / TASK).read_text())
    # A plugin must not find in a file what its stage was told.
    (folder / TASK).unlink()
    reads = [Path(path) for path in message["reads"]]
    sys.path.append(str(folder / PLUGINS))  # one-off plugins, each in a file
    records = [message, *message["beside"]]
    values = {name: value for record in records for name, value in record["points"].items()}
    writes = [Path(record["folder"]) for record in records]
    wall = "none"
    if message["confine"]:
        wall = confine([*interpreter_paths(), *reads], [*writes, Path("/dev/shm"), *device_paths()])
    # Only now: confine has to know the real home folder, so that no rule opens it.
    os.environ["HOME"] = str(temporary)
    points = [EntryPoint(name, value, GROUP) for name, value in values.items()]

    def progressed(place: int, step: Step) -> None:
        send({"step": jsonable(asdict(step)), "place": place})

    outcomes = compute(records, lambda: Registry.load(points), progressed, wall, {})
    sys.stdout.flush()
    sys.stderr.flush()
    reports = [asdict(outcome) for outcome in outcomes]
    (folder / OUTCOME).write_text(json.dumps(reports, allow_nan=False))


def make_task(record: dict[str, Any]) -> Task:
    """A task from the JSON that a job carries."""
    known = {f.name for f in fields(Task)}
    values: dict[str, Any] = {name: value for name, value in record.items() if name in known}
    for name in ("mean", "std"):
        values[name] = tuple(values[name])
    return Task(**values | {"kind": Kind.named(values["kind"]), "folder": Path(values["folder"])})
