"""From cells to the few stages that they share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from kdbench.bench.keys import digest
from kdbench.bench.kinds import Kind, Split
from kdbench.bench.plan.machine import ROW_CODE, code_digest
from kdbench.bench.plan.numbers import number_columns
from kdbench.bench.plan.plan import CHECKS, Cell, Part, Plan, Stage
from kdbench.bench.request.presets import RECIPES, RecipeName
from kdbench.data.class_order import other_orders
from kdbench.loading.answers import base_name
from kdbench.report.columns import SCHEMA
from kdbench.training import Recipe

#: Part of every key. Raise it when the work of a stage changes and its ingredients do not show it.
STAGE_VERSION = 4


#: How the origin of kdbench's own methods begins: its distribution. Networks without an origin are
#: kdbench's or a library's.
OWN = "kdbench"


class _Builder:
    """Adds the cells and stages of one part to a plan."""

    def __init__(self, plan: Plan, number: int, part: Part) -> None:
        self.plan, self.number, self.part, self.resolved = plan, number, part, part.resolved
        self._contexts = {split: part.context(split) for split in get_args(Split)}
        self._digests = {split: digest(context) for split, context in self._contexts.items()}
        self._methods: dict[tuple[str, str], dict[str, Any]] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._numbers: dict[tuple[str, ...], dict[str, Any]] = {}
        self._of_kind: dict[tuple[Kind, str], tuple[str, int]] = {}
        #: Teacher -> the recipes of all stages of its pairs.
        self._recipes: dict[str, dict[RecipeName, dict[str, Any]]] = {}

    def add(
        self,
        kind: Kind,
        title: str,
        seed: int,
        inputs: dict[str, str],
        values: dict[str, Any],
        random: tuple[str, ...] = (),
        cohort: str = "",
    ) -> str:
        values_digest, images = self._of_values(kind, values)
        context_digest = self._digests[kind.sees]
        key = digest([STAGE_VERSION, kind, seed, inputs, values_digest, context_digest, random])
        if key not in self.plan.stages:
            number = len(self.plan.stages) + 1
            context = self._contexts[kind.sees]
            self.plan.stages[key] = Stage(
                kind,
                key,
                number,
                title,
                self.number,
                seed,
                inputs,
                values,
                random,
                context,
                cohort,
                self._networks(inputs, values),
                self.part.shape,
                images,
                self._after(kind, inputs),
            )
        return key

    def _after(self, kind: Kind, inputs: Mapping[str, str]) -> tuple[str, ...]:
        """The checks of the teachers that a stage rests on, where it trains something."""
        if kind.training == "none":
            return ()
        checks = (self._known.get(("check", key)) for key in inputs.values())
        return tuple(check for check in checks if check is not None)

    def _networks(self, inputs: Mapping[str, str], values: Mapping[str, Any]) -> tuple[str, ...]:
        """The network that it trains, then the first network of each input."""
        trained = [values["model"]] if "model" in values else []
        return (
            *trained,
            *(name for key in inputs.values() for name in self.plan.stages[key].networks[:1]),
        )

    def _of_values(self, kind: Kind, values: Mapping[str, Any]) -> tuple[str, int]:
        """(digest of the values, images seen) of a stage, computed once for equal values."""
        # A plan may have hundreds of thousands of stages, but only a few different values.
        known = (kind, json.dumps(values, sort_keys=True))
        if known not in self._of_kind:
            self._of_kind[known] = digest(values), self._images(kind, values)
        return self._of_kind[known]

    def _images(self, kind: Kind, values: Mapping[str, Any]) -> int:
        if kind.training != "recipe":
            return 0
        seen = max(1, self.part.images_of(kind.sees))
        return Recipe(**values["recipe"]).passes(seen) * seen

    def method(self, kind: str, name: str) -> dict[str, Any]:
        if (kind, name) not in self._methods:
            params = self.resolved.method(kind, name).params
            origin = self.resolved.origins[kind, name]
            # The name of a variant is no ingredient: with the same numbers it is the same method.
            self._methods[kind, name] = {
                "kind": kind,
                "name": base_name(name),
                "params": params,
                "origin": origin,
            }
        return self._methods[kind, name]

    def network(self, name: str) -> dict[str, str]:
        """A network by name and, where a plugin brings it, whose code builds it."""
        origin = self.resolved.origins.get(("model", name))
        return {"model": name} if origin is None else {"model": name, "model_origin": origin}

    def recipe(self, name: RecipeName, teacher: str) -> dict[str, Any]:
        """A recipe of the preset, for the pairs of a teacher."""
        if teacher not in self._recipes:
            preset = self.resolved.preset.of_teacher(teacher)
            self._recipes[teacher] = {
                recipe: getattr(preset, recipe).model_dump(mode="json") for recipe in RECIPES
            }
        return self._recipes[teacher][name]

    def clean(self, teacher: str, seed: int) -> str:
        values = {**self.network(teacher), "recipe": self.recipe("clean", teacher)}
        return self.add(Kind.CLEAN, f"train clean {teacher}", seed, {}, values, (teacher,))

    def backdoor(self, clean: str, attack: str, teacher: str, seed: int) -> str:
        values = {
            **self.method("attack", attack),
            "recipe": self.recipe("poison", teacher),
            "target_class": self.resolved.spec.target_class,
        }
        random = (base_name(attack), teacher)
        return self.add(
            Kind.BACKDOOR, f"implant {attack} in {teacher}", seed, {"clean": clean}, values, random
        )

    def alone(self, teacher: str, student: str, seed: int) -> str:
        """Control C2: the student without a teacher, trained by the recipe of distillation that
        the pairs of ``teacher`` have."""
        values = {**self.network(student), "recipe": self.recipe("distill", teacher)}
        return self.add(Kind.ALONE, f"train {student} alone", seed, {}, values, (student,))

    def student(
        self,
        source: str,
        origin: str,
        defense: str,
        distiller: str,
        pair: tuple[str, str],
        seed: int,
    ) -> tuple[str, str | None]:
        """(key of the student, key of the cleansed teacher or None).

        Args:
            source: key of the teacher's stage.
            origin: what titles call that teacher.
            pair: (teacher, student), names of networks.
        """
        teacher, student = pair
        known = (source, defense, distiller, student, seed)
        steps = self.resolved.method("defense", defense).steps
        preset, cleansed = self.resolved.preset, None
        used = {**self.method("defense", defense), "clean_fraction": preset.clean_fraction}
        used["recipe"] = self.recipe("repair", teacher)
        if (unlabeled := self.resolved.spec.unlabeled) is not None:
            used["unlabeled"] = unlabeled
        if "cleanse_teacher" in steps:
            source = cleansed = self.add(
                Kind.CLEANSE, f"{defense}: cleanse {origin}", seed, {"teacher": source}, used
            )
            origin = f"{origin} cleansed by {defense}"
        if known in self._known:
            return self._known[known], cleansed
        values = {
            **self.network(student),
            "distiller": self.method("distiller", distiller),
            "recipe": self.recipe("distill", teacher),
            "defense": used if "objective" in steps else None,
        }
        inputs = {"teacher": source}
        random = (base_name(distiller), student)
        mode = self.resolved.method("distiller", distiller).batch_norm_mode
        alike = [source, seed, values["recipe"], mode, self.number]
        objective = [defense] if "objective" in steps else []
        shared = self._is_own(source, student, distiller, objective)
        cohort = digest(alike) if shared else ""
        title = f"distill {student} from {origin} by {distiller}"
        key = self.add(Kind.DISTILL, title, seed, inputs, values, random, cohort)
        if "repair_student" in steps:
            inputs = {"student": key, "teacher": source}
            key = self.add(
                Kind.REPAIR,
                f"{defense}: repair {student} from {origin}",
                seed,
                inputs,
                used,
                (student,),
            )
        self._known[known] = key
        return key, cleansed

    def _is_own(self, source: str, student: str, distiller: str, objectives: Iterable[str]) -> bool:
        """Whether only code of kdbench itself runs while a student is distilled.

        A plugin's code could change the students beside its own, so it never shares a process.

        Args:
            source: key of the teacher's stage. Where a defense cleansed it, it may hold code of
                that defense.
            objectives: defenses that take part in the distillation.
        """
        stage = self.plan.stages[source]
        methods = [("distiller", distiller), *(("defense", name) for name in objectives)]
        networks = [("model", name) for name in (student, *stage.networks)]
        origins = [self.resolved.origins[name] for name in methods]
        origins += [self.resolved.origins.get(name, OWN) for name in networks]
        if stage.kind is Kind.CLEANSE:
            origins.append(stage.values["origin"])
        return all(origin.partition(" ")[0] == OWN for origin in origins)

    def check(self, key: str) -> str:
        """Whether the teacher of a stage has learned its task."""
        known = ("check", key)
        if known not in self._known:
            title = f"check: {self.plan.stages[key].title}"
            values = {"min_acc": self.resolved.preset.min_teacher_acc}
            self._known[known] = self.add(Kind.CHECK, title, 0, {"model": key}, values)
        return self._known[known]

    def measure(self, key: str, backdoor: str | None) -> str:
        """The evaluation of a network with a backdoor's trigger. None: its accuracy alone."""
        known = ("measure", key, backdoor)
        if known not in self._known:
            title = f"measure: {self.plan.stages[key].title}"
            inputs = {"model": key} | ({} if backdoor is None else {"trigger": backdoor})
            values: dict[str, Any] = {}
            if backdoor is not None:
                values["target_class"] = self.resolved.spec.target_class
            if self.plan.stages[key].kind is Kind.IMPORTED:
                # It normalises as the dataset says, and of the two digests only this one knows.
                values["train_images"] = self.part.train_digest
                # Nobody here has seen it answer right: it may count the classes in another order.
                values["orders"] = other_orders(self.part.class_names)
            self._known[known] = self.add(Kind.EVALUATE, title, 0, inputs, values)
        return self._known[known]

    def cell(self, names: dict[str, Any], trained: dict[str, str], backdoor: str | None) -> None:
        spec, preset = self.resolved.spec, self.resolved.preset
        measured = {role: self.measure(key, backdoor) for role, key in trained.items()}
        if backdoor is not None:
            # First, since a row says of the first of them that failed how it ended.
            checks = {check: self.check(trained[role]) for role, check in CHECKS.items()}
            measured = checks | measured
        named = {"dataset": self.part.dataset_name, **names}
        named |= {"preset": self.resolved.preset_name}
        named |= {
            "target_class": None if backdoor is None else spec.target_class,
            "transfer_fraction": preset.transfer_fraction,
            "clean_fraction": preset.clean_fraction,
            "unlabeled": spec.unlabeled,
        }
        made_with = ("attack", "distiller", "defense", "teacher")
        named |= self.numbers(*(names[name] for name in made_with))
        key = digest([STAGE_VERSION, SCHEMA, "row", code_digest(ROW_CODE), named, measured])
        self.plan.cells.append(Cell(named, key, self.number, trained, measured, spec.controls))

    def numbers(self, attack: str, distiller: str, defense: str, teacher: str) -> dict[str, Any]:
        """:func:`number_columns`, computed once for all students and seeds."""
        names = (attack, distiller, defense, teacher)
        if names not in self._numbers:
            self._numbers[names] = number_columns(self.part, *names)
        return self._numbers[names]

    def build(self) -> None:
        spec = self.resolved.spec
        for seed in spec.seeds:
            for teacher, student in spec.pairs:
                for name in spec.teacher_from:
                    self.suspect(name, teacher, student, seed)
                if spec.attacks:
                    self.attacked(teacher, student, seed)

    def suspect(self, name: str, teacher: str, student: str, seed: int) -> None:
        """Cells of an imported teacher. Nobody knows a trigger, so a row has accuracies only."""
        imported = self.part.imported[name]
        source, origin = imported.key, f"imported {name}"
        if source not in self.plan.stages:
            number = len(self.plan.stages) + 1
            self.plan.stages[source] = Stage(
                Kind.IMPORTED,
                source,
                number,
                origin,
                self.number,
                0,
                {},
                {},
                (),
                {},
                networks=(imported.model,),
            )
        for distiller in self.resolved.spec.distillers:
            for defense in self.resolved.spec.defenses:
                key, cleansed = self.student(
                    source, origin, defense, distiller, (teacher, student), seed
                )
                trained = {
                    "teacher": source,
                    **({} if cleansed is None else {"cleansed": cleansed}),
                    "student": key,
                }
                names = {"attack": f"imported:{name}", "defense": defense, "distiller": distiller}
                self.cell(
                    {**names, "teacher": teacher, "student": student, "seed": seed}, trained, None
                )

    def attacked(self, teacher: str, student: str, seed: int) -> None:
        """Cells of every attack on one clean teacher, with their controls."""
        spec = self.resolved.spec
        clean = self.clean(teacher, seed)
        self.check(clean)
        for attack in spec.attacks:
            backdoor = self.backdoor(clean, attack, teacher, seed)
            self.check(backdoor)
            picture = f"implant {attack} in {teacher}, {self.part.dataset_name}"
            values = {"target_class": spec.target_class, "picture": picture, "attack": attack}
            self.add(Kind.PICTURE, f"draw {attack} in {teacher}", 0, {"trigger": backdoor}, values)
            origin = f"{teacher} with {attack}"
            for distiller in spec.distillers:
                # The controls do not depend on the defense, so every defense shares them.
                controls = {}
                if spec.controls:
                    controls["c2"] = self.alone(teacher, student, seed)
                    controls["c1"], _ = self.student(
                        clean, f"clean {teacher}", "none", distiller, (teacher, student), seed
                    )
                    controls["c3"], _ = self.student(
                        backdoor, origin, "none", distiller, (teacher, student), seed
                    )
                for defense in spec.defenses:
                    key, cleansed = self.student(
                        backdoor, origin, defense, distiller, (teacher, student), seed
                    )
                    trained = {"clean": clean, "teacher": backdoor, "student": key, **controls}
                    if cleansed is not None:
                        trained["cleansed"] = cleansed
                    names = {"attack": attack, "defense": defense, "distiller": distiller}
                    self.cell(
                        {**names, "teacher": teacher, "student": student, "seed": seed},
                        trained,
                        backdoor,
                    )


def build_plan(parts: Iterable[Part]) -> Plan:
    """Lay out the cells of a request and the stages that they share."""
    plan = Plan()
    for number, part in enumerate(parts):
        _Builder(plan, number, part).build()
    # Two blocks may name the same cell.
    plan.cells = list({cell.key: cell for cell in plan.cells}.values())
    return plan
