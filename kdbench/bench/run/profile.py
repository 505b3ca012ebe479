"""What ``kdbench run --profile`` writes: ``profile/stages.csv`` and traces,
``profile/NUMBER-KIND-LOOP.json``."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

from kdbench.bench.plan.plan import Stage
from kdbench.bench.run.outputs import Outputs
from kdbench.bench.work.job import MOST_TRACE_BYTES, TRACE_NAME, Outcome
from kdbench.errors import IntegrityError
from kdbench.report.tables import write_csv
from kdbench.training.profiling import PARTS
from kdbench.untrusted.box import copy_file, file_names

TABLE = "stages.csv"
#: Names that are looked at where the traces of a stage lie.
_MOST_NAMES = 10_000

PROFILE_COLUMNS: dict[str, str] = {
    "number": "of the stage in the plan",
    "kind": "kind of stage",
    "title": "what it does",
    "status": "how it ended",
    "wall_s": "seconds from laying out its inputs to its outcome; of several that shared a "
    "process, of all of them",
    "seconds": "seconds from its confinement to the end of its process; of several in a process, "
    "an equal share",
    "steps": "optimiser steps and measured batches",
    "batch_s": "seconds of gathering and augmenting batches",
    "teacher_s": "seconds of the frozen teacher's forward pass",
    "forward_s": "seconds of forward passes, losses and measurements",
    "backward_s": "seconds of backward passes",
    "optimizer_s": "seconds of optimiser steps and what a method does after each",
    "other_s": "seconds of everything else that a method does",
    "files_s": "seconds of loading plugins, reading images and networks, building networks, "
    "writing results",
    "peak_mem_mb": "peak memory, MiB",
}


class ProfileFolder:
    """Gathers what the processes of a run say of their time. The files are untrusted: a plugin may
    have written them."""

    def __init__(self, folder: Path, outputs: Outputs | None = None) -> None:
        self.name, self.outputs = folder.name, outputs or Outputs(folder.parent)
        self.rows: list[dict[str, Any]] = []
        self._since: dict[str, float] = {}
        self._write()  # what an earlier run into the same folder computed is not this one's

    def started(self, stage: Stage) -> None:
        self._since[stage.key] = time.monotonic()

    def ended(self, stage: Stage, outcome: Outcome, traces: Path) -> None:
        """Take the profile out of an outcome's facts, where it would be stored, and its traces out
        of the job's folder."""
        wall = time.monotonic() - self._since[stage.key]
        told = outcome.facts.pop("profile", None)
        parts = told if isinstance(told, dict) else {}
        steps = _number(parts.get("steps"))
        self.rows.append(
            {
                "number": stage.number,
                "kind": stage.kind,
                "title": stage.title,
                "status": outcome.status,
                "wall_s": wall,
                "seconds": outcome.seconds,
                "peak_mem_mb": outcome.peak_mb,
                "steps": None if steps is None else round(steps),
                **{f"{part}_s": _number(parts.get(f"{part}_s")) for part in PARTS},
            }
        )
        self._take(stage, traces)
        self._write()

    def _take(self, stage: Stage, traces: Path) -> None:
        left = MOST_TRACE_BYTES
        for name in file_names(traces, _MOST_NAMES):
            if not TRACE_NAME.fullmatch(name):
                continue

            def copy(target: Path, name: str = name, most: int = left) -> None:
                nonlocal left
                target.unlink(missing_ok=True)
                with contextlib.suppress(IntegrityError):
                    left -= copy_file(traces, name, target, most, mode=0o644).bytes

            self.outputs.write(f"{self.name}/{stage.number:02d}-{stage.kind}-{name}", copy)

    def _write(self) -> None:
        rows = sorted(self.rows, key=lambda row: row["number"])

        def write(target: Path) -> None:
            target.parent.mkdir(exist_ok=True)
            write_csv(list(PROFILE_COLUMNS), rows, target)

        self.outputs.write(f"{self.name}/{TABLE}", write)


def _number(value: object) -> float | None:
    """The value, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None
