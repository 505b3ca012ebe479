"""Files that the tests of the door for foreign weights write, and how they read them."""

from __future__ import annotations

import hashlib

import torch
from safetensors.torch import save_file

from kdbench.untrusted.weights import read_foreign
from tests.untrusted.weights.good import CLASSES, MODEL, SIZE, good
from tests.untrusted.weights.hostile import HOSTILE


def read(path, **options):
    return read_foreign(
        path, **{"model": MODEL, "num_classes": CLASSES, "image_size": SIZE} | options
    )


def expected_tensors():
    return {
        name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in good().items()
    }


def build(name, folder):
    """A hostile file and the canary that its payload would create."""
    case = HOSTILE[name]
    path, canary = folder / f"teacher{case.suffix}", folder / "canary"
    case.build(path, canary)
    return path, canary


def save_zip(path):
    torch.save(good(), path)


def save_half(path):
    save_file({name: t.half() if t.is_floating_point() else t for name, t in good().items()}, path)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
