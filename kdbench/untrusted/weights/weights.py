"""Turning untrusted tensors into the weights of one named network, or refusing them."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import IntegrityError
from kdbench.untrusted.header import shown

#: For each name the shape and the dtype, without ``torch.``.
Expected = dict[str, tuple[tuple[int, ...], str]]

CONVERTED = ("bfloat16", "float16", "float64")
"""The dtypes that are converted to float32."""
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
"""The names under which training scripts put a state_dict into a larger table."""
PREFIXES = ("module.", "_orig_mod.")
"""DataParallel and torch.compile put these before every name."""
BODY = "body."
"""kdbench puts this before the names of a network from timm or torchvision."""
_COUNTER = "num_batches_tracked"
"""Batch norms count the batches that they have seen. Old files lack this counter."""


def load_checkpoint(path: Path, kind: str) -> Any:
    """Read a file whose ``kind`` is one of ``kinds.FILE_KINDS``. Nothing in it is executed.

    Raises:
        IntegrityError: safetensors, or torch's weights-only reader, refuses the file.
        MemoryError: reading it takes more than the process may have.
    """
    # Whatever a library has added to torch's list of harmless classes is taken off again.
    torch.serialization.clear_safe_globals()
    try:
        if kind == "safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except MemoryError:
        raise
    except Exception as error:
        # PyTorch's allocator raises a plain RuntimeError.
        if "allocate memory" in str(error):
            raise MemoryError from None
        raise IntegrityError(
            f"{'safetensors' if kind == 'safetensors' else 'the weights-only reader'} refuses it: "
            f"{_why(error)}"
        ) from None


def _why(error: Exception) -> str:
    """The reason in torch's message, without its advice to load the file unsafely."""
    text = str(error)
    if match := re.search(r"GLOBAL (\S+)", text):
        return f"it refers to {shown(match[1])}, which no weights need; save a state_dict() only"
    known = re.search(
        r"(Unsupported operand|Trying to|Can only|Only persistent_load|persistent_load "
        r"id|\w+StreamReader)[^\n]*",
        text,
    )
    cause = (known[0] if known else type(error).__name__)[:120]
    return f"{cause}; copy it once more, or save a state_dict() anew"


def unwrap(loaded: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Find the one table of tensors in what was loaded.

    Returns:
        The table, and the keys of the tables around it, outermost first.

    Raises:
        IntegrityError: there is no such table, there are several, or it holds other things than
            tensors by name.
    """
    steps: list[str] = []
    while True:
        if type(loaded) not in (dict, OrderedDict):
            raise IntegrityError(
                f"it holds a {shown(type(loaded).__name__)} where a table of tensors is expected; "
                "save a state_dict()"
            )
        # Not loaded.items(): a pickle may have set an attribute of that name on an OrderedDict.
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
    """Give the tensors the names that the network uses.

    Prefixes that every name has, and none of the network's names, are taken off. Names from timm or
    torchvision get kdbench's own prefix.

    Returns:
        The renamed tensors, and the prefixes in the order in which they were taken off or added.
    """
    # Twice over the prefixes: they may come in either order.
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
    """Plain copies of untrusted tensors in the network's order and dtypes.

    Names, shapes, layouts and storages are checked first. So copying allocates no more than the
    network takes.

    Returns:
        The weights, the dtypes that were converted to float32, and the number of absent counters of
        batches, which are 0 now.

    Raises:
        IntegrityError: they are not the weights of that network, or hold values that no training
            can have left.
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
        if (saved_as := _name(state[name].dtype)) != dtype:
            converted.add(saved_as)
    check_values(weights)
    return weights, sorted(converted), absent


def check_weights(weights: dict[str, Tensor], expected: Expected) -> None:
    """Refuse what :func:`to_weights` cannot have returned.

    Every name, shape and dtype must be as expected, and every value sound.
    """
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


def _check_names(names: set[str], expected: Expected, optional: str | None = None) -> None:
    missing = [
        name
        for name in expected
        if name not in names and not (optional and name.endswith(optional))
    ]
    extra = sorted(names - set(expected))
    if missing or extra:
        parts = [
            f"{len(listed)} {word} ({', '.join(map(shown, listed[:2]))})"
            for word, listed in (("missing", missing), ("unknown", extra))
            if listed
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
    saved_as = _name(tensor.dtype)
    if saved_as != dtype and not (dtype == "float32" and saved_as in CONVERTED):
        raise IntegrityError(f"{shown(name)} is {saved_as}, where {dtype} is expected")
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
    """Whether every element has a place of its own inside the storage.

    A view with stride 0, or with elements that overlap, claims more values than the file holds.
    """
    # From the smallest stride on, each one must step over all that lies below it.
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
    """The tensor without attributes that a pickle may have set on it.

    Such an attribute may even hide a method, so the method is called through the class.
    """
    return torch.Tensor.detach(tensor)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
