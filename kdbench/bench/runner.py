"""Runs a plan: each stage once, each cell to a row, a failure to a row with its reason."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import kdbench
from kdbench.bench.events import Reporter
from kdbench.bench.plan import Cell, Plan, Stage, build_plan, digest
from kdbench.bench.spec import Resolved, RunSpec
from kdbench.bench.stages import Bench, Result
from kdbench.data import Dataset, load_dataset
from kdbench.errors import ConfigError, DivergedError, KdbenchError
from kdbench.metrics import Evaluation, Rate, attacked, evaluate, transfer, verdict
from kdbench.models import create_model
from kdbench.registry import Registry
from kdbench.report.columns import COLUMNS, SCHEMA
from kdbench.report.leaderboard import write_leaderboard
from kdbench.report.pictures import write_trigger_picture
from kdbench.report.record import write_record
from kdbench.report.tables import write_results
from kdbench.text import strip_control
from kdbench.training import Numerics, choose_numerics

#: What is caught where one stage or cell must not take the others down. A plugin may even call sys.exit.
_CONTAINED = (Exception, SystemExit)


@dataclass
class _Failure:
    status: str
    reason: str

    @classmethod
    def of(cls, where: str, error: BaseException) -> _Failure:
        status = "diverged" if isinstance(error, DivergedError) else "failed"
        return cls(status, strip_control(f"{where}: {type(error).__name__}: {error}"))


class _Run:
    def __init__(self, plan: Plan, bench: Bench, registry: Registry, reporter: Reporter, out: Path) -> None:
        self.plan, self.bench, self.registry, self.reporter, self.out = plan, bench, registry, reporter, out
        self.results: dict[str, Result | _Failure] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.measured: dict[tuple[str, str], Evaluation] = {}
        self.config_digest = digest(plan.resolved.as_dict())

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run the stages and yield (cell number, row) as soon as everything that a cell measures is there."""
        waiting = dict(enumerate(self.plan.cells))
        last_use = self.plan.last_use()
        for stage in self.plan.stages:
            self._run_stage(stage)
            ready = [n for n, cell in waiting.items() if self.facts.keys() >= set(cell.stages())]
            for n in ready:
                yield n, self.row(waiting.pop(n))
            for key in [key for key in self.results if last_use[key] <= stage.number]:
                del self.results[key]  # a long run must not keep every network that it ever trained

    def _run_stage(self, stage: Stage) -> None:
        start = time.perf_counter()
        inputs = {role: self.results[key] for role, key in stage.inputs.items()}
        broken = next((r for r in inputs.values() if isinstance(r, _Failure)), None)
        if broken is None:
            self.reporter.stage_started(stage.number, stage.title)
            try:
                result: Result | _Failure = self.bench.run(stage, inputs)  # type: ignore[arg-type]
            except _CONTAINED as error:
                result = _Failure.of(stage.title, error)
                self.reporter.stage_failed(stage.number, stage.title, result.reason)
        else:
            result = broken
        self.results[stage.key] = result
        self.seconds[stage.key] = time.perf_counter() - start
        if isinstance(result, _Failure):
            self.facts[stage.key] = {"status": result.status, "reason": result.reason}
            return
        self.facts[stage.key] = result.facts
        if result.trigger is not None:
            self._draw(stage, result)
        self.reporter.stage_finished(stage.number, stage.title, self.seconds[stage.key], result.facts)

    def _draw(self, stage: Stage, result: Result) -> None:
        """The backdoor's picture: the first test images that the trigger is for, clean, triggered, difference."""
        dataset, spec = self.bench.dataset, self.plan.resolved.spec
        teacher = self.plan.stage(stage.inputs["clean"]).values["model"].replace("/", "_")
        name = f"trigger-{stage.values['name']}-{teacher}-seed{stage.seed}.png"
        try:
            wanted = attacked(dataset.test.labels, spec.target_class, result.source_classes)
            images = dataset.test.read(torch.nonzero(wanted).flatten()[:6], self.bench.numerics.device)
            with torch.inference_mode():
                triggered = result.trigger(images)  # type: ignore[misc]
            write_trigger_picture(images.cpu(), triggered.cpu(), self.out / name, f"{stage.title}, {dataset.name}")
        except _CONTAINED as error:  # a picture is not worth a run; evaluation says what is wrong with the trigger
            result.facts["picture"] = _Failure.of(name, error).reason

    def row(self, cell: Cell) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        spec = self.plan.resolved.spec
        numerics = self.bench.numerics
        row |= {
            "schema": SCHEMA,
            "dataset": self.bench.dataset.name,
            "attack": cell.attack,
            "defense": cell.defense,
            "distiller": cell.distiller,
            "teacher": cell.teacher,
            "student": cell.student,
            "preset": spec.preset,
            "seed": cell.seed,
            "wall_s": round(sum(self.seconds[key] for key in self.plan.ancestors(cell.student_stage)), 2),
            "peak_mem_mb": round(_peak_mib(numerics.device), 1),
            "device": _device_name(numerics.device),
            "numerics": str(numerics),
            "kdbench_version": kdbench.__version__,
            "torch_version": torch.__version__,
            "plugins": self._plugins(cell),
            "target_class": spec.target_class,
            "clean_fraction": self.plan.resolved.preset.clean_fraction,
            "dataset_digest": self.bench.dataset.digest,
            "config_digest": self.config_digest,
        }
        own = (self.results[key] for key in cell.own_stages())
        failure = next((result for result in own if isinstance(result, _Failure)), None)
        if failure is None:
            try:
                row |= self._measure(cell)
                return row | self._judge(cell)
            except _CONTAINED as error:
                failure = _Failure.of("evaluation", error)
        return row | {"status": failure.status, "reason": failure.reason}

    def _plugins(self, cell: Cell) -> str:
        used = [("attack", cell.attack), ("defense", cell.defense), ("distiller", cell.distiller)]
        found = [self.registry.methods[kind][name] for kind, name in used]
        return "; ".join(sorted({f"{f.distribution} {f.version}".strip() for f in found}))

    def evaluation(self, key: str, cell: Cell) -> Evaluation:
        if (key, cell.backdoor_stage) not in self.measured:
            model, backdoor = self.results[key], self.results[cell.backdoor_stage]
            assert isinstance(model, Result)
            assert isinstance(backdoor, Result)
            assert backdoor.trigger is not None
            self.measured[key, cell.backdoor_stage] = evaluate(
                model.model,
                backdoor.trigger,
                self.bench.dataset.test,
                self.plan.resolved.spec.target_class,
                self.bench.numerics,
                backdoor.source_classes,
            )
        return self.measured[key, cell.backdoor_stage]

    def _measure(self, cell: Cell) -> dict[str, Any]:
        """The columns of the networks on the cell's own path: clean, backdoored and handed-on teacher, student."""
        student = self.evaluation(cell.student_stage, cell)
        row: dict[str, Any] = {"status": "ok", "n_test": student.acc.total, "n_asr": student.asr.total}
        for name, key in (("teacher", cell.backdoor_stage), ("student", cell.student_stage)):
            found = self.evaluation(key, cell)
            for metric in ("acc", "asr", "ra", "base"):
                row |= _rate(f"{name}_{metric}", getattr(found, metric))
        for name, key in (("source", cell.clean_stage), ("cleansed", self.plan.cleansed(cell.student_stage))):
            if key is not None:
                found = self.evaluation(key, cell)
                row |= {f"{name}_acc": found.acc.percent, f"{name}_asr": found.asr.percent}
        return row

    def _control(self, key: str, cell: Cell) -> Evaluation | _Failure:
        """A control as measured, or why it could not be trained or measured."""
        result = self.results[key]
        if isinstance(result, _Failure):
            return result
        try:
            return self.evaluation(key, cell)
        except _CONTAINED as error:
            return _Failure.of("evaluation", error)

    def _judge(self, cell: Cell) -> dict[str, Any]:
        """The columns of the controls and what follows from them. A control that failed costs the verdict, not the row."""
        if cell.undefended_stage is None or cell.clean_control_stage is None:
            return {"reason": "no verdict: the controls were skipped"}
        row: dict[str, Any] = {}
        c1, c3 = self._control(cell.clean_control_stage, cell), self._control(cell.undefended_stage, cell)
        for name, control in (("clean_teacher", c1), ("undefended", c3)):
            if isinstance(control, _Failure):
                row["reason"] = f"no verdict: a control {control.status}: {control.reason}"
            else:
                row |= _rate(f"{name}_acc", control.acc) | _rate(f"{name}_asr", control.asr)
        if isinstance(c1, _Failure) or isinstance(c3, _Failure):
            return row
        student = self.evaluation(cell.student_stage, cell)
        moved = transfer(student.asr_hits, c1.asr_hits, c3.asr_hits)
        judged, reason = verdict(moved.transferred, moved.removed, c3.acc.percent - student.acc.percent)
        row |= {
            "transferred": moved.transferred,
            "transferred_low": moved.transferred_interval[0],
            "transferred_high": moved.transferred_interval[1],
            "removed": moved.removed,
            "verdict": judged,
            "reason": reason,
        }
        if moved.removed_interval is not None:
            row |= {"removed_low": moved.removed_interval[0], "removed_high": moved.removed_interval[1]}
        return row


