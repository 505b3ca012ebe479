"""What a job tells its process, for tests of a stage without a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def task_record(folder: Path, kind: str, **changes: Any) -> dict[str, Any]:
    """The task of a job in a folder, in JSON: three classes, on one thread, without inputs."""
    return {
        "kind": kind,
        "values": {},
        "seed": 0,
        "random_seed": 0,
        "stream_seed": 0,
        "folder": str(folder),
        "inputs": {},
        "images": "images.safetensors",
        "num_classes": 3,
        "image_size": 32,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "pad": 0,
        "flip": False,
        "device": "cpu",
        "bf16": False,
        "threads": 1,
        "packages": {},
        "network": "wrn10_1",
        "points": {},
        "checkpoint_s": 60.0,
        "profile": False,
        **changes,
    }
