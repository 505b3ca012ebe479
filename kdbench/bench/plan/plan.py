"""From a request to cells, and from cells to the few stages they share. Nothing here names a method
or trains anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdbench.bench.keys import digest
from kdbench.bench.kinds import Kind
from kdbench.bench.request.spec import Resolved
from kdbench.bench.store.teachers import Imported
from kdbench.data import Dataset

#: Roles of a cell whose failure does not cost the row: C1 and C3, without which there is no
#: verdict, and C2.
VERDICT_CONTROLS = ("c1", "c3")
CONTROLS = (*VERDICT_CONTROLS, "c2")


@dataclass(frozen=True)
class Stage:
    """One piece of work, shared by every cell that needs exactly it.

    kind: an entry of the table; see kdbench.bench.kinds.
    key: SHA-256 of everything that can change its result. number: 1-based place in the plan.
    part: which of the run's parts (a dataset and a preset, for one block) it belongs to.
    inputs: role -> key of an earlier stage. values: what the stage is told.
    random: what its random state is derived from, besides the root seed. Roles, not the whole key:
    with the same seed a defended and an undefended student see the same batches, so that their
    difference is the defense's; two defenses, or two variants of an attack, start from the same
    state as well. context: the digests and versions that are part of its key.
    cohort: what distillations have in common that can be computed together, from one pass of their
    teacher; else empty.
    networks: names of those it computes with, the one it trains or measures first. images: those
    that pass through a training by recipe, each as often as it is seen; a method's own phases (a
    trigger's search, a detoxification) and poisons added to the set are not in it. Both serve
    estimates only.
    """

    kind: Kind
    key: str
    number: int
    title: str
    part: int
    seed: int
    inputs: dict[str, str]
    values: dict[str, Any]
    random: tuple[str, ...]
    context: dict[str, Any]
    cohort: str = ""
    networks: tuple[str, ...] = ()
    images: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind.named(self.kind))  # an unknown one is an error

    def random_seed(self) -> int:
        """63-bit seed of this stage."""
        return int(digest([self.seed, self.kind, *self.random])[:15], 16)

    def stream_seed(self) -> int:
        """63-bit seed of the order and augmentation of its images where several stages are to see
        the same: the students of one root seed, whoever their teacher and their distiller are."""
        return int(digest([self.seed, self.kind, "stream"])[:15], 16)

    def ingredients(self) -> dict[str, Any]:
        """What the key is made of, for whoever asks why two keys differ."""
        return {
            "seed": self.seed,
            "inputs": self.inputs,
            "values": self.values,
            "context": self.context,
        }


@dataclass(frozen=True)
class Cell:
    """One row to be.

    names: the columns that name it, and those that say which numbers it is made with. key: SHA-256
    of everything that can change the row. part: as in Stage.
    trained, measured: role -> key of the stage that trains, or measures, the network of that role.
    Roles: ``clean`` (clean teacher), ``teacher``, ``cleansed`` (where a defense hands on another
    teacher), ``student``, and the controls ``c1``, ``c2`` and ``c3``, unless skipped. An imported
    teacher has no clean one and no controls.
    controls: whether controls were asked for.
    """

    names: dict[str, Any]
    key: str
    part: int
    trained: dict[str, str]
    measured: dict[str, str]
    controls: bool


@dataclass
class Plan:
    """Unique stages by key, in an order that respects their inputs, and the unique cells that need
    them."""

    stages: dict[str, Stage] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    def ancestors(self, key: str) -> set[str]:
        """The stage itself and everything it rests on."""
        ancestors, left = set(), [key]
        while left:
            at = left.pop()
            if at not in ancestors:
                ancestors.add(at)
                left += self.stages[at].inputs.values()
        return ancestors


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dataset with a preset: what one part of a plan is built for."""

    resolved: Resolved
    """What is asked for, with every number."""
    dataset_name: str
    """The dataset as the tables call it."""
    train_digest: str
    """SHA-256 of the training images."""
    test_digest: str
    """SHA-256 of the test images."""
    num_classes: int
    """Classes of the dataset."""
    train_size: int
    """Training images."""
    numerics: str
    """Device and arithmetic; see :mod:`kdbench.bench.plan.machine`."""
    code: str = ""
    """Digest of the code that computes."""
    software: Mapping[str, str] = field(default_factory=dict)
    """Versions of what computes."""
    imported: Mapping[str, Imported] = field(default_factory=dict)
    """The imported teachers of the request, by name."""

    def context(self, split: str) -> dict[str, Any]:
        """What a stage that reads this split has in its key besides its own values."""
        return {
            "images": self.train_digest if split == "train" else self.test_digest,
            "numerics": self.numerics,
            "code": self.code,
            "software": dict(self.software),
        }


@dataclass(frozen=True, kw_only=True)
class LoadedPart(Part):
    """A part whose dataset is here, so that it can be run."""

    dataset: Dataset
    """What ``dataset_name``, the digests and the sizes are of."""
