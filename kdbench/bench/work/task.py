"""What the process of a stage is told, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.bench.kinds import Kind


@dataclass(frozen=True)
class Task:
    """What the process of a stage is told."""

    kind: Kind
    #: What the stage is told; see kdbench.bench.plan.plan.Stage.
    values: dict[str, Any]
    #: The root seed.
    seed: int
    #: The stage's own seed.
    random_seed: int
    #: Seed of the batches of a distillation, the same for all students.
    stream_seed: int
    #: ``in/`` holds inputs, ``out/`` results, ``checkpoints/`` where training left off.
    folder: Path
    #: Role -> file in ``in/``.
    inputs: dict[str, str]
    #: File of the training images; None where the stage may not see them.
    train: str | None
    #: File of the test images; None where the stage may not see them.
    test: str | None
    num_classes: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad: int
    flip: bool
    device: str
    bf16: bool
    threads: int
    #: Packages whose classes an input may be made of.
    packages: tuple[str, ...]
    #: Seconds between checkpoints.
    checkpoint_s: float
    #: Title of a picture.
    picture: str = ""


@dataclass
class Product:
    """What a stage leaves."""

    #: Names of files in ``out/``.
    files: tuple[str, ...] = ()
    #: Numbers for the record, strict JSON.
    facts: dict[str, Any] = field(default_factory=dict)
