"""Checkpoints whose tensors or names are not those of the network."""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.untrusted.weights.good import good
from tests.untrusted.weights.hostile.family import SAFE_READER, Build, Family
from tests.untrusted.weights.hostile.payloads import Call
from tests.untrusted.weights.hostile.pickles import write_zip

FILES = Family()

Change = Callable[[Tensor], Tensor]


def _changed(name: str, change: Change) -> Build:
    def build(path: Path, canary: Path) -> None:
        weights = good()
        with warnings.catch_warnings(action="ignore"):  # torch deprecates quantised tensors
            weights[name] = change(weights[name])
            torch.save(weights, path)

    return build


#: What is done to fc.weight, and what refuses it.
_CHANGES: dict[str, tuple[str, Change]] = {
    "a billion values in four bytes": ("of the shape", lambda _: torch.zeros(1).expand(10**9)),
    "strides that overlap": (
        "claims more values",
        lambda tensor: torch.zeros(1000).as_strided(tensor.shape, (1, 1)),
    ),
    "sparse": ("sparse, quantised", lambda tensor: tensor.to_sparse()),
    "quantised": (
        "sparse, quantised",
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    ),
    "without data": ("sparse, quantised", lambda tensor: tensor.to("meta")),
    "whole numbers": ("is int64, where float32", lambda tensor: tensor.long()),
    "infinite as float32": ("infinite", lambda tensor: tensor.double() + 1e300),
    "another shape": ("of the shape [100, 64]", lambda _: torch.zeros(100, 64)),
}
for _name, (_why, _change) in _CHANGES.items():
    FILES.add(f"tensor: {_name}", _why)(_changed("fc.weight", _change))
FILES.add("tensor: stride 0", "claims more values")(
    _changed("stem.weight", lambda tensor: torch.zeros(1).expand(tensor.shape))
)
FILES.add("tensor: negative variance", "is negative")(
    _changed("final_norm.running_var", lambda tensor: tensor - 2)
)


@dataclass(frozen=True)
class _Storage:
    """Stands for floats in data/0 of a zip checkpoint."""

    count: int
    """How many floats the checkpoint claims."""


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> tuple | None:
        if isinstance(obj, _Storage):
            return "storage", torch.FloatStorage, "0", "cpu", obj.count
        return None


def _arguments(count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> tuple:
    return _Storage(count), offset, size, stride, False, OrderedDict()


def _save_claims(path: Path, tensors: dict[str, Call]) -> None:
    """Write a checkpoint of tensors that claim what they like about the same 64 bytes."""
    pickled = io.BytesIO()
    _Pickler(pickled, 2).dump(tensors)
    write_zip(path, pickled.getvalue(), storage=bytes(64))


def _claimed(count: int, offset: int, size: int) -> Build:
    def build(path: Path, canary: Path) -> None:
        arguments = _arguments(count, offset, (size,), (1,))
        _save_claims(path, {"fc.bias": Call(torch._utils._rebuild_tensor_v2, *arguments)})

    return build


#: Floats of the storage, the tensor's first one, and how many it takes.
_CLAIMS: dict[str, tuple[int, int, int]] = {
    "beyond its storage": (16, 1 << 40, 10),
    "negative place": (16, -8, 10),
    "storage larger than its member": (1 << 20, 0, 1 << 20),
}
for _name, _claim in _CLAIMS.items():
    FILES.add(f"tensor: {_name}", SAFE_READER)(_claimed(*_claim))


#: To code that asks the tensor itself, its strides are an empty torch.Size.
_DISGUISE = dict.fromkeys(
    ("stride", "untyped_storage", "storage_offset", "numel", "is_contiguous", "detach"), torch.Size
)


def _disguised(tensor: Tensor) -> Call:
    arguments = _arguments(16, 0, tuple(tensor.shape), (0,) * tensor.dim())
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(torch._tensor._rebuild_from_type_v2, rebuild, Tensor, arguments, _DISGUISE)


@FILES.add("tensor: methods replaced", "claims more values")
def _(path: Path, canary: Path) -> None:
    floats = {name: tensor for name, tensor in good().items() if tensor.is_floating_point()}
    _save_claims(path, {name: _disguised(tensor) for name, tensor in floats.items()})


@FILES.add("names: one missing, one more", "1 missing ('fc.bias'), 1 unknown")
def _(path: Path, canary: Path) -> None:
    weights = good()
    weights["fc.bios"] = weights.pop("fc.bias")
    torch.save(weights, path)


@FILES.add("names: two networks", "several networks: model, model_ema")
def _(path: Path, canary: Path) -> None:
    torch.save({"model": good(), "model_ema": good()}, path)
