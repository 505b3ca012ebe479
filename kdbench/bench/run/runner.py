"""Carries out a plan: each stage once, whatever is there taken from the store, each cell to a row,
a failure to a row with its reason."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from kdbench.bench.plan.plan import Stage
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.run.events import Reporter
from kdbench.bench.run.folders import JobFolders
from kdbench.bench.run.jobs import Jobs
from kdbench.bench.run.outputs import Outputs
from kdbench.bench.run.profile import ProfileFolder
from kdbench.bench.run.record import record_of, stages_of
from kdbench.bench.run.results import RunResults
from kdbench.bench.run.schedule import wanted
from kdbench.bench.run.timings import Timings
from kdbench.bench.store.artefacts import DamagedError, Store
from kdbench.bench.store.cached import CachedStore
from kdbench.bench.store.vault import root_warning
from kdbench.bench.work.job import BOX, TRACES, Done, Executor, Outcome, Progressed
from kdbench.data.decoding import decoding_threads
from kdbench.errors import KdbenchError
from kdbench.loading.answers import Answers
from kdbench.report.confinement import wall_warning
from kdbench.untrusted.text import strip_control

_PATIENCE_S = 0.5  # how often a stage that another run computes is looked for


class _Run:
    def __init__(
        self,
        prepared: Prepared,
        registry: Answers,
        reporter: Reporter,
        outputs: Outputs,
        store: Store,
        executor: Executor,
        checkpoint_s: float,
        cohort: int,
        profile: bool,
        locks: bool,
    ) -> None:
        self.plan, self.reporter, self.outputs = prepared.plan, reporter, outputs
        self.store, self.executor, self.cohort = store, executor, cohort
        self.profile = ProfileFolder(outputs.folder / "profile", outputs) if profile else None
        self.together: set[str] = set()
        self.alone: set[str] = set()
        self.timings = Timings(store.vault)
        self.schedule, known = wanted(self.plan, store.find)
        self.folders = JobFolders(store, alone=locks)
        decoders = decoding_threads(executor.jobs)
        self.jobs = Jobs(prepared, registry, store, self.folders, checkpoint_s, profile, decoders)
        #: Folder of the job of each stage that runs.
        self.running: dict[str, Path] = {}
        self.results = RunResults(
            prepared, registry, reporter, outputs, store, self.schedule, known
        )
        self.locks: dict[str, filelock.BaseFileLock] = {}
        self.elsewhere: list[str] = []
        #: Why each of those stages waits, as it was reported.
        self.waits: dict[str, str] = {}
        self.computed: set[str] = set()
        for key in known:
            store.touch(key)

    def go(self, fail_fast: bool) -> list[dict[str, Any]]:
        """Until every cell has its row, or, with ``fail_fast``, until a stage failed."""
        for row in self.results.in_order():
            self.reporter.cell_finished(row)
        self.results.settle()
        while self.schedule.waiting:
            self._start()
            for event in self.executor.wait(
                _PATIENCE_S if self.elsewhere or not self.locks else 5.0
            ):
                if isinstance(event, Progressed):
                    self.reporter.step(self.plan.stages[event.key].number, event.step)
                elif isinstance(event, Done):
                    self._done(self.plan.stages[event.key], event.outcome)
            self._look_elsewhere()
            self.results.settle()
            if fail_fast and self.schedule.failed:
                self.results.settle_failed()
                break
        self.results.write(now=True)
        return self.results.in_order()

    def _start(self) -> None:
        while (free := self.executor.free()) and (key := self.schedule.take()) is not None:
            if not self._lock(key):
                continue
            stage = self.plan.stages[key]
            # Together they are less work, apart they are done sooner where workers would have
            # nothing else to do.
            spare = self.schedule.ready - (free - 1)
            alike = (
                []
                if key in self.alone
                else self.schedule.take_alike(stage.cohort, min(spare, self.cohort - 1), self.alone)
            )
            self._start_one(
                stage, [self.plan.stages[other] for other in alike if self._lock(other)]
            )

    def _lock(self, key: str) -> bool:
        """Whether a stage that was taken is ours to compute now."""
        lock = self.store.lock(key)
        if lock is None:
            self.elsewhere.append(key)
            self._tell_why(self.plan.stages[key])
            return False
        if self.store.find(key) is not None:  # another run was faster
            lock.release()
            self._take(key)
            return False
        self.locks[key] = lock
        return True

    def _look_elsewhere(self) -> None:
        """Stages that another run computes: take its result, or, if it gave up, its place."""
        waiting, self.elsewhere = self.elsewhere, []
        for key in waiting:
            if self.store.find(key) is not None:
                self._take(key)
            elif (lock := self.store.lock(key)) is None:
                self.elsewhere.append(key)
            else:
                lock.release()
                self.schedule.put_back(key)

    def _take(self, key: str) -> None:
        """Take the result of another run."""
        stage = self.plan.stages[key]
        self.schedule.finish(key)
        self.reporter.stage_taken(stage.number, stage.kind, stage.title)

    def _tell_why(self, stage: Stage) -> None:
        """Say once by whom a stage is computed that this run waits for."""
        process = self.store.lock_holder(stage.key)
        who = "another run of this store"
        why = f"{who} computes it" + ("" if process is None else f" (process {process})")
        if self.waits.get(stage.key) != why:
            self.waits[stage.key] = why
            self.reporter.stage_waits(stage.number, stage.kind, stage.title, why)

    def _start_one(self, stage: Stage, beside: list[Stage]) -> None:
        """Start a stage and, in the same process, those that share its teacher."""
        stages = [stage, *beside]
        try:
            jobs = [self.jobs.lay_out(one) for one in stages]
        except DamagedError as error:
            for one in stages:
                self.folders.keep_checkpoints(one.key)
                self._unlock(one.key)
            self._again(self.plan.stages[error.key])
            for one in stages:
                self.schedule.put_back(one.key)
            return
        except (OSError, ValueError, KdbenchError) as error:  # a full disk, foreign code
            reason = getattr(error, "strerror", None) or str(error)
            for one in stages:
                self._fail(one, Outcome("failed", f"cannot be started: {reason}"))
            return
        self.running |= {job.key: job.folder for job in jobs}
        for one in stages:
            self.reporter.stage_started(one.number, one.kind, one.title)
            if self.profile is not None:
                self.profile.started(one)
        self.together.update(one.key for one in stages if beside)
        self.executor.start(replace(jobs[0], beside=tuple(jobs[1:])))

    def _again(self, stage: Stage) -> None:
        """Compute a stage once more, because its artefact is damaged."""
        failure = self.schedule.again(stage.key)
        if failure is not None:
            self.reporter.stage_failed(stage.number, stage.kind, stage.title, failure.reason)

    def _done(self, stage: Stage, outcome: Outcome) -> None:
        if outcome.status in ("crashed", "timeout", "out of memory") and stage.key in self.together:
            self._apart(stage)
            return
        folder = self.running.pop(stage.key)
        if self.profile is not None:
            self.profile.ended(stage, outcome, folder / BOX / TRACES)
        self.computed.add(stage.key)
        if outcome.status != "ok":
            self._fail(stage, outcome)
            return
        try:
            manifest = self.jobs.publish(stage, outcome, folder)
        except Exception as error:  # the plugin of a network may raise anything
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._fail(stage, Outcome("failed", f"its result cannot be kept: {reason}"))
            return
        self.timings.add(stage, manifest)
        self.reporter.stage_finished(
            stage.number, stage.kind, stage.title, manifest.seconds, manifest.facts
        )
        self.folders.remove(stage.key)
        self._unlock(stage.key)
        self.schedule.finish(stage.key)

    def _apart(self, stage: Stage) -> None:
        """The process of several ended as a whole: who of them is to blame shows when each has its
        own."""
        self.together.discard(stage.key)
        self.alone.add(stage.key)
        self._unlock(stage.key)
        self.schedule.put_back(stage.key)

    def _fail(self, stage: Stage, outcome: Outcome) -> None:
        """Tell everybody, tidy up; checkpoints stay where the next run can go on from them."""
        log = self._write_log(stage, outcome.log) if outcome.log else None
        reason = strip_control(f"{stage.title}: {outcome.reason}")
        where = "" if log is None else f" (its log: {log})"
        self.reporter.stage_failed(stage.number, stage.kind, stage.title, reason + where)
        killed = outcome.status in ("crashed", "timeout", "out of memory")
        if killed or stage.key not in self.computed:
            self.folders.keep_checkpoints(stage.key)
        else:
            self.folders.remove(stage.key)
        self._unlock(stage.key)
        self.schedule.finish(stage.key, replace(outcome, reason=reason, log=""))

    def _write_log(self, stage: Stage, text: str) -> Path | None:
        """Write what a failed stage printed, tracebacks among it. None: it cannot be written."""
        lines = "\n".join(strip_control(line) for line in text.splitlines())

        def write(path: Path) -> None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{strip_control(stage.title)}\n\n{lines}\n", encoding="utf-8")

        return self.outputs.write(f"logs/{stage.number}-{stage.kind}.txt", write)

    def _unlock(self, key: str) -> None:
        lock = self.locks.pop(key, None)
        if lock is not None:
            lock.release()


def run(
    prepared: Prepared,
    registry: Answers,
    out: Path,
    reporter: Reporter,
    store: Store,
    executor: Executor,
    *,
    fail_fast: bool = False,
    checkpoint_s: float = 60.0,
    cohort: int = 4,
    profile: bool = False,
) -> list[dict[str, Any]]:
    """Carry out every cell of a request and write ``out``: results.csv, leaderboard.csv, run.json,
    report.html, trigger-*.png, logs/.

    What is in the store is not computed again. The tables are written anew as cells finish; an
    interrupted run keeps what it measured, and the same request goes on where it was. cohort:
    students of one teacher in one process, at most. profile: write where the time of each computed
    stage went, too, see :mod:`kdbench.bench.run.profile`.
    """
    store.check_writable()
    outputs, record = Outputs(out), record_of(prepared, registry)
    outputs.begin(record)
    store = CachedStore(store.root)
    without_locks = store.lock_warning()
    work = _Run(
        prepared,
        registry,
        reporter,
        outputs,
        store,
        executor,
        checkpoint_s,
        cohort,
        profile,
        locks=not without_locks,
    )
    plan = prepared.plan
    notes = [wall_warning(registry.confinement), root_warning(store.root)]
    notes.append(without_locks)
    notes += [part.dataset.note for part in prepared.parts]
    notes = list(filter(None, dict.fromkeys(notes)))
    reporter.run_started(
        len(plan.stages), len(work.schedule.to_run()), len(plan.cells), str(out), " ".join(notes)
    )
    for description in prepared.descriptions():
        reporter.dataset(description)
    try:
        rows = work.go(fail_fast)
    except BaseException:
        work.results.write(now=True)
        raise
    finally:
        executor.close()
        for key in list(work.locks):
            work._unlock(key)
        record["finished"] = time.time()
        record["stages"] = stages_of(plan, work.schedule.failed, work.computed, store)
        walls = {stage["facts"].get("confinement") for stage in record["stages"]} - {None}
        record["confinement"] = ", ".join(sorted(walls)) or None
        outputs.record(record)
        if work.results.rows and "results.csv" not in outputs.lost:
            outputs.report()
        reporter.not_written(outputs.complaint())
    reporter.run_finished(rows, str(out))
    return rows