def _rate(name: str, rate: Rate) -> dict[str, Any]:
    """The columns of one rate; see kdbench.report.columns."""
    low, high = rate.interval
    return {name: rate.percent, f"{name}_low": low, f"{name}_high": high, f"{name}_hits": rate.hits}


def load(spec: RunSpec, resolved: Resolved) -> Dataset:
    """The request's dataset; the embedded one at the preset's size unless the request says otherwise."""
    signs = resolved.preset.signs.model_dump() if spec.dataset == "signs" else {}
    asked = {key: getattr(spec, key) for key in ("image_size", "num_classes", "train_size", "test_size")}
    sizes = signs | {key: value for key, value in asked.items() if value is not None}
    dataset = load_dataset(spec.dataset, data_dir=spec.data_dir, download=spec.download, seed=spec.data_seed, **sizes)
    if spec.target_class >= dataset.num_classes:
        raise ConfigError(
            f"--target-class {spec.target_class} is out of range: {dataset.name} has classes 0 to {dataset.num_classes - 1}"
        )
    return dataset


def check_models(resolved: Resolved, dataset: Dataset) -> None:
    """Build every network once at the dataset's size, before hours go into the teacher of one that cannot be built.

    Raises:
        ConfigError: a network cannot take such images.
    """
    size = dataset.image_size
    with torch.random.fork_rng(devices=[]):
        for name in dict.fromkeys(name for pair in resolved.spec.pairs for name in pair):
            try:
                create_model(name, dataset.num_classes, image_size=size)
            except KdbenchError:
                raise
            except Exception as error:  # whatever a library makes of a size or a number of classes it was not made for
                raise ConfigError(f"model {name!r} cannot be built for {size}x{size} images: {error}") from error


