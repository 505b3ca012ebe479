"""Which code a job's inputs and result may be made of, and which companions measure them.

The coordinator decides this from the headers of the files. It imports nothing that they name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from kdbench.bench.keys import MODEL
from kdbench.bench.kinds import Kind
from kdbench.bench.plan.plan import Stage
from kdbench.bench.work.companions import COPIES, ENTRY, TRIGGER
from kdbench.bench.work.job import IN, PLUGINS, Companion
from kdbench.bench.work.results import check_of, is_core_network, is_core_trigger, limit_bytes
from kdbench.errors import IntegrityError
from kdbench.models.named import NetworkFacts, is_known
from kdbench.models.structure import file_packages

#: The kinds whose processes count labels or hold those of test images, and so run no code of a
#: plugin.
_MEASURING = (Kind.CHECK, Kind.EVALUATE, Kind.PICTURE)


@dataclass(frozen=True)
class Measures:
    """Answers for the stages of one plan."""

    stages: Mapping[str, Stage]
    """By key."""
    points: Callable[[Iterable[tuple[str, str]]], Mapping[str, str]]
    """(kind, name) of methods and networks -> entry points of their plugins, name -> module."""
    facts: Callable[[str, int, int], NetworkFacts]
    """(name, number of classes, pixels a side) -> the facts of a network."""

    def result_facts(self, stage: Stage, num_classes: int, image_size: int) -> NetworkFacts | None:
        """Of the network that a stage must leave. None: it leaves none."""
        if MODEL not in stage.kind.files:
            return None
        return self.facts(stage.networks[0], num_classes, image_size)

    def check(
        self, stage: Stage, num_classes: int, image_size: int
    ) -> Callable[[Path], None] | None:
        """A function that looks at the folder of a stage's files and raises IntegrityError."""
        facts = self.result_facts(stage, num_classes, image_size)
        return check_of(stage.kind, facts, self._may_name(stage))

    def limit(self, stage: Stage, num_classes: int, image_size: int) -> int:
        """How many bytes each file of a stage's result may have."""
        return limit_bytes(stage.kind, self.result_facts(stage, num_classes, image_size))

    def packages(self, stage: Stage, folder: Path, inputs: Mapping[str, str]) -> dict[str, Any]:
        """Role -> packages that the job's process must import to read the input.

        A process of a measurement imports none.

        Args:
            folder: of the job.
            inputs: role -> file in the job's ``in/``.

        Raises:
            IntegrityError: an input names a class that it cannot be made of.
        """
        if stage.kind in _MEASURING:
            return {}
        return {
            role: self._packages(stage, role, folder / IN / file) for role, file in inputs.items()
        }

    def companions(
        self, stage: Stage, folder: Path, task: Mapping[str, Any]
    ) -> tuple[Companion, ...]:
        """The processes that a measurement needs for code of plugins.

        Args:
            folder: of the job.
            task: what the job's process is told.

        Raises:
            IntegrityError: an input names a class that it cannot be made of.
        """
        if stage.kind not in _MEASURING:
            return ()
        names: list[tuple[str, str]] = []
        for role, file in task["inputs"].items():
            path = folder / IN / file
            if role == "trigger":
                names += [] if is_core_trigger(path) else [(TRIGGER, role)]
            elif not is_core_network(path, known=is_known(stage.networks[0])):
                copies = COPIES if "trigger" in task["inputs"] else COPIES[:1]
                names += [(copy, role) for copy in copies]
        return tuple(self._companion(stage, folder, task, *name) for name in names)

    def _companion(
        self, stage: Stage, folder: Path, task: Mapping[str, Any], name: str, role: str
    ) -> Companion:
        path = folder / IN / task["inputs"][role]
        packages = self._packages(stage, role, path)
        alike = ("num_classes", "image_size", "mean", "std", "device", "bf16", "threads")
        order = {
            "role": "trigger" if role == "trigger" else "network",
            "file": str(path),
            "packages": packages,
            "plugins": str(folder / PLUGINS / name),
            **{key: task[key] for key in alike},
        }
        return Companion(name, ENTRY, order, (path, folder / PLUGINS / name))

    def _packages(self, stage: Stage, role: str, path: Path) -> list[str]:
        """Packages that an input names, sorted."""
        packages = file_packages(path)
        source = self.stages[stage.inputs[role]]
        allowed = self._may_name(source) | self._of([("model", source.networks[0])])
        if foreign := packages - allowed:
            raise IntegrityError(
                f"{path.name} of {source.title!r} names classes of {', '.join(sorted(foreign))}, "
                f"which has no part in it; known: {', '.join(sorted(allowed)) or 'none'}"
            )
        return sorted(packages)

    def _may_name(self, stage: Stage) -> frozenset[str]:
        """Packages of the method whose trigger or editor a stage leaves, and kdbench's own."""
        if stage.kind not in (Kind.BACKDOOR, Kind.CLEANSE):
            return own_packages()
        return own_packages() | self._of([(stage.values["kind"], stage.values["name"])])

    def _of(self, methods: Iterable[tuple[str, str]]) -> frozenset[str]:
        return frozenset(map(_package, self.points(methods).values()))


@cache
def own_packages() -> frozenset[str]:
    """Packages of the methods that come with kdbench, which other plugins may build on."""
    try:
        points = distribution("kdbench").entry_points.select(group="kdbench")
    except PackageNotFoundError:
        return frozenset()
    return frozenset(_package(point.value) for point in points)


def _package(module: str) -> str:
    """The top-level package of what an entry point names."""
    return module.partition(":")[0].partition(".")[0]
