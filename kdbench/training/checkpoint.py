"""Checkpoints of a training, so that a killed stage loses minutes and not days.

A stage may call the loop several times. The calls are counted, and each has a file. A stage that is
run again repeats what lies between its calls, which is deterministic. Each call goes on at its last
checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kdbench._files import save_tensors


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training at one moment."""

    #: Weights, buffers, moments and random states, by name.
    tensors: dict[str, Tensor]
    #: Everything else, as strict JSON. Floats keep every bit.
    record: dict[str, Any]


class Checkpoints(Protocol):
    """Where checkpoints are kept. At the end of each epoch the loop asks whether one is ``due``."""

    def load(self, call: int) -> Checkpoint | None: ...

    def due(self) -> bool: ...

    def save(self, call: int, checkpoint: Checkpoint) -> None: ...


class NoCheckpoints:
    """Keeps nothing."""

    def load(self, call: int) -> Checkpoint | None:
        return None

    def due(self) -> bool:
        return False

    def save(self, call: int, checkpoint: Checkpoint) -> None:
        return


class FolderCheckpoints:
    """``fit-N.safetensors`` in a folder, replaced whole, at most every ``every_s`` seconds.

    A damaged or foreign file counts as none. If the disk is full, there is no checkpoint, and the
    training goes on.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self.folder, self.every_s = folder, every_s
        self._last = time.monotonic()

    def _path(self, call: int) -> Path:
        return self.folder / f"fit-{call}.safetensors"

    def due(self) -> bool:
        return time.monotonic() - self._last >= self.every_s

    def load(self, call: int) -> Checkpoint | None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(call), framework="pt") as file:
                record = json.loads((file.metadata() or {})["record"])
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        if record.pop("sha256", None) != _digest(tensors, record):
            return None
        return Checkpoint(tensors, record)

    def save(self, call: int, checkpoint: Checkpoint) -> None:
        tensors = {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in checkpoint.tensors.items()
        }
        record = checkpoint.record | {"sha256": _digest(tensors, checkpoint.record)}
        path = self._path(call)
        temporary = path.with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, temporary, {"record": json.dumps(record)})
            # Without it a crash of the machine could leave an empty file under the name.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._last = time.monotonic()


def _digest(tensors: dict[str, Tensor], record: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
