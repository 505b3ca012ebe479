"""Runs a plan: each stage once, each cell to a row, a failure to a row with its reason."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import kdbench
from kdbench.bench.events import Reporter
from kdbench.bench.plan import Cell, Plan, Stage, build_plan, digest
from kdbench.bench.spec import Resolved, RunSpec
from kdbench.bench.stages import Bench, Result
from kdbench.data import Dataset, load_dataset
from kdbench.errors import ConfigError, DivergedError
from kdbench.metrics import Evaluation, evaluate, transfer, verdict
from kdbench.registry import Registry
from kdbench.report.columns import COLUMNS, SCHEMA
from kdbench.report.leaderboard import write_leaderboard
from kdbench.report.pictures import write_trigger_picture
from kdbench.report.tables import write_results
from kdbench.training import Numerics, choose_numerics


def _status(error: Exception) -> str:
    return "diverged" if isinstance(error, DivergedError) else "failed"


@dataclass
class _Failure:
    status: str
    reason: str


class _Run:
    def __init__(self, plan: Plan, bench: Bench, registry: Registry, reporter: Reporter, out: Path) -> None:
        self.plan, self.bench, self.registry, self.reporter, self.out = plan, bench, registry, reporter, out
        self.results: dict[str, Result | _Failure] = {}
        self.seconds: dict[str, float] = {}
        self.measured: dict[tuple[str, str], Evaluation] = {}
        self.config_digest = digest(plan.resolved.as_dict())

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run the stages and yield (cell number, row) as soon as everything that a cell measures is there."""
        waiting = dict(enumerate(self.plan.cells))
        for stage in self.plan.stages:
            self._run_stage(stage)
            ready = [n for n, cell in waiting.items() if all(key in self.results for key in cell.stages())]
            for n in ready:
                yield n, self.row(waiting.pop(n))

    def _run_stage(self, stage: Stage) -> None:
        inputs = {role: self.results[key] for role, key in stage.inputs.items()}
        broken = next((r for r in inputs.values() if isinstance(r, _Failure)), None)
        if broken is not None:
            self.results[stage.key] = broken
            self.seconds[stage.key] = 0.0
            return
        self.reporter.stage_started(stage.number, stage.title)
        start = time.perf_counter()
        try:
            result = self.bench.run(stage, inputs)  # type: ignore[arg-type]
        except ConfigError:
            raise  # a parameter that no cell can run with: the request is wrong, not the cell
        except Exception as error:  # one stage must not take the other cells down
            reason = f"{stage.title}: {type(error).__name__}: {error}"
            self.results[stage.key] = _Failure(_status(error), reason)
            self.seconds[stage.key] = time.perf_counter() - start
            self.reporter.stage_failed(stage.number, stage.title, reason)
            return
        self.results[stage.key] = result
        self.seconds[stage.key] = time.perf_counter() - start
        self.reporter.stage_finished(stage.number, stage.title, self.seconds[stage.key], result.facts)

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
        for key in cell.stages():
            failure = self.results[key]
            if isinstance(failure, _Failure):
                return row | {"status": failure.status, "reason": failure.reason}
        try:
            return row | self._measure(cell)
        except Exception as error:  # same promise as for stages
            return row | {"status": _status(error), "reason": f"evaluation: {type(error).__name__}: {error}"}

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
            )
        return self.measured[key, cell.backdoor_stage]

    def _measure(self, cell: Cell) -> dict[str, Any]:
        teacher, student = self.evaluation(cell.backdoor_stage, cell), self.evaluation(cell.student_stage, cell)
        source = self.evaluation(cell.clean_stage, cell)
        row: dict[str, Any] = {
            "status": "ok",
            "n_test": student.acc.total,
            "n_asr": student.asr.total,
            "teacher_acc": teacher.acc.percent,
            "teacher_asr": teacher.asr.percent,
            "student_acc": student.acc.percent,
            "student_acc_low": student.acc.interval[0],
            "student_acc_high": student.acc.interval[1],
            "student_asr": student.asr.percent,
            "student_asr_low": student.asr.interval[0],
            "student_asr_high": student.asr.interval[1],
            "student_ra": student.ra.percent,
            "student_base": student.base.percent,
            "source_acc": source.acc.percent,
            "source_asr": source.asr.percent,
        }
        if (cleansed := self.plan.cleansed(cell.student_stage)) is not None:
            handed_on = self.evaluation(cleansed, cell)
            row |= {"cleansed_acc": handed_on.acc.percent, "cleansed_asr": handed_on.asr.percent}
        if cell.undefended_stage is None or cell.clean_control_stage is None:
            return row | {"reason": "no verdict: the controls were skipped"}
        c1, c3 = self.evaluation(cell.clean_control_stage, cell), self.evaluation(cell.undefended_stage, cell)
        moved = transfer(student.asr_hits, c1.asr_hits, c3.asr_hits)
        judged, reason = verdict(moved.transferred, moved.removed, c3.acc.percent - student.acc.percent)
        row |= {
            "clean_teacher_acc": c1.acc.percent,
            "clean_teacher_asr": c1.asr.percent,
            "undefended_acc": c3.acc.percent,
            "undefended_asr": c3.asr.percent,
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

    def pictures(self) -> None:
        """One picture a backdoor: the first test images outside the target class, clean, triggered, difference."""
        dataset, spec = self.bench.dataset, self.plan.resolved.spec
        rows = torch.nonzero(dataset.test.labels != spec.target_class).flatten()[:6]
        images = dataset.test.read(rows, self.bench.numerics.device)
        for stage in self.plan.stages:
            result = self.results[stage.key]
            if stage.kind == "backdoor" and isinstance(result, Result) and result.trigger is not None:
                teacher = self.plan.stage(stage.inputs["clean"]).values["model"].replace("/", "_")
                name = f"trigger-{stage.values['name']}-{teacher}-seed{stage.seed}.png"
                with torch.inference_mode():
                    triggered = result.trigger(images)
                write_trigger_picture(images.cpu(), triggered.cpu(), self.out / name, f"{stage.title}, {dataset.name}")


def load(spec: RunSpec, resolved: Resolved) -> Dataset:
    """The request's dataset; the embedded one at the preset's size unless the request says otherwise."""
    signs = resolved.preset.signs.model_dump() if spec.dataset == "signs" else {}
    asked = {key: getattr(spec, key) for key in ("image_size", "num_classes", "train_size", "test_size")}
    sizes = signs | {key: value for key, value in asked.items() if value is not None}
    dataset = load_dataset(spec.dataset, data_dir=spec.data_dir, download=spec.download, **sizes)
    if spec.target_class >= dataset.num_classes:
        raise ConfigError(
            f"--target-class {spec.target_class} is out of range: {dataset.name} has classes 0 to {dataset.num_classes - 1}"
        )
    return dataset


def run(resolved: Resolved, registry: Registry, out: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """Run every cell of a request and write ``out``: results.csv, leaderboard.csv, run.json, trigger-*.png.

    results.csv is written anew after each finished cell, and a cell is finished as soon as its last stage is, so that an
    interrupted run keeps what it measured.
    """
    spec = resolved.spec
    numerics = choose_numerics(spec.device, spec.numerics)
    dataset = load(spec, resolved)
    plan = build_plan(resolved, dataset.digest, f"{numerics.device.type} {numerics}")
    out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    _write_json(out / "run.json", _record(plan, dataset, numerics, registry, started))
    reporter.run_started(len(plan.stages), len(plan.cells), str(out))
    work = _Run(plan, Bench(resolved, dataset, numerics, reporter), registry, reporter, out)
    finished: dict[int, dict[str, Any]] = {}
    for number, row in work.rows():
        finished[number] = row
        write_results([finished[n] for n in sorted(finished)], out / "results.csv")
        reporter.cell_finished(row)
    rows = [finished[n] for n in sorted(finished)]
    write_leaderboard(rows, out / "leaderboard.csv")
    work.pictures()
    record = _record(plan, dataset, numerics, registry, started)
    record["finished"] = time.time()
    record["stages"] = [
        {
            "kind": s.kind,
            "title": s.title,
            "key": s.key,
            "seconds": round(work.seconds[s.key], 3),
            "facts": _facts(work.results[s.key]),
        }
        for s in plan.stages
    ]
    _write_json(out / "run.json", record)
    reporter.run_finished(rows, str(out))
    return rows


def _facts(result: Result | _Failure) -> dict[str, Any]:
    return {"status": result.status, "reason": result.reason} if isinstance(result, _Failure) else result.facts


def _record(plan: Plan, dataset: Dataset, numerics: Numerics, registry: Registry, started: float) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "started": started,
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
        "versions": {"kdbench": kdbench.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "plugins": {
            f"{kind}.{name}": f"{found.distribution} {found.version}"
            for kind, methods in registry.methods.items()
            for name, found in sorted(methods.items())
        },
        "broken_plugins": registry.broken,
        "device": _device_name(numerics.device),
        "numerics": str(numerics),
        "threads": torch.get_num_threads(),
    }


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
