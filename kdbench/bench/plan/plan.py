"""What a plan is made of: stages, the cells that share them, and the parts of a request.

Nothing here knows a method by name or trains anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdbench.bench.keys import digest
from kdbench.bench.kinds import Kind, Split
from kdbench.bench.request.spec import Resolved
from kdbench.bench.store.teachers import Imported
from kdbench.data import Dataset
from kdbench.data.fraction import HELD_OUT_ONE_IN, MOST_HELD_OUT, held_out_rows

#: Control students without which a row has no verdict.
VERDICT_CONTROLS = ("c1", "c3")
#: All control students. If one of them fails, the row is still there.
CONTROLS = (*VERDICT_CONTROLS, "c2")
#: Role of a teacher -> role of the check whether it has learned its task.
CHECKS = {"clean": "clean_check", "teacher": "teacher_check"}


@dataclass(frozen=True)
class Stage:
    """One piece of work. All cells that need exactly this work share it."""

    kind: Kind
    """An entry of the table in :mod:`kdbench.bench.kinds`."""
    key: str
    """SHA-256 of everything that can change the result."""
    number: int
    """Place in the plan, counted from 1."""
    title: str
    """For people."""
    part: int
    """Place of its part in the run: a dataset and a preset, for one block."""
    seed: int
    """The root seed."""
    inputs: dict[str, str]
    """Role -> key of an earlier stage."""
    values: dict[str, Any]
    """What its process is told: methods, recipe, target class."""
    random: tuple[str, ...]
    """What its random state is derived from, besides the root seed and the kind.

    These are names and not the whole key. So a defended and an undefended student of one seed see
    the same batches, and what differs between them is due to the defense. Two defenses, or two
    variants of an attack, start from the same state as well.
    """
    context: dict[str, Any]
    """Digests and versions that are part of its key."""
    cohort: str = ""
    """The same for distillations that can share one pass of their teacher. Empty: for no other."""
    networks: tuple[str, ...] = ()
    """Names of the networks it computes with. First the one that it trains or measures. Serves
    estimates only."""
    shape: tuple[int, int] | None = None
    """(classes, side of the images in pixels) of its networks. None: the dataset is not here.
    Serves estimates only."""
    images: int = 0
    """Images that pass through its training by recipe, each as often as it is seen.

    A method's further phases (the search of a trigger, a detoxification) and poisons added to the
    set do not count. Serves estimates only.
    """
    after: tuple[str, ...] = ()
    """Keys of the checks without which it is not worth computing. They change nothing in its
    result, so they are no part of its key."""

    def __post_init__(self) -> None:
        # A kind may come as plain text. One that does not exist is an error here.
        object.__setattr__(self, "kind", Kind.named(self.kind))

    def random_seed(self) -> int:
        """63-bit seed of this stage."""
        return int(digest([self.seed, self.kind, *self.random])[:15], 16)

    def stream_seed(self) -> int:
        """63-bit seed of the order and augmentation of its images.

        It is the same for all students of one root seed, whatever their teacher and distiller are.
        """
        return int(digest([self.seed, self.kind, "stream"])[:15], 16)

    def ingredients(self) -> dict[str, Any]:
        """What the key is made of. People compare these to see why two keys differ."""
        return {
            "seed": self.seed,
            "inputs": self.inputs,
            "values": self.values,
            "context": self.context,
        }


@dataclass(frozen=True)
class Cell:
    """One future row of results.csv.

    Its networks have roles: ``clean`` (the clean teacher), ``teacher``, ``cleansed`` (the teacher
    that a defense hands on), ``student``, and the controls ``c1``, ``c2`` and ``c3``. The cell of
    an imported teacher has no clean teacher and no controls. Teachers that are trained here are
    checked, too: see :data:`CHECKS`.
    """

    names: dict[str, Any]
    """The columns that name it, and those that say which numbers it is made with."""
    key: str
    """SHA-256 of everything that can change the row."""
    part: int
    """Place of its part in the run, as in :class:`Stage`."""
    trained: dict[str, str]
    """Role -> key of the stage that trains the network."""
    measured: dict[str, str]
    """Role -> key of the stage that measures the network, or checks it."""
    controls: bool
    """Whether the request wants controls."""


@dataclass
class Plan:
    """All cells of a request, and the stages that they need. Each is there once."""

    stages: dict[str, Stage] = field(default_factory=dict)
    """By key. A stage comes after its inputs."""
    cells: list[Cell] = field(default_factory=list)
    """In the order of the request."""

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
    """Training images, those that are held out among them."""
    image_size: int | None = None
    """Pixels a side. None: the dataset is not here."""
    class_names: tuple[str, ...] = ()
    """Its classes by index. Empty: their names are not known."""
    numerics: str
    """Device and arithmetic, see :mod:`kdbench.bench.plan.machine`."""
    code: str = ""
    """Digest of the code that computes."""
    software: Mapping[str, str] = field(default_factory=dict)
    """Versions of what computes."""
    imported: Mapping[str, Imported] = field(default_factory=dict)
    """The imported teachers of the request, by name."""

    def images_of(self, split: Split) -> int:
        """About how many images a stage sees. Serves estimates only."""
        held_out = min(self.train_size // HELD_OUT_ONE_IN, MOST_HELD_OUT)
        preset, images = self.resolved.preset, self.train_size - held_out
        if split in ("deployer", "defender"):
            images = round(images * preset.transfer_fraction)
        return round(images * preset.clean_fraction) if split == "defender" else images

    @property
    def shape(self) -> tuple[int, int] | None:
        """(classes, side of the images). None: the dataset is not here."""
        return None if self.image_size is None else (self.num_classes, self.image_size)

    def context(self, split: Split) -> dict[str, Any]:
        """What the key of a stage that sees these images holds besides the stage's values."""
        images: dict[str, Any] = {"images": self.test_digest}
        if split != "test":
            images = {"images": self.train_digest, "data_seed": self.resolved.spec.data_seed}
        if split in ("deployer", "defender"):
            images["transfer_fraction"] = self.resolved.preset.transfer_fraction
        return {
            **images,
            "numerics": self.numerics,
            "code": self.code,
            "software": dict(self.software),
        }


@dataclass(frozen=True, kw_only=True)
class LoadedPart(Part):
    """A part whose dataset is on this machine, so that it can be run."""

    dataset: Dataset
    """The dataset itself. ``dataset_name``, the digests and the sizes describe it."""

    @cached_property
    def held_out(self) -> int:
        """How many images are held out."""
        return len(held_out_rows(self.dataset.train.labels, self.resolved.spec.data_seed))
