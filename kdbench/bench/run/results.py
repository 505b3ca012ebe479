"""The rows of a run, its tables and its pictures."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kdbench.bench.keys import MODEL, PICTURE
from kdbench.bench.kinds import Kind
from kdbench.bench.plan.plan import CHECKS, CONTROLS, Cell, Stage
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.request.preset_files import preset_remarks
from kdbench.bench.run.events import Reporter
from kdbench.bench.run.origin import stated_columns
from kdbench.bench.run.outputs import Outputs
from kdbench.bench.run.rows import Measured, row
from kdbench.bench.run.schedule import Schedule
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.manifest import Manifest
from kdbench.bench.work.job import Outcome
from kdbench.bench.work.report import misfit
from kdbench.errors import IntegrityError
from kdbench.loading.answers import Answers
from kdbench.report.confinement import confinement_text
from kdbench.report.flagged import flagged_text
from kdbench.report.leaderboard import write_leaderboard
from kdbench.report.preset_remarks import preset_remark
from kdbench.report.tables import write_results


class RunResults:
    """A row of each cell as soon as its last measurement has ended, and the files made of them.

    Args:
        known: rows that the store already has, by cell key.
    """

    def __init__(
        self,
        prepared: Prepared,
        registry: Answers,
        reporter: Reporter,
        outputs: Outputs,
        store: Store,
        schedule: Schedule,
        known: Mapping[str, dict[str, Any]],
    ) -> None:
        self.prepared, self.plan, self.registry = prepared, prepared.plan, registry
        self.reporter, self.outputs, self.store = reporter, outputs, store
        self.schedule = schedule
        self.rows = {
            n: _remarked(cell, known[cell.key])
            for n, cell in enumerate(self.plan.cells)
            if cell.key in known
        }
        self.left: dict[int, set[str]] = {}
        self.cells_of: dict[str, list[int]] = defaultdict(list)
        for n, cell in enumerate(self.plan.cells):
            if n not in self.rows:
                self.left[n] = set(cell.measured.values())
                for key in self.left[n]:
                    self.cells_of[key].append(n)
        self._written = 0.0
        self._cost = 0.0

    def in_order(self) -> list[dict[str, Any]]:
        """The rows so far, in the order of the plan's cells."""
        return [self.rows[n] for n in sorted(self.rows)]

    def settle(self) -> None:
        """Make a row of every cell whose last measurement has ended."""
        finished: set[int] = set()
        # A measurement that is damaged may end at once, as failed.
        while keys := list(self.schedule.ended()):
            ready: set[int] = set()
            for key in keys:
                if self.plan.stages[key].kind is Kind.PICTURE:
                    self._take_picture(self.plan.stages[key])
                for n in self.cells_of.pop(key, ()):
                    self.left[n].discard(key)
                    if not self.left[n]:
                        ready.add(n)
            for n in sorted(ready):
                self._settle(n)
            finished |= ready
        if finished:
            self.write()

    def settle_failed(self) -> None:
        """Rows of the cells that have failed already, whatever else of them is missing."""
        for n in list(self.left):
            measured = self.plan.cells[n].measured
            keys = [key for role, key in measured.items() if role not in CONTROLS]
            if any(key in self.schedule.failed for key in keys):
                self._settle(n)

    def _settle(self, n: int) -> None:
        """Make the row of a cell; of one that was measured and is damaged by now, measure again."""
        cell = self.plan.cells[n]
        measured: dict[str, Measured] = {}
        for role, key in cell.measured.items():
            if key in self.schedule.failed:
                measured[role] = self.schedule.failed[key]
            elif key in self.schedule.kept:
                manifest = self.store.find(key)
                if manifest is None:
                    self._measure_again(n, key)
                    return
                measured[role] = manifest.facts
        if (why := self._misfit(cell, measured)) is not None:
            measured = dict.fromkeys(measured, Outcome("failed", f"it cannot be counted: {why}"))
        del self.left[n]
        self.rows[n] = _remarked(cell, self._row(cell, measured))
        self.reporter.cell_finished(self.rows[n])

    def _misfit(self, cell: Cell, measured: Mapping[str, Measured]) -> str | None:
        """Why the measurements of a cell cannot all be true, or None."""
        part = self.prepared.parts[cell.part]
        known = {role: of for role, of in measured.items() if not isinstance(of, Outcome)}
        checks = [facts for role, facts in known.items() if role in CHECKS.values()]
        networks = [facts for role, facts in known.items() if role not in CHECKS.values()]
        why = misfit(networks, len(part.dataset.test))
        return misfit(checks, part.held_out, "held-out") if why is None else why

    def _measure_again(self, n: int, key: str) -> None:
        self.left[n].add(key)
        self.cells_of[key].append(n)
        self.schedule.again(key)

    def _row(self, cell: Cell, measured: Mapping[str, Measured]) -> dict[str, Any]:
        stages = {key: self.store.find(key) for key in self.plan.ancestors(cell.trained["student"])}
        facts, numbers = self._facts(cell, stages), self._trained(cell, stages)
        cells, final = row(cell, measured, facts, numbers)
        if final:
            # On a full disk it is computed again next time.
            with contextlib.suppress(OSError):
                self.store.publish(
                    cell.key,
                    None,
                    (),
                    kind="row",
                    title="row",
                    facts={"row": cells},
                    seconds=0.0,
                    peak_mb=0.0,
                    ingredients={"names": cell.names, "inputs": cell.measured},
                    # Torn by a power cut it is noticed and made again, of the same measurements.
                    synced=False,
                )
        return cells

    def _facts(self, cell: Cell, manifests: Mapping[str, Manifest | None]) -> dict[str, Any]:
        """The columns that say where a row is from.

        Args:
            manifests: of the student's stage, and of all that it rests on.
        """
        whole = all(manifests.values())
        student = manifests[cell.trained["student"]]
        return {
            "wall_s": round(sum(m.seconds for m in manifests.values() if m), 2) if whole else None,
            "peak_mem_mb": max(m.peak_mb for m in manifests.values() if m) if whole else None,
            "device": student.facts.get("device") if student else None,
            "confinement": confinement_text(
                manifest.facts.get("confinement") if manifest else None
                for key, manifest in manifests.items()
                if self.plan.stages[key].kind.side == "defender"
            ),
            "teacher_sha256": self._weights(cell.trained["teacher"]),
            "student_sha256": self._weights(cell.trained["student"]),
            **stated_columns(cell, self.prepared, self.registry),
        }

    def _trained(self, cell: Cell, manifests: Mapping[str, Manifest | None]) -> dict[str, Any]:
        """The numbers of a row that trainings state beside their networks. ``manifests`` as for
        :meth:`_facts`."""
        teacher = self.store.find(cell.trained["teacher"])
        return {
            "universal": None if teacher is None else teacher.facts.get("universal"),
            "flagged_classes": flagged_text(
                manifest.facts for manifest in manifests.values() if manifest
            ),
        }

    def _weights(self, key: str) -> str | None:
        manifest = self.store.find(key)
        return None if manifest is None else manifest.files[MODEL]["sha256"]

    def _take_picture(self, stage: Stage) -> None:
        if stage.key in self.schedule.failed:
            return  # a picture is not worth a row; stage_failed has said why
        backdoor = self.plan.stages[stage.inputs["trigger"]]
        teacher = self.plan.stages[backdoor.inputs["clean"]].values["model"].replace("/", "_")
        part = self.prepared.parts[stage.part]
        names = {(p.dataset_name, p.resolved.preset_name) for p in self.prepared.parts}
        several = f"{_file_name(part.dataset_name)}-{part.resolved.preset_name}-"
        several = several if len(names) > 1 else ""
        name = f"trigger-{several}{stage.values['attack']}-{teacher}-seed{backdoor.seed}.png"

        def copy(target: Path) -> None:
            target.unlink(missing_ok=True)
            # A picture that is damaged does not cost a row.
            with contextlib.suppress(IntegrityError):
                self.store.copy_out(stage.key, PICTURE, target, mode=0o644)

        self.outputs.write(name, copy)

    def write(self, now: bool = False) -> None:
        """The tables of what is finished; not after every one of ten thousand cells, each of which
        would rewrite them all."""
        start = time.monotonic()
        if not now and start - self._written < max(1.0, 20 * self._cost):
            return
        rows = self.in_order()
        self.outputs.write("results.csv", partial(write_results, rows))
        self.outputs.write("leaderboard.csv", partial(write_leaderboard, rows))
        self._written = time.monotonic()
        self._cost = self._written - start


def _remarked(cell: Cell, columns: dict[str, Any]) -> dict[str, Any]:
    """A row with what is known of its preset today. The store keeps no remark, since a row is not
    made anew when a remark changes."""
    remarks = preset_remarks(cell.names["preset"]).methods
    return columns | {"preset_remark": preset_remark(cell.names, remarks)}


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)
