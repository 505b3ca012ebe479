"""What happens inside the process of one job, once it is confined.

It computes, and says how it goes on. All that it may know came with its order, and lies in its
folder.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch

from kdbench.bench.kinds import Kind
from kdbench.bench.work.job import PLUGINS, TEMPORARY, TRACES
from kdbench.bench.work.report import (
    REASON,
    HelloReport,
    NonsenseError,
    OutcomeReport,
    OutcomesReport,
    StepReport,
    check_facts,
    clean_facts,
    encode,
)
from kdbench.bench.work.stages import perform, perform_together
from kdbench.bench.work.task import Product, Task
from kdbench.errors import DivergedError, NotLearnedError
from kdbench.loading.candidates import FILE_MODULE, Plugin
from kdbench.loading.plugin import GROUP, interrupted, line_of
from kdbench.loading.registry import Registry
from kdbench.numerics import device_name, peak_mib
from kdbench.training import Progress, Step
from kdbench.training.profiling import profiled, span
from kdbench.untrusted.text import strip_control

#: Seconds between two reports of steps.
_STEP_EVERY_S = 0.2
#: By these words an error is known to be a lack of memory. Libraries raise it as RuntimeError.
_MEMORY_MESSAGES = ("can't allocate memory", "out of memory", "Cannot allocate memory", "bad_alloc")


def run(channel: socket.socket, order: dict[str, Any], links: dict[str, int]) -> None:
    """Body of the process: greet, compute, report.

    Args:
        channel: to the coordinator.
        order: ``tasks``, as the jobs of the process carry them.
        links: companion -> descriptor of the socket that leads to it.
    """
    records = order["tasks"]
    task = make_task(records[0])
    (task.box / TEMPORARY).mkdir(parents=True, exist_ok=True)
    os.chdir(task.box)
    sys.path.append(str(task.folder / PLUGINS))  # one-off plugins, each in a file
    channel.sendall(
        encode(HelloReport(hello=strip_control(device_name(torch.device(task.device)))))
    )

    def progressed(place: int, step: Step) -> None:
        # A method may report what no step can be. That is not worth its training.
        with contextlib.suppress(ValueError):
            channel.sendall(encode(StepReport.of(place, step)))

    values = {name: value for record in records for name, value in record["points"].items()}
    points = [EntryPoint(name, value, GROUP) for name, value in values.items()]
    reports = compute(records, lambda: Registry.load(points), progressed, links)
    sys.stdout.flush()
    sys.stderr.flush()
    channel.sendall(encode(OutcomesReport(outcomes=reports)))


def compute(
    records: Sequence[dict[str, Any]],
    registry: Callable[[], Registry],
    progressed: Callable[[int, Step], None],
    links: Mapping[str, int],
) -> list[OutcomeReport]:
    """Compute the tasks of a job and of those beside it in this process.

    Args:
        records: a task each, as the jobs carry them.
        progressed: called for some of the steps, with the place of the task in ``records``.
        links: companion -> descriptor of the socket that leads to it.
    """
    tasks = [make_task(record) for record in records]
    torch.set_num_threads(tasks[0].threads)
    watchers = [_Throttled(partial(progressed, place)) for place in range(len(tasks))]
    if not records[0]["profile"]:
        return attempt(tasks, registry, watchers, links)
    with profiled(tasks[0].box / TRACES, torch.device(tasks[0].device)) as profile:
        reports = attempt(tasks, registry, watchers, links)
        shares = profile.facts(among=len(tasks))
    return [report.model_copy(update={"profile": shares}) for report in reports]


def attempt(
    tasks: Sequence[Task],
    registry: Callable[[], Registry],
    progress: Sequence[Progress],
    links: Mapping[str, int],
) -> list[OutcomeReport]:
    """Compute a task, or several tasks that share their teacher.

    Whatever a plugin raises is an outcome, even SystemExit. Tracebacks go to standard error.
    """
    products: list[Product | BaseException]
    plugins: Sequence[Plugin] = ()
    try:
        with span("files"):
            methods = registry()
        plugins = methods.plugins
        if len(tasks) == 1:
            products = [perform(tasks[0], methods, progress[0], links)]
        else:
            products = list(perform_together(tasks, methods, progress))
    except BaseException as error:
        if interrupted(error):
            raise
        products = [error] * len(tasks)
    return [_report(task, product, plugins) for task, product in zip(tasks, products, strict=True)]


def _report(
    task: Task, product: Product | BaseException, plugins: Sequence[Plugin]
) -> OutcomeReport:
    try:
        if isinstance(product, BaseException):
            raise product
        facts = clean_facts(product.facts)
        check_facts(task.kind, task.inputs, facts)
    except NonsenseError as error:
        return OutcomeReport(status="failed", reason=f"its facts cannot be kept: {error}")
    except BaseException as error:
        traceback.print_exc()
        return ended(error, task.kind, plugins)
    device = torch.device(task.device)
    peak_mb = None if device.type == "cpu" else peak_mib(device)
    return OutcomeReport(status="ok", facts=facts, device_peak_mb=peak_mb)


def ended(error: BaseException, kind: Kind, plugins: Sequence[Plugin] = ()) -> OutcomeReport:
    """The outcome of a task that raised. The reason names the last line of a plugin."""
    line = line_of(error, plugins)
    # The folder of a plugin is nobody's business who reads the table.
    at = f" ({os.path.basename(line).removeprefix(FILE_MODULE)})" if line else ""
    reason = strip_control(f"{type(error).__name__}: {error}")[: REASON - len(at)] + at
    if isinstance(error, DivergedError):
        return OutcomeReport(status="diverged", reason=reason)
    # Only the check measures that. Whatever else raises it has failed.
    if isinstance(error, NotLearnedError) and kind is Kind.CHECK:
        return OutcomeReport(status="not learned", reason=reason)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        part in str(error) for part in _MEMORY_MESSAGES
    )
    return OutcomeReport(status="out of memory" if memory else "failed", reason=reason)


class _Throttled:
    """Hands on a few steps a second, and the last step of each training."""

    def __init__(self, hand_on: Callable[[Step], None]) -> None:
        self._hand_on, self._next = hand_on, 0.0

    def step(self, step: Step) -> None:
        now = time.monotonic()
        if now >= self._next or step.done == step.total:
            self._next = now + _STEP_EVERY_S
            self._hand_on(step)


def make_task(record: dict[str, Any]) -> Task:
    """A task from the JSON that a job carries."""
    known = {f.name for f in fields(Task)}
    values: dict[str, Any] = {name: value for name, value in record.items() if name in known}
    for name in ("mean", "std"):
        values[name] = tuple(values[name])
    return Task(**values | {"kind": Kind.named(values["kind"]), "folder": Path(values["folder"])})
