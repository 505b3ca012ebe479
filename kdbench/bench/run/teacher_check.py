"""Measures a teacher as soon as it is imported, by the stage that a run measures it by."""

from __future__ import annotations

from typing import Any

from kdbench.bench.plan.prepare import Prepared, prepare
from kdbench.bench.plan.suspects import taken_from
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.folders import JobFolders
from kdbench.bench.run.jobs import Jobs
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.teacher_record import Imported
from kdbench.bench.work.job import Done, Executor, Outcome
from kdbench.bench.work.report import misfit
from kdbench.loading.answers import Answers

#: Test images that are enough to see a teacher that is read wrongly.
MOST_IMAGES = 500
#: Seconds that it may take. An import does not hang on it.
CHECK_S = 1800.0


def prepare_check(
    teacher: Imported, images: int, registry: Answers, store: Store, device: str = "auto"
) -> Prepared:
    """A request of which only the measurement of the teacher will be computed.

    Args:
        images: how many test images the dataset has.

    Raises:
        UsageError: the dataset or the network cannot be used.
    """
    fields: dict[str, Any] = {
        "teacher_from": (teacher.name,),
        # No student is trained. It must be a network that there is.
        "pairs": ((teacher.model, teacher.model),),
        "test_size": MOST_IMAGES if images > MOST_IMAGES else None,
        "device": device,
    }
    return prepare(RunSpec(**fields, **taken_from([teacher], fields)), registry, store)


def measure_teacher(
    prepared: Prepared, registry: Answers, store: Store, executor: Executor
) -> dict[str, Any] | str:
    """The facts of the measurement, or why there are none. A later run takes it from the store."""
    key = prepared.plan.cells[0].measured["teacher"]
    stage = prepared.plan.stages[key]
    known = store.find(key)
    if known is not None:
        return known.facts
    jobs = Jobs(prepared, registry, store, JobFolders(store), checkpoint_s=3600.0, profile=False)
    job = jobs.lay_out(stage)
    executor.start(job)
    outcome = _wait(executor)
    if outcome.status != "ok":
        jobs.folders.remove(key)
        return f"{outcome.status}: {outcome.reason}"
    if (why := misfit([outcome.facts], len(prepared.parts[0].dataset.test))) is not None:
        jobs.folders.remove(key)
        return why
    jobs.publish(stage, outcome, job.folder)
    jobs.folders.remove(key)
    return outcome.facts


def _wait(executor: Executor) -> Outcome:
    while True:
        for event in executor.wait(5.0):
            if isinstance(event, Done):
                return event.outcome
