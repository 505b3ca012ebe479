"""Turning untrusted tensors into the weights of one named network, or refusing them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench._counted import counted
from kdbench.errors import IntegrityError
from kdbench.untrusted.header import shown
from kdbench.untrusted.weights.advice import explain, some
from kdbench.untrusted.weights.names import COUNTER, Expected
from kdbench.untrusted.weights.pickled import why_refused
from kdbench.untrusted.weights.tables import bare, choose

CONVERTED = ("bfloat16", "float16", "float64")
"""The dtypes that are converted to float32."""
_PLAIN = (int, float, str, bool, type(None))


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
            f"{_why(error, path, kind)}"
        ) from None


def _why(error: Exception, path: Path, kind: str) -> str:
    """The reason in torch's message, without its advice to load the file unsafely."""
    text = str(error)
    if match := re.search(r"GLOBAL (\S+)", text):
        return why_refused(path, kind, match[1])
    known = re.search(
        r"(Unsupported operand|Trying to|Can only|Only persistent_load|persistent_load "
        r"id|\w+StreamReader)[^\n]*",
        text,
    )
    cause = (known[0] if known else type(error).__name__)[:120]
    return f"{cause}; copy it once more, or save a state_dict() anew"


@dataclass(frozen=True)
class Read:
    """What a file holds, by the names of the network."""

    state: dict[str, Tensor]
    """Untrusted tensors by the network's names."""
    unwrapped: tuple[str, ...]
    """Keys of the tables around them, outermost first."""
    prefixes: tuple[str, ...]
    """Taken off every name; ``body.`` was added."""
    words: tuple[str, ...]
    """Taken out of some names."""
    left_out: int
    """How many counters of a profiler, numbers and texts among the tensors were left out."""
    beside: tuple[str, ...]
    """Places of other tables that would fit as well, and are left out."""


def find(loaded: Any, expected: Expected, kind: str) -> Read:
    """The tensors of the network in what was loaded, see :mod:`kdbench.untrusted.weights.tables`.

    Raises:
        IntegrityError: they are not all there, or not alone.
    """
    choice = choose(loaded, expected)
    table = choice.table
    for key, value in table.others.items():
        if type(key) is not str:
            raise IntegrityError(
                f"a name is a {shown(type(key).__name__)} and not a text; save a state_dict()"
            )
        # A number beside the weights is none of them, unless the network asks for its name.
        if type(value) not in _PLAIN or key in expected:
            raise IntegrityError(
                f"{shown(key)} is a {shown(type(value).__name__)} and not a tensor; save a "
                "state_dict() only"
            )
    if table.naming.wrong:
        raise IntegrityError(explain(table, expected, kind))
    return Read(
        state={new: table.tensors[name] for name, new in table.naming.names.items()},
        unwrapped=table.keys,
        prefixes=table.naming.prefixes,
        words=table.naming.words,
        left_out=len(table.counters) + len(table.others),
        beside=choice.beside,
    )


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
    for name, tensor in state.items():
        _check_kind(name, bare(tensor), expected[name][1])
    _check_shapes(state, expected)
    for name, tensor in state.items():
        _check_storage(name, bare(tensor))
    weights: dict[str, Tensor] = {}
    converted, absent = set(), 0
    for name, (shape, dtype) in expected.items():
        weights[name] = torch.zeros(shape, dtype=getattr(torch, dtype))
        if name not in state:
            absent += 1
            continue
        weights[name].copy_(bare(state[name]))
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
        if name.endswith(("running_var", COUNTER)) and tensor.numel() and bool((tensor < 0).any()):
            raise IntegrityError(
                f"{shown(name)} is negative, which no training can have left behind"
            )


def _check_names(names: set[str], expected: Expected) -> None:
    missing = [name for name in expected if name not in names]
    extra = sorted(names - set(expected))
    if missing or extra:
        raise IntegrityError(
            f"its names are not those of the network: {some(missing, 'missing')}, "
            f"{some(extra, 'unknown')}"
        )


def _check_shapes(state: dict[str, Tensor], expected: Expected) -> None:
    shapes = {name: (tuple(bare(t).shape), expected[name][0]) for name, t in state.items()}
    wrong = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    if not wrong:
        return
    name, (shape, right) = next(iter(wrong.items()))
    count = f" (of other shapes: {len(wrong)} of {counted(len(state), 'tensor')})"
    others = count if len(wrong) > 1 else ""
    firsts = {(a[:1], b[:1]) for a, b in wrong.values()}
    advice = "are --model, the number of classes and --image-size right?"
    if len(firsts) == 1 and all(a[1:] == b[1:] and a for a, b in wrong.values()):
        advice = (
            f"the file tells {counted(shape[0], 'class')} apart, if --model is right: it has to be "
            f"--num-classes {shape[0]}"
        )
    raise IntegrityError(
        f"{shown(name)} is of the shape {list(shape)[:8]}, where {list(right)} is expected"
        f"{others}; {advice}"
    )


def _check_kind(name: str, tensor: Tensor, dtype: str) -> None:
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


def _check_storage(name: str, tensor: Tensor) -> None:
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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
