"""How kdbench itself keeps up with many cells: ``python benchmarks/scale.py --cells 100000``.

Every stage is instant: one byte for a network, random hits for a measurement. What is left is
kdbench's own work: planning, the store, the rows, the tables. Each phase runs in a process of its
own, so that its peak of memory is its own. The first run writes a store of about ten files a cell
under ``--folder``.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import click
import numpy as np

from kdbench.bench.plan.prepare import Prepared, prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.events import Quiet
from kdbench.bench.run.forecast import forecast
from kdbench.bench.run.measures import Measures
from kdbench.bench.run.runner import run
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.job import BOX, OUT, Done, Job, Outcome, Progressed
from kdbench.loading.registry import Registry
from kdbench.metrics import Evaluation, Rate

MODELS = ("wrn28_4", "wrn16_4", "wrn28_2", "wrn16_2", "wrn16_1", "wrn10_1", "resnet56", "resnet20")
PHASES = ("plan", "first", "again", "changed")
#: Cells of one pair and seed: four attacks, three defenses, two distillers.
PER_PAIR = 24


class Instant:
    """An executor that computes nothing.

    Args:
        images: of the test set.
        held_out: training images that are held out.
    """

    def __init__(self, images: int, held_out: int) -> None:
        self.images, self.held_out = images, held_out
        self.events: list[Progressed | Done] = []
        self.jobs = 0

    def free(self) -> int:
        return 1 if not self.events else 0

    def start(self, job: Job) -> None:
        for member in (job, *job.beside):
            self._do(member)

    def _do(self, job: Job) -> None:
        self.jobs += 1
        facts = {"acc": [self.held_out, self.held_out]} if job.kind == "check" else {}
        if job.kind == "evaluate":
            images = self.images
            hits = np.random.default_rng(int(job.key[:8], 16)).random(images // 2) < 0.5
            asr, ra, base = (Rate(n, images // 2) for n in (int(hits.sum()), 5, 1))
            facts = Evaluation(Rate(images // 2, images), asr, ra, base, hits).as_facts()
            facts["variance"] = {"clean": [1.0] * 100, "triggered": [2.0] * 100}
        (job.folder / BOX / OUT).mkdir(parents=True, exist_ok=True)
        for name in job.kind.files:
            (job.folder / BOX / OUT / name).write_bytes(b"x")
        self.events.append(Done(job.key, Outcome("ok", seconds=1.0, peak_mb=1.0, facts=facts)))

    def wait(self, timeout: float) -> list[Progressed | Done]:
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        return


@contextlib.contextmanager
def any_result() -> Iterator[None]:
    """Let runs keep what :class:`Instant` leaves, although it is no network."""
    answers = {"check": None, "packages": {}, "companions": ()}
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            patch = mock.patch.object(Measures, name, lambda *_, answer=answer: answer)
            stack.enter_context(patch)
        yield


def request(cells: int) -> RunSpec:
    """A request of about so many cells."""
    pairs = tuple((teacher, student) for teacher in MODELS for student in MODELS)
    pairs = pairs[: max(1, round(cells / PER_PAIR))]
    return RunSpec(
        attacks=("badnets", "lba", "ckd", "htba"),
        defenses=("none", "robustkd", "nad"),
        distillers=("fkd", "kd"),
        pairs=pairs,
        seeds=tuple(range(math.ceil(cells / (PER_PAIR * len(pairs))))),
        numerics="fp32",
        train_size=80,
        test_size=80,
    )


def measure(phase: str, cells: int, folder: Path) -> dict[str, object]:
    """One phase: seconds, peak memory, and what was written."""
    registry, store = Registry.load(), Store(folder / "store")
    start = time.perf_counter()
    asked = request(cells)
    if phase == "changed":  # nothing of it is in the store, and its like was computed before
        asked = asked.model_copy(update={"train_size": 90})
    ready = prepare(asked, registry, store)
    result: dict[str, object] = {"phase": phase}
    result |= {"cells": len(ready.plan.cells), "stages": len(ready.plan.stages)}
    if phase in ("plan", "changed"):
        for name, explain in (("forecast", False), ("with_reasons", True)):
            before = time.process_time()
            forecast(ready.plan, store, explain=explain)
            result[f"{name}_cpu_seconds"] = round(time.process_time() - before, 1)
    else:
        result |= _carry_out(ready, registry, store, folder / phase)
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["cpu_seconds"] = round(time.process_time(), 1)
    result["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return result


def _carry_out(ready: Prepared, registry: Registry, store: Store, out: Path) -> dict[str, object]:
    executor = Instant(80, held_out=10)
    with any_result():
        rows = run(ready, registry, out, Quiet(), store, executor)
    bad = [row["reason"] for row in rows if row["status"] != "ok"]
    if bad:
        raise SystemExit(f"{len(bad)} cells failed: {bad[0]}")
    sizes = {
        f"{name}_mib": round((out / name).stat().st_size / 2**20, 1)
        for name in ("run.json", "results.csv")
    }
    return {"jobs": executor.jobs, **sizes}


@click.command()
@click.option("--cells", default=10_000, show_default=True, help="How many, about.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the store here.")
@click.option("--phase", type=click.Choice(PHASES), multiple=True, default=PHASES)
def main(cells: int, folder: Path | None, phase: tuple[str, ...]) -> None:
    """Plan, run, run again, and plan with other images; a JSON line for each."""
    if len(phase) == 1 and folder is not None:
        print(json.dumps(measure(phase[0], cells, folder)), flush=True)
        return
    place = Path(tempfile.mkdtemp(prefix="kdbench-scale-")) if folder is None else folder
    try:
        for name in phase:
            command = [sys.executable, __file__, "--cells", str(cells), "--folder", str(place)]
            subprocess.run([*command, "--phase", name], check=True)
    finally:
        if folder is None:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
