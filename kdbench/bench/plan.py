"""From a request to cells, and from cells to the few stages they share. Nothing here names a method or trains anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdbench.bench.spec import Resolved

STAGE_VERSION = 1


def digest(value: Any) -> str:
    """SHA-256 of canonical JSON: key order and int-valued floats do not matter, everything else does."""
    return hashlib.sha256(json.dumps(_canonical(value), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@dataclass(frozen=True)
class Stage:
    """One piece of work, shared by every cell that needs exactly it.

    kind: clean, backdoor, cleanse, distill or repair. key: SHA-256 of everything that can change its result.
    number: 1-based place in the plan. inputs: role -> key of an earlier stage. values: what the stage is told.
    random: what its random state is derived from, besides the root seed. Roles, not the whole key: with the same seed a
    defended and an undefended student see the same batches, so that their difference is the defense's.
    """

    kind: str
    key: str
    number: int
    title: str
    seed: int
    inputs: dict[str, str]
    values: dict[str, Any]
    random: tuple[str, ...]

    def random_seed(self) -> int:
        """63-bit seed of this stage."""
        return int(digest([self.seed, self.kind, *self.random])[:15], 16)


@dataclass(frozen=True)
class Cell:
    """One row to be: names, and the keys of the stages whose results it measures (controls None when skipped)."""

    attack: str
    defense: str
    distiller: str
    teacher: str
    student: str
    seed: int
    clean_stage: str
    backdoor_stage: str
    student_stage: str
    undefended_stage: str | None
    clean_control_stage: str | None

    def own_stages(self) -> tuple[str, ...]:
        """Keys of the stages without which the cell has no numbers of its own: teachers and student, no controls."""
        return self.clean_stage, self.backdoor_stage, self.student_stage

    def stages(self) -> tuple[str, ...]:
        """Keys of every stage whose result this cell measures."""
        return self.own_stages() + tuple(key for key in (self.undefended_stage, self.clean_control_stage) if key is not None)


@dataclass
class Plan:
    """Unique stages in an order that respects their inputs, and the cells that need them."""

    resolved: Resolved
    stages: list[Stage] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def stage(self, key: str) -> Stage:
        return next(s for s in self.stages if s.key == key)

    def last_use(self) -> dict[str, int]:
        """For each stage's key the number of the stage after which nobody asks for its result any more."""
        last = {stage.key: stage.number for stage in self.stages}
        for stage in self.stages:
            for key in stage.inputs.values():
                last[key] = max(last[key], stage.number)
        for cell in self.cells:
            measured = [*cell.stages(), *filter(None, [self.cleansed(cell.student_stage)])]
            ready = max(self.stage(key).number for key in measured)
            last |= {key: max(last[key], ready) for key in measured}
        return last

    def ancestors(self, key: str) -> set[str]:
        """The stage itself and everything it rests on."""
        found = {key}
        for parent in self.stage(key).inputs.values():
            found |= self.ancestors(parent)
        return found

    def cleansed(self, key: str) -> str | None:
        """The stage that cleansed the teacher of student ``key``; None where the defense left the teacher alone."""
        return next((own for own in self.ancestors(key) if self.stage(own).kind == "cleanse"), None)


class _Builder:
    def __init__(self, resolved: Resolved, context: dict[str, Any]) -> None:
        self.plan, self.resolved, self.context = Plan(resolved), resolved, context

    def add(
        self, kind: str, title: str, seed: int, inputs: dict[str, str], values: dict[str, Any], random: tuple[str, ...]
    ) -> str:
        key = digest([STAGE_VERSION, kind, seed, inputs, values, self.context, random])
        if all(stage.key != key for stage in self.plan.stages):
            self.plan.stages.append(Stage(kind, key, len(self.plan.stages) + 1, title, seed, inputs, values, random))
        return key

    def method(self, kind: str, name: str) -> dict[str, Any]:
        params = self.resolved.method(kind, name).params.model_dump(mode="json")
        return {"kind": kind, "name": name, "params": params, "origin": self.resolved.origins[kind, name]}

    def clean(self, teacher: str, seed: int) -> str:
        values = {"model": teacher, "recipe": self.resolved.preset.clean.model_dump(mode="json")}
        return self.add("clean", f"train clean {teacher}", seed, {}, values, (teacher,))

    def backdoor(self, clean: str, attack: str, teacher: str, seed: int) -> str:
        values = {
            **self.method("attack", attack),
            "recipe": self.resolved.preset.poison.model_dump(mode="json"),
            "target_class": self.resolved.spec.target_class,
        }
        return self.add("backdoor", f"implant {attack} in {teacher}", seed, {"clean": clean}, values, (attack, teacher))

    def student(self, source: str, origin: str, defense: str, distiller: str, student: str, seed: int) -> str:
        """``source``: key of the teacher's stage; ``origin``: how that teacher is called in titles."""
        steps = self.resolved.method("defense", defense).steps()
        preset = self.resolved.preset
        used = {**self.method("defense", defense), "clean_fraction": preset.clean_fraction}
        used["recipe"] = preset.repair.model_dump(mode="json")
        if "cleanse_teacher" in steps:
            source = self.add("cleanse", f"{defense}: cleanse {origin}", seed, {"teacher": source}, used, (defense,))
            origin = f"{origin} cleansed by {defense}"
        values = {
            "model": student,
            "distiller": self.method("distiller", distiller),
            "recipe": preset.distill.model_dump(mode="json"),
            "defense": used if "objective" in steps else None,
        }
        inputs = {"teacher": source}
        key = self.add("distill", f"distill {student} from {origin}", seed, inputs, values, (distiller, student))
        if "repair_student" in steps:
            inputs = {"student": key, "teacher": source}
            key = self.add("repair", f"{defense}: repair {student} from {origin}", seed, inputs, used, (defense, student))
        return key


def build_plan(
    resolved: Resolved, dataset_digest: str = "", numerics: str = "", software: Mapping[str, str] | None = None
) -> Plan:
    """Lay out the cells of a request and the stages that they share.

    Args:
        dataset_digest, numerics: part of every stage's key; empty for a dry run that does not load the data.
        software: versions of what computes, by name; part of every stage's key.
    """
    spec = resolved.spec
    builder = _Builder(resolved, {"dataset": dataset_digest, "numerics": numerics, "software": dict(software or {})})
    for seed in spec.seeds:
        for teacher, student in spec.pairs:
            clean = builder.clean(teacher, seed)
            for attack in spec.attacks:
                backdoor = builder.backdoor(clean, attack, teacher, seed)
                origin = f"{teacher} with {attack}"
                for distiller in spec.distillers:
                    undefended = control = None
                    if spec.controls:
                        undefended = builder.student(backdoor, origin, "none", distiller, student, seed)
                        control = builder.student(clean, f"clean {teacher}", "none", distiller, student, seed)
                    for defense in spec.defenses:
                        key = builder.student(backdoor, origin, defense, distiller, student, seed)
                        builder.plan.cells.append(
                            Cell(attack, defense, distiller, teacher, student, seed, clean, backdoor, key, undefended, control)
                        )
    return builder.plan
