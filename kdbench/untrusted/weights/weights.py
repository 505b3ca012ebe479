"""Untrusted tensors become the weights of one named network, or are refused."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import IntegrityError
from kdbench.untrusted.weights.kinds import shown

#: name: (shape, dtype without ``torch.``)
Expected = dict[str, tuple[tuple[int, ...], str]]

CONVERTED = ("bfloat16", "float16", "float64")
"""What becomes float32 besides float32 itself."""
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "state_dict_ema",
    "model_ema",
)
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
BODY = "body."
"""What kdbench puts before the names of a network from timm or torchvision."""
_COUNTER = "num_batches_tracked"


def load_checkpoint(path: Path, kind: str) -> Any:
    """Read a file of a kind that :mod:`kdbench.untrusted.weights.kinds` has told; nothing in it is
    executed.

    Raises:
        IntegrityError: torch's weights-only reader, without anything allowed beyond its own list,
            or safetensors refuse it.
    """
    torch.serialization.clear_safe_globals()
    try:
        if kind == "safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except MemoryError:
        raise
    except Exception as error:
        # PyTorch's allocator has no exception of its own.
        if "allocate memory" in str(error):
            raise MemoryError from None
        raise IntegrityError(
            f"{'safetensors' if kind == 'safetensors' else 'the weights-only reader'} refuses it: "
            f"{_why(error)}"
        ) from None


def _why(error: Exception) -> str:
    """The reason in torch's message, without its advice to load the file unsafely."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it refers to {shown(found[1])}, which no weights need; save a state_dict() only"
    found = re.search(
        r"(Unsupported operand|Trying to|Can only|Only persistent_load|persistent_load "
        r"id|\w+StreamReader)[^\n]*",
        text,
    )
    cause = (found[0] if found else type(error).__name__)[:120]
    return f"{cause}; copy it once more, or save a state_dict() anew"