def run(resolved: Resolved, registry: Registry, out: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """Run every cell of a request and write ``out``: results.csv, leaderboard.csv, run.json, trigger-*.png.

    The tables are written anew after each finished cell, and a cell is finished as soon as its last stage is, so that an
    interrupted run keeps what it measured.
    """
    spec = resolved.spec
    numerics = choose_numerics(spec.device, spec.numerics)
    dataset = load(spec, resolved)
    check_models(resolved, dataset)
    plan = build_plan(resolved, dataset.digest, f"{numerics.device.type} {numerics}", _versions())
    out.mkdir(parents=True, exist_ok=True)
    record = _record(plan, dataset, numerics, registry)
    write_record(record, out / "run.json")
    reporter.run_started(len(plan.stages), len(plan.cells), str(out), dataset.note)
    work = _Run(plan, Bench(resolved, dataset, numerics, reporter), registry, reporter, out)
    finished: dict[int, dict[str, Any]] = {}
    for number, row in work.rows():
        finished[number] = row
        rows = [finished[n] for n in sorted(finished)]
        write_results(rows, out / "results.csv")
        write_leaderboard(rows, out / "leaderboard.csv")
        reporter.cell_finished(row)
    record["finished"] = time.time()
    record["stages"] = [
        {"kind": s.kind, "title": s.title, "key": s.key, "seconds": round(work.seconds[s.key], 3), "facts": work.facts[s.key]}
        for s in plan.stages
    ]
    write_record(record, out / "run.json")
    reporter.run_finished(rows, str(out))
    return rows


def _versions() -> dict[str, str]:
    """Versions of what computes, or draws, or decodes."""
    found = {"kdbench": kdbench.__version__, "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    for name in ("torchvision", "timm", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _record(plan: Plan, dataset: Dataset, numerics: Numerics, registry: Registry) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "started": time.time(),
        "command": sys.argv[1:],
        "config": plan.resolved.as_dict(),
        "config_digest": digest(plan.resolved.as_dict()),
        "dataset": {
            "name": dataset.name,
            "digest": dataset.digest,
            "note": dataset.note,
            "train": len(dataset.train),
            "test": len(dataset.test),
            "image_size": dataset.image_size,
            "num_classes": dataset.num_classes,
        },
        "versions": {**_versions(), "python": platform.python_version()},
        "plugins": {
            f"{kind}.{name}": found.origin
            for kind, methods in registry.methods.items()
            for name, found in sorted(methods.items())
        },
        "broken_plugins": registry.broken,
        "device": _device_name(numerics.device),
        "numerics": str(numerics),
        "threads": torch.get_num_threads(),
    }


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
