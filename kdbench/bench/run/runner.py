"""Carries out a plan: each stage once, whatever is there taken from the store, each cell to a row,
a failure to a row with its reason."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench._files import write_record
from kdbench.bench.keys import MODEL, PICTURE, TRIGGER, digest
from kdbench.bench.plan.machine import software
from kdbench.bench.plan.plan import CONTROLS, MEASURING, Cell, Stage
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.run.events import Reporter
from kdbench.bench.run.profile import ProfileFolder
from kdbench.bench.run.rows import row
from kdbench.bench.run.schedule import wanted
from kdbench.bench.run.timings import Timings
from kdbench.bench.store.artefacts import Manifest, Store
from kdbench.bench.store.images import image_reads, keep_images
from kdbench.bench.work.job import Done, Executor, Job, Outcome, Step
from kdbench.loading.registry import Registry, base_name
from kdbench.numerics import device_name
from kdbench.report.columns import SCHEMA
from kdbench.report.leaderboard import write_leaderboard
from kdbench.report.tables import write_results
from kdbench.untrusted.text import strip_control

_PATIENCE_S = 0.5  # how often a stage that another run computes is looked for


class _Run:
    def __init__(
        self,
        prepared: Prepared,
        registry: Registry,
        reporter: Reporter,
        out: Path,
        store: Store,
        executor: Executor,
        checkpoint_s: float,
        cohort: int,
        profile: bool,
    ) -> None:
        self.prepared, self.plan, self.registry, self.reporter = (
            prepared,
            prepared.plan,
            registry,
            reporter,
        )
        self.out, self.store, self.executor, self.checkpoint_s, self.cohort = (
            out,
            store,
            executor,
            checkpoint_s,
            cohort,
        )
        self.profile = ProfileFolder(out / "profile") if profile else None
        self.together: set[str] = set()
        self.alone: set[str] = set()
        self.timings = Timings(store.root)
        self.schedule, known = wanted(self.plan, store.find)
        self.rows = {
            n: known[c.key].facts["row"] for n, c in enumerate(self.plan.cells) if c.key in known
        }
        self.locks: dict[str, Any] = {}
        self.elsewhere: list[str] = []
        self.stages: dict[str, dict[str, Any]] = {}
        self.left: dict[int, set[str]] = {}
        self.cells_of: dict[str, list[int]] = defaultdict(list)
        for n, cell in enumerate(self.plan.cells):
            if n not in self.rows:
                self.left[n] = set(cell.measured.values())
                for key in self.left[n]:
                    self.cells_of[key].append(n)
        self._written = 0.0
        self._cost = 0.0
        for cell in known:
            store.touch(cell)

    def go(self, fail_fast: bool) -> list[dict[str, Any]]:
        """Until every cell has its row, or, with ``fail_fast``, until a stage failed."""
        for n in sorted(self.rows):
            self.reporter.cell_finished(self.rows[n])
        self._settle()
        while self.schedule.waiting:
            self._start()
            for event in self.executor.wait(
                _PATIENCE_S if self.elsewhere or not self.locks else 5.0
            ):
                if isinstance(event, Step):
                    self.reporter.step(self.plan.stages[event.key].number, **event.values)
                elif isinstance(event, Done):
                    self._done(self.plan.stages[event.key], event.outcome)
            self._look_elsewhere()
            self._settle()
            if fail_fast and any(
                isinstance(ending, Outcome) for ending in self.schedule.endings.values()
            ):
                self._settle_failed()
                break
        self.write(now=True)
        return [self.rows[n] for n in sorted(self.rows)]

    # -- stages --------------------------------------------------------------------------------
    #
    #

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
            return False
        if (found := self.store.find(key)) is not None:  # another run was faster
            lock.release()
            self.schedule.finish(key, found)
            return False
        self.locks[key] = lock
        return True

    def _look_elsewhere(self) -> None:
        """Stages that another run computes: take its result, or, if it gave up, its place."""
        waiting, self.elsewhere = self.elsewhere, []
        for key in waiting:
            if (found := self.store.find(key)) is not None:
                self.schedule.finish(key, found)
            elif (lock := self.store.lock(key)) is None:
                self.elsewhere.append(key)
            else:
                lock.release()
                self.schedule.put_back(key)

    def _start_one(self, stage: Stage, beside: list[Stage]) -> None:
        """Start a stage and, in the same process, those that share its teacher."""
        stages = [stage, *beside]
        damaged = [key for key in stage.inputs.values() if self.store.verified(key) is None]
        if damaged:
            for one in stages:
                self._unlock(one.key)
            for key in damaged:
                self.schedule.again(key)
            for one in stages:
                self.schedule.put_back(one.key)
            return
        try:
            jobs = [self._job(one) for one in stages]
        except OSError as error:  # a full disk
            for one in stages:
                self._end(one, Outcome("failed", f"cannot be started: {error.strerror or error}"))
            return
        for one in stages:
            self.reporter.stage_started(one.number, one.title)
            if self.profile is not None:
                self.profile.started(one)
        self.together.update(one.key for one in stages if beside)
        self.executor.start(replace(jobs[0], beside=tuple(jobs[1:])))

    def _job(self, stage: Stage) -> Job:
        """Lay out the folder of a job: copies of its inputs, so that nobody can change what the
        store holds."""
        folder = self.store.workspace(stage.key)
        for name in ("in", "out"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(parents=True)
        inputs = {}
        for role, key in stage.inputs.items():
            inputs[role] = f"{role}.safetensors"
            held = self.store.folder(key) / (TRIGGER if role == "trigger" else MODEL)
            shutil.copyfile(held, folder / "in" / inputs[role])
        dataset, numerics = self.prepared.parts[stage.part].dataset, self.prepared.numerics
        measuring = stage.kind in MEASURING
        images = keep_images(self.store, dataset, "test" if measuring else "train")
        values = dict(stage.values)
        task = {
            "kind": stage.kind,
            "picture": values.pop("picture", ""),
            "values": values,
            "seed": stage.seed,
            "random_seed": stage.random_seed(),
            "stream_seed": stage.stream_seed(),
            "folder": str(folder),
            "inputs": inputs,
            "train": None if measuring else str(images),
            "test": str(images) if measuring else None,
            "num_classes": dataset.num_classes,
            "image_size": dataset.image_size,
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "pad": dataset.augmentation.pad,
            "flip": dataset.augmentation.flip,
            "device": str(numerics.device),
            "bf16": numerics.bf16,
            "threads": numerics.threads,
            "packages": list(self.registry.packages()),
            "points": self.registry.points(_methods(values)),
            "checkpoint_s": self.checkpoint_s,
            "profile": self.profile is not None,
        }
        for name, content in self.registry.files().items():
            (folder / "plugins").mkdir(exist_ok=True)
            (folder / "plugins" / f"{name}.py").write_bytes(content)
        return Job(
            stage.key,
            stage.kind,
            stage.title,
            folder,
            task,
            (images, *image_reads(dataset, measuring)),
        )

    def _done(self, stage: Stage, outcome: Outcome) -> None:
        if outcome.status in ("crashed", "timeout", "out of memory") and stage.key in self.together:
            self._apart(stage)
            return
        if self.profile is not None:
            self.profile.ended(stage, outcome, self.store.workspace(stage.key))
        self.stages[stage.key] = {"seconds": round(outcome.seconds, 3), "facts": outcome.facts}
        if outcome.status != "ok":
            self._end(stage, outcome)
            return
        try:
            found = self.store.publish(
                stage.key,
                self.store.workspace(stage.key) / "out",
                outcome.files,
                kind=stage.kind,
                title=stage.title,
                facts=outcome.facts,
                seconds=outcome.seconds,
                peak_mb=outcome.peak_mb,
                ingredients=stage.ingredients(),
            )
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._end(stage, Outcome("failed", f"its result cannot be kept: {reason}"))
            return
        self.timings.add(stage, found)
        self._end(stage, found)

    def _apart(self, stage: Stage) -> None:
        """The process of several ended as a whole: who of them is to blame shows when each has its
        own."""
        self.together.discard(stage.key)
        self.alone.add(stage.key)
        self._unlock(stage.key)
        self.schedule.put_back(stage.key)

    def _end(self, stage: Stage, ending: Manifest | Outcome) -> None:
        """Tell everybody, tidy up; checkpoints stay where the next run can go on from them."""
        folder = self.store.workspace(stage.key)
        if isinstance(ending, Manifest):
            self.reporter.stage_finished(stage.number, stage.title, ending.seconds, ending.facts)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            if ending.log:
                self._write_log(stage, ending.log)
            ending = Outcome(
                ending.status,
                strip_control(f"{stage.title}: {ending.reason}"),
                ending.seconds,
                facts=ending.facts,
            )
            self.reporter.stage_failed(stage.number, stage.title, ending.reason)
            for name in (
                ("in", "out", "tmp")
                if ending.status in ("crashed", "timeout", "out of memory")
                else ("",)
            ):
                shutil.rmtree(folder / name, ignore_errors=True)
        self._unlock(stage.key)
        self.schedule.finish(stage.key, ending)

    def _write_log(self, stage: Stage, text: str) -> None:
        """What a failed stage printed, tracebacks among it."""
        path = self.out / "logs" / f"{stage.number}-{stage.kind}.txt"
        try:
            path.parent.mkdir(exist_ok=True)
            lines = "\n".join(strip_control(line) for line in text.splitlines())
            path.write_text(f"{strip_control(stage.title)}\n\n{lines}\n", encoding="utf-8")
        except OSError:
            return

    def _unlock(self, key: str) -> None:
        lock = self.locks.pop(key, None)
        if lock is not None:
            lock.release()

    # -- cells ---------------------------------------------------------------------------------
    #
    #

    def _settle(self) -> None:
        """Make a row of every cell whose last measurement has ended."""
        finished: set[int] = set()
        for key in self.schedule.ended():
            if self.plan.stages[key].kind == "picture":
                self._take_picture(self.plan.stages[key])
            for n in self.cells_of.pop(key, ()):
                self.left[n].discard(key)
                if not self.left[n]:
                    finished.add(n)
        for n in sorted(finished):
            del self.left[n]
            self.rows[n] = self._row(self.plan.cells[n])
            self.reporter.cell_finished(self.rows[n])
        if finished:
            self.write()

    def _settle_failed(self) -> None:
        """Rows of the cells that have failed already, whatever else of them is missing."""
        for n in list(self.left):
            keys = [
                key for role, key in self.plan.cells[n].measured.items() if role not in CONTROLS
            ]
            if any(isinstance(self.schedule.endings.get(key), Outcome) for key in keys):
                del self.left[n]
                self.rows[n] = self._row(self.plan.cells[n])
                self.reporter.cell_finished(self.rows[n])

    def _row(self, cell: Cell) -> dict[str, Any]:
        known = self.schedule.endings
        endings = {role: known[key] for role, key in cell.measured.items() if key in known}
        measured = {role: e.facts if isinstance(e, Manifest) else e for role, e in endings.items()}
        found, final = row(cell, measured, self._facts(cell))
        if final:
            workspace = self.store.workspace(cell.key)
            try:
                workspace.mkdir(parents=True, exist_ok=True)
                self.store.publish(
                    cell.key,
                    workspace,
                    (),
                    kind="row",
                    title="row",
                    facts={"row": found},
                    seconds=0.0,
                    peak_mb=0.0,
                    ingredients={"names": cell.names, "inputs": cell.measured},
                )
            except OSError:
                shutil.rmtree(workspace, ignore_errors=True)  # computed again next time
        return found

    def _facts(self, cell: Cell) -> dict[str, Any]:
        """The columns that say where a row is from."""
        made = {key: self.store.find(key) for key in self.plan.ancestors(cell.trained["student"])}
        whole = all(made.values())
        student = made[cell.trained["student"]]
        used = [
            ("defense", cell.names["defense"]),
            ("distiller", cell.names["distiller"]),
            ("attack", cell.names["attack"]),
        ]
        used += [("model", cell.names["teacher"]), ("model", cell.names["student"])]
        used += [("dataset", self.prepared.parts[cell.part].resolved.dataset)]
        found = self.registry.found((kind, base_name(name)) for kind, name in used)
        versions = software()
        return {
            "wall_s": round(sum(m.seconds for m in made.values() if m), 2) if whole else None,
            "peak_mem_mb": max(m.peak_mb for m in made.values() if m) if whole else None,
            "device": student.facts.get("device") if student else None,
            "numerics": str(self.prepared.numerics),
            "kdbench_version": versions["kdbench"],
            "torch_version": versions["torch"],
            "plugins": "; ".join(
                sorted({f.plugin.owner for f in found})
                + [words for f in found for words in f.known_failures]
            ),
            "teacher_sha256": self._weights(cell.trained["teacher"]),
            "student_sha256": self._weights(cell.trained["student"]),
            "dataset_digest": self.prepared.parts[cell.part].dataset.digest,
            "config_digest": cell.key,
        }

    def _weights(self, key: str) -> str | None:
        found = self.store.find(key)
        return None if found is None else found.files[MODEL]["sha256"]

    def _take_picture(self, stage: Stage) -> None:
        ending = self.schedule.endings[stage.key]
        if not isinstance(ending, Manifest):
            return  # a picture is not worth a row; stage_failed has said why
        backdoor = self.plan.stages[stage.inputs["trigger"]]
        teacher = self.plan.stages[backdoor.inputs["clean"]].values["model"].replace("/", "_")
        part = self.prepared.parts[stage.part]
        names = {(p.dataset_name, p.resolved.preset_name) for p in self.prepared.parts}
        several = f"{_file_name(part.dataset_name)}-{part.resolved.preset_name}-"
        several = several if len(names) > 1 else ""
        name = f"trigger-{several}{stage.values['attack']}-{teacher}-seed{backdoor.seed}.png"
        try:
            shutil.copyfile(self.store.folder(stage.key) / PICTURE, self.out / name)
        except OSError:
            return

    # -- files ---------------------------------------------------------------------------------
    #
    #

    def write(self, now: bool = False) -> None:
        """The tables of what is finished; not after every one of ten thousand cells, each of which
        would rewrite them all."""
        start = time.monotonic()
        if not now and start - self._written < max(1.0, 20 * self._cost):
            return
        rows = [self.rows[n] for n in sorted(self.rows)]
        write_results(rows, self.out / "results.csv")
        write_leaderboard(rows, self.out / "leaderboard.csv")
        self._written = time.monotonic()
        self._cost = self._written - start

    def record(self) -> list[dict[str, Any]]:
        """The stages of the plan, as run.json keeps them."""
        found = []
        for key, stage in self.plan.stages.items():
            # A stage that no row needed may still be there: the record says how it was made,
            # whoever made it.
            ending = self.schedule.endings.get(key) or self.store.find(key)
            entry = {"kind": stage.kind, "title": stage.title, "key": key, "seed": stage.seed}
            if isinstance(ending, Manifest):
                cached = key not in self.stages
                entry |= {
                    "status": "cached" if cached else "ok",
                    "seconds": ending.seconds,
                    "facts": ending.facts,
                }
                entry["files"] = {name: file["sha256"] for name, file in ending.files.items()}
            elif isinstance(ending, Outcome):
                entry |= {"status": ending.status, "reason": ending.reason, "facts": ending.facts}
            else:
                entry |= {"status": "not needed", "facts": {}}
            found.append(entry)
        return found


def run(
    prepared: Prepared,
    registry: Registry,
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
    trigger-*.png, logs/.

    What is in the store is not computed again. The tables are written anew as cells finish; an
    interrupted run keeps what it measured, and the same request goes on where it was. cohort:
    students of one teacher in one process, at most. profile: write where the time of each computed
    stage went, too, see :mod:`kdbench.bench.run.profile`.
    """
    store.check_writable()
    out.mkdir(parents=True, exist_ok=True)
    record = _record(prepared, registry)
    write_record(record, out / "run.json")
    work = _Run(prepared, registry, reporter, out, store, executor, checkpoint_s, cohort, profile)
    plan = prepared.plan
    notes = dict.fromkeys(part.dataset.note for part in prepared.parts if part.dataset.note)
    reporter.run_started(
        len(plan.stages), len(work.schedule.to_run()), len(plan.cells), str(out), " ".join(notes)
    )
    try:
        rows = work.go(fail_fast)
    except BaseException:
        work.write(now=True)
        raise
    finally:
        executor.close()
        for key in list(work.locks):
            work._unlock(key)
        record["finished"] = time.time()
        record["stages"] = work.record()
        walls = {stage["facts"].get("confinement") for stage in record["stages"]} - {None}
        record["confinement"] = ", ".join(sorted(walls)) or None
        write_record(record, out / "run.json")
    reporter.run_finished(rows, str(out))
    return rows


def _methods(values: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of every method, and of the network, that a stage is told to use."""
    nested = [values, values.get("distiller"), values.get("defense")]
    found = [(v["kind"], v["name"]) for v in nested if isinstance(v, dict) and "kind" in v]
    return [*found, ("model", values["model"])] if "model" in values else found


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)


def _record(prepared: Prepared, registry: Registry) -> dict[str, Any]:
    config = {"request": prepared.spec.model_dump(mode="json"), "parts": prepared.numbers()}
    return {
        "schema": SCHEMA,
        "started": time.time(),
        "command": sys.argv[1:],
        "config": config,
        "config_digest": digest(config),
        "datasets": [
            {
                "name": dataset.name,
                "digest": dataset.digest,
                "note": dataset.note,
                "train": len(dataset.train),
                "test": len(dataset.test),
                "image_size": dataset.image_size,
                "num_classes": dataset.num_classes,
            }
            for dataset in (part.dataset for part in prepared.parts)
        ],
        "versions": {**software(), "python": platform.python_version()},
        "plugins": registry.origins(),
        "broken_plugins": registry.broken,
        "device": device_name(prepared.numerics.device),
        "numerics": str(prepared.numerics),
        "threads": prepared.numerics.threads,
    }