def unwrap(loaded: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The table of tensors in what was loaded, and the keys of the tables around it, outermost
    first.

    Raises:
        IntegrityError: there is none, or there are several, or it holds more than tensors by name.
    """
    steps: list[str] = []
    while True:
        if type(loaded) not in (dict, OrderedDict):
            raise IntegrityError(
                f"it holds a {shown(type(loaded).__name__)} where a table of tensors is expected; "
                "save a state_dict()"
            )
        # By the class: a pickle may have set an attribute of that name on an OrderedDict.
        items = list(dict.items(loaded))
        inside = {
            key: value
            for key, value in items
            if type(key) is str and key in WRAPPERS and type(value) in (dict, OrderedDict)
        }
        if not inside:
            break
        if len(inside) > 1:
            raise IntegrityError(
                f"it holds several networks: {', '.join(sorted(inside))}; save one state_dict() of "
                "them"
            )
        if len(steps) == 3:
            raise IntegrityError("its tables are nested too deeply; save a state_dict()")
        ((key, loaded),) = inside.items()
        steps.append(key)
    for key, value in items:
        if type(key) is not str:
            raise IntegrityError(
                f"a name is a {shown(type(key).__name__)} and not a text; save a state_dict()"
            )
        if type(value) not in (Tensor, torch.nn.Parameter):
            raise IntegrityError(
                f"{shown(key)} is a {shown(type(value).__name__)} and not a tensor; save a "
                "state_dict() only"
            )
    return dict(items), steps


def rename(state: dict[str, Tensor], expected: Expected) -> tuple[dict[str, Tensor], list[str]]:
    """Take off the prefixes that every name has and the network's have not; add kdbench's own to a
    library's names."""
    steps = []
    for _ in range(len(PREFIXES)):
        for prefix in PREFIXES:
            if (
                state
                and all(key.startswith(prefix) for key in state)
                and not any(key.startswith(prefix) for key in expected)
            ):
                state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
                steps.append(prefix)
    if all(key.startswith(BODY) for key in expected) and not any(
        key.startswith(BODY) for key in state
    ):
        state = {BODY + key: tensor for key, tensor in state.items()}
        steps.append(BODY)
    return state, steps


def to_weights(
    state: dict[str, Tensor], expected: Expected
) -> tuple[dict[str, Tensor], list[str], int]:
    """Plain float32 copies of untrusted tensors, in the network's order.

    Names, shapes, layouts and storages are checked first, so that copying allocates no more than
    the network takes.

    Returns:
        The weights; the dtypes that were converted; how many counters of batches were absent, and
        are 0 now.

    Raises:
        IntegrityError: they are not the weights of that network, or not sound.
    """
    _check_names(set(state), expected, optional=_COUNTER)
    for name, tensor in state.items():
        _check_tensor(name, tensor, *expected[name])
    weights: dict[str, Tensor] = {}
    converted, absent = set(), 0
    for name, (shape, dtype) in expected.items():
        weights[name] = torch.zeros(shape, dtype=getattr(torch, dtype))
        if name not in state:
            absent += 1
            continue
        weights[name].copy_(_bare(state[name]))
        if (found := _name(state[name].dtype)) != dtype:
            converted.add(found)
    check_values(weights)
    return weights, sorted(converted), absent


def check_weights(weights: dict[str, Tensor], expected: Expected) -> None:
    """Refuse what :func:`to_weights` cannot have answered: every name, shape and dtype as expected,
    values sound."""
    _check_names(set(weights), expected)
    for name, tensor in weights.items():
        if (tuple(tensor.shape), _name(tensor.dtype)) != expected[name]:
            raise IntegrityError(
                f"{shown(name)} is {_name(tensor.dtype)} {list(tensor.shape)}, which was not asked "
                "for"
            )
    check_values(weights)


def check_values(weights: dict[str, Tensor]) -> None:
    """Refuse NaN and infinity, negative variances of a batch norm, and negative counters."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise IntegrityError(
                f"{shown(name)} holds NaN or infinite values, as float32; such a network computes "
                "nothing"
            )
        if name.endswith(("running_var", _COUNTER)) and tensor.numel() and bool((tensor < 0).any()):
            raise IntegrityError(
                f"{shown(name)} is negative, which no training can have left behind"
            )


def _check_names(found: set[str], expected: Expected, optional: str | None = None) -> None:
    missing = [
        name
        for name in expected
        if name not in found and not (optional and name.endswith(optional))
    ]
    extra = sorted(found - set(expected))
    if missing or extra:
        parts = [
            f"{len(names)} {word} ({', '.join(map(shown, names[:2]))})"
            for word, names in (("missing", missing), ("unknown", extra))
            if names
        ]
        raise IntegrityError(
            f"its names are not those of the network: {', '.join(parts)}; is --model the right one?"
        )


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: str) -> None:
    tensor = _bare(tensor)
    if (
        tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.is_nested
        or tensor.device.type != "cpu"
    ):
        raise IntegrityError(
            f"{shown(name)} is sparse, quantised, nested or without data; save plain dense tensors"
        )
    found = _name(tensor.dtype)
    if found != dtype and not (dtype == "float32" and found in CONVERTED):
        raise IntegrityError(f"{shown(name)} is {found}, where {dtype} is expected")
    if tuple(tensor.shape) != shape:
        raise IntegrityError(
            f"{shown(name)} is of the shape {list(tensor.shape)[:8]}, where {list(shape)} is "
            "expected; "
            "are --model and the number of classes right?"
        )
    if tensor.is_conj() or tensor.is_neg() or not _in_its_storage(tensor):
        raise IntegrityError(
            f"{shown(name)} claims more values than the file holds for it; save plain dense tensors"
        )


def _in_its_storage(tensor: Tensor) -> bool:
    """Whether every element has its own place, inside the storage."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return False
            reach = stride * (size - 1) + reach
    held = tensor.untyped_storage().nbytes()
    needed = tensor.storage_offset() + reach if tensor.numel() else 0
    return bool(needed * tensor.element_size() <= held)


def _bare(tensor: Tensor) -> Tensor:
    """The tensor without the attributes that a pickle may have set on it, under the names of
    methods even."""
    return torch.Tensor.detach(tensor)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
