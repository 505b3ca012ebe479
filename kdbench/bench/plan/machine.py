"""What computes: the versions, the code and the arithmetic that are part of every stage's key, and
the names for the record."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import kdbench
from kdbench._counted import counted
from kdbench.loading.source import source_digest
from kdbench.numerics import Numerics

#: What can change a number of a stage: files of kdbench, and folders of which every file can.
#: Pixels are in a dataset's digest, whoever loaded them: of data, only what a stage reads them by
#: is here. tests/bench/plan/test_machine.py holds this list against what the stages import.
STAGE_CODE = (
    "_cuda_graphs.py",
    "_intervals.py",
    "attack.py",
    "attention.py",
    "bench/kinds.py",
    "bench/work/companions.py",
    "bench/work/distill.py",
    "bench/work/findings.py",
    "bench/work/outputs.py",
    "bench/work/results.py",
    "bench/work/stages.py",
    "bench/work/task.py",
    "bench/work/workbench.py",
    "capture.py",
    "crafting.py",
    "data/base.py",
    "data/decode.py",
    "data/decoding.py",
    "data/files.py",
    "data/fraction.py",
    "data/stream.py",
    "data/tensor.py",
    "defense.py",
    "distiller.py",
    "logits.py",
    "matching.py",
    "method.py",
    "metrics.py",
    "models",
    "numerics.py",
    "outliers.py",
    "repair.py",
    "search_steps.py",
    "training",
    "trigger_search.py",
    "triggers.py",
    "universal_bound.py",
    "variance.py",
)

#: What makes a row of measurements, the rules of the verdict among it. The measurements stand when
#: it changes.
ROW_CODE = (
    "_intervals.py",
    "bench/run/rows.py",
    "metrics.py",
    "report/flagged.py",
    "report/remarks.py",
    "report/verdict.py",
)


@cache
def code_digest(names: tuple[str, ...] = STAGE_CODE) -> str:
    """SHA-256 over what these files and folders of kdbench do, see kdbench.loading.source."""
    root = Path(kdbench.__file__).parent
    files = [file for name in names for file in code_files(root / name)]
    return source_digest({file.relative_to(root).as_posix(): file.read_bytes() for file in files})


def code_files(path: Path) -> list[Path]:
    """The Python files of a folder, sorted, or the one file."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


@cache
def software() -> dict[str, str]:
    """Versions of what computes, or draws, or decodes."""
    versions = {
        "kdbench": kdbench.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
    }
    for name in ("torchvision", "timm", "numpy", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    return versions


def arithmetic(numerics: Numerics) -> str:
    """Kind of device and arithmetic, as part of a key."""
    return f"{numerics.device.type} {numerics}"


def in_words(numerics: Numerics) -> str:
    """The arithmetic for people. The text of :func:`arithmetic` stays as it is, since it is in the
    keys of every store."""
    layout, _, threads = str(numerics).partition(", ")
    return f"{layout}, {counted(numerics.threads, 'thread')}" if threads else layout
