"""What the process of a stage is told, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What the process of a stage is told. See :meth:`Stage.task <kdbench.bench.plan.plan.Stage>`
    for where it comes from.

    kind; values: of the stage. seed: root seed. random_seed: the stage's own. stream_seed: of the
    batches of a distillation, the same for all students. folder: ``in/`` inputs, ``out/`` results,
    ``checkpoints/``. inputs: role -> file in ``in/``. train, test: files of images, None where the
    stage may not see them.
    num_classes, image_size, mean, std, pad, flip: of the dataset. device, bf16, threads:
    arithmetic. packages: whose classes
    an input may be made of. checkpoint_s: seconds between checkpoints. picture: title of a picture.
    """

    kind: str
    values: dict[str, Any]
    seed: int
    random_seed: int
    stream_seed: int
    folder: Path
    inputs: dict[str, str]
    train: str | None
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
    packages: tuple[str, ...]
    checkpoint_s: float
    picture: str = ""


@dataclass
class Product:
    """What a stage leaves: names of files in ``out/``, and numbers for the record (strict JSON)."""

    files: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
