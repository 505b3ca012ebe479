"""Files of weights in the wrappings that the field has, and what is no such file."""

from __future__ import annotations

import argparse
import collections
import functools
import gzip
import io
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from kdbench.models import create_model

#: The network of the weights, and its classes.
MODEL, CLASSES = "wrn10_1", 3


@functools.cache
def _weights() -> dict[str, torch.Tensor]:
    return dict(create_model(MODEL, CLASSES, image_size=16).state_dict())


def _saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def _zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("model.pth", content)
    return file.getvalue()


def _named(before: str) -> dict[str, torch.Tensor]:
    return {before + name: tensor for name, tensor in _weights().items()}


def _half() -> dict[str, torch.Tensor]:
    return {n: t.half() if t.is_floating_point() else t for n, t in _weights().items()}


def _spoilt(number: float) -> dict[str, torch.Tensor]:
    name, tensor = next(iter(_weights().items()))
    return _weights() | {name: torch.full_like(tensor, number)}


_STATE = _weights
#: Each is read, or the network is another one and that is said.
FILES: dict[str, Callable[[], bytes]] = {
    "state_dict": lambda: _saved(_STATE()),
    "safetensors": lambda: save(_STATE()),
    "state_dict in a checkpoint": lambda: _saved({"state_dict": _STATE(), "epoch": 3}),
    "of DataParallel": lambda: _saved(_named("module.")),
    "an old torch's": lambda: _saved(_STATE(), _use_new_zipfile_serialization=False),
    "half": lambda: _saved(_half()),
    "in order": lambda: _saved(collections.OrderedDict(_STATE())),
    "of Lightning": lambda: _saved({"state_dict": _named("model."), "epoch": 1}),
    "compiled": lambda: _saved(_named("_orig_mod.")),
    "with arguments": lambda: _saved({"state_dict": _STATE(), "args": argparse.Namespace(lr=1)}),
    "with counters": lambda: _saved(_STATE() | {"total_ops": torch.zeros(1)}),
    "with a teacher beside": lambda: _saved({"state_dict": _STATE(), "state_dict_ema": _STATE()}),
    "a module": lambda: _saved(torch.nn.Linear(2, 2)),
    "a tensor": lambda: _saved(torch.zeros(3)),
    "a list": lambda: _saved([1, 2]),
    "nothing in it": lambda: _saved({}),
    "not a number": lambda: _saved(_spoilt(float("nan"))),
    "infinite": lambda: _saved(_spoilt(float("inf"))),
    "numbers for names": lambda: _saved(dict(enumerate(_STATE().values()))),
    "other network": lambda: _saved({"fc.weight": torch.zeros(3, 3)}),
    "LFS": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "page": lambda: b"<!DOCTYPE html>\n<html><title>Sign in</title></html>",
    "zip": lambda: _zipped(_saved(_STATE())),
    "gz": lambda: gzip.compress(_saved(_STATE()), mtime=0),
    "json": lambda: b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
    "empty": lambda: b"",
    "text": lambda: "gewichte: müde".encode("latin-1"),
    "onnx": lambda: b"\x08\x07\x12\x07pytorch",
    "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(100),
    "pickle": lambda: b"cos\nsystem\n(S'true'\ntR.",
}


@st.composite
def weights(draw: st.DrawFn) -> bytes:
    """The content of a file of weights, often damaged."""
    content = FILES[draw(st.sampled_from(sorted(FILES)))]()
    what = draw(st.integers(0, 5))
    if what == 0 and content:
        return content[: draw(st.integers(0, len(content)))]
    if what == 1 and content:
        at = draw(st.integers(0, len(content) - 1))
        return content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at + 1 :]
    return content
