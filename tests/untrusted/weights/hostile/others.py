"""Files that are no checkpoint at all."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import torch
from safetensors.torch import save

from tests.untrusted.weights.good import good
from tests.untrusted.weights.hostile.family import Family

FILES = Family()


@FILES.add("file: empty", "it is empty")
def _(path: Path, canary: Path) -> None:
    path.touch()


@FILES.add("file: random bytes", "no known format")
def _(path: Path, canary: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (100_000,), dtype=torch.uint8, generator=generator)
    path.write_bytes(noise.numpy().tobytes())


@FILES.add("file: gzip", "gzip")
def _(path: Path, canary: Path) -> None:
    path.write_bytes(gzip.compress(save(good())))


@FILES.add("file: a link to a folder", "folder, a pipe or a device")
def _(path: Path, canary: Path) -> None:
    path.symlink_to(canary.parent, target_is_directory=True)


@FILES.add("file: a pipe", "folder, a pipe or a device")
def _(path: Path, canary: Path) -> None:
    os.mkfifo(path)
