"""What the process of a stage is told, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.bench.kinds import Kind
from kdbench.bench.work.job import BOX, CHECKPOINTS, IN, OUT


@dataclass(frozen=True)
class Task:
    """What the process of a stage is told."""

    #: Kind of the stage.
    kind: Kind
    #: Methods, recipe, target class: see kdbench.bench.plan.plan.Stage.
    values: dict[str, Any]
    #: The root seed.
    seed: int
    #: Seed of this stage, derived from the root seed.
    random_seed: int
    #: Seed of the batches of a distillation, the same for all students.
    stream_seed: int
    #: Of the job: see the properties below.
    folder: Path
    #: Role -> file in ``in/``.
    inputs: dict[str, str]
    #: File in ``in/`` of the images that it may see. The table of kinds says which these are.
    images: str
    #: Classes of the dataset.
    num_classes: int
    #: Pixels a side.
    image_size: int
    #: Mean of each channel, for images in [0, 1].
    mean: tuple[float, float, float]
    #: Standard deviation of each channel.
    std: tuple[float, float, float]
    #: Augmentation: the largest shift in pixels.
    pad: int
    #: Augmentation: mirror half of the images.
    flip: bool
    #: As torch names it.
    device: str
    #: Autocast matrix work to bfloat16.
    bf16: bool
    #: Threads on a CPU.
    threads: int
    #: Role -> packages whose classes the input is made of, besides kdbench's own.
    packages: dict[str, list[str]]
    #: Name of the network that it must leave, or that it measures.
    network: str
    #: Seconds between checkpoints.
    checkpoint_s: float
    #: File in ``in/`` of the images that a defense has without labels. Empty: there are none.
    pool: str = ""
    #: Title of a picture.
    picture: str = ""
    #: Threads that decode images which stay on disk; 0: none besides the one that computes.
    decoders: int = 1

    @property
    def inputs_folder(self) -> Path:
        """Holds the files that ``inputs`` and ``images`` name. It may be read only."""
        return self.folder / IN

    @property
    def box(self) -> Path:
        """The only folder that the stage may write."""
        return self.folder / BOX

    @property
    def out(self) -> Path:
        """Takes the results: the files that the table of kinds names, and no others."""
        return self.box / OUT

    @property
    def checkpoints(self) -> Path:
        """Takes the checkpoints. The next attempt finds them here."""
        return self.box / CHECKPOINTS


@dataclass
class Product:
    """What a stage leaves, beside its files."""

    #: Numbers for the record, strict JSON.
    facts: dict[str, Any] = field(default_factory=dict)
