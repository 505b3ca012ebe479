"""What computes: the versions, the code and the arithmetic that are part of every stage's key, and
the names for the record."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import kdbench
from kdbench.numerics import Numerics

#: The files and folders of kdbench that can change a number. The others draw, plan, store or talk.
_COMPUTING = (
    "_cuda_graphs.py",
    "attack.py",
    "attention.py",
    "capture.py",
    "defense.py",
    "distiller.py",
    "matching.py",
    "method.py",
    "metrics.py",
    "numerics.py",
    "repair.py",
    "training",
    "trigger_search.py",
    "triggers.py",
    "variance.py",
    "bench/run/rows.py",
    "bench/work/distill.py",
    "bench/work/stages.py",
    "bench/work/task.py",
    "bench/work/workbench.py",
    "data",
    "models",
    "report/pictures.py",
    "report/verdict.py",
)


@cache
def code_digest() -> str:
    """SHA-256 over kdbench's own files that can change a number."""
    root = Path(kdbench.__file__).parent
    found = hashlib.sha256()
    for name in _COMPUTING:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            data = file.read_bytes()
            found.update(f"{file.relative_to(root).as_posix()}\0{len(data)}\0".encode() + data)
    return found.hexdigest()


@cache
def software() -> dict[str, str]:
    """Versions of what computes, or draws, or decodes."""
    found = {
        "kdbench": kdbench.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
    }
    for name in ("torchvision", "timm", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def arithmetic(numerics: Numerics) -> str:
    """Kind of device and arithmetic, as part of a key."""
    return f"{numerics.device.type} {numerics}"
