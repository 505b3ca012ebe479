"""The parent's side: it copies the file, has it read by a confined process, and checks what comes
back.

Nothing of the file is parsed here but the plain safetensors that the other process wrote.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import __version__
from kdbench.errors import ConfigError, IntegrityError, UsageError
from kdbench.untrusted.text import strip_control
from kdbench.untrusted.weights.child import WEIGHTS
from kdbench.untrusted.weights.kinds import shown
from kdbench.untrusted.weights.process import Reader

if TYPE_CHECKING:
    from torch import Tensor

    from kdbench.models import ModelSource
    from kdbench.untrusted.weights.weights import Expected

_MEMORY = 2 << 30
_SECONDS, _BYTES_A_SECOND = 4.0, 25 << 20
_LEAST_MEMORY = 1 << 30
_CHUNK = 4 << 20
_HEADER = 8 << 20


@dataclass(frozen=True)
class Foreign:
    """Weights from elsewhere.

    state: name -> tensor, exactly the names, shapes and dtypes of the network's ``state_dict``;
    floats are float32 and finite.
    origin: ``file`` (its name, no folder), ``bytes`` and ``sha256`` of it, ``format``,
        ``converted`` (dtypes that became float32), ``unwrapped`` (keys of tables around the
        weights), ``prefixes`` (taken off every name; ``body.`` was added), ``absent_counters`` (of
        batches seen, which are 0 now), ``kdbench`` and ``torch`` (versions), ``confinement``
        (``landlock N`` or ``none``).
    """

    state: dict[str, Tensor]
    origin: dict[str, Any]


def read_foreign(
    path: str | Path,
    *,
    model: str,
    num_classes: int,
    image_size: int,
    memory_bytes: int = _MEMORY,
    seconds: float | None = None,
    expect_sha256: str | None = None,
    sources: Mapping[str, ModelSource] | None = None,
) -> Foreign:
    """Read the weights of a named network from a file that nobody has to trust.

    There is no way to load a file that this refuses: unsafe loading is not implemented.

    Args:
        path: safetensors, or what ``torch.save`` wrote of a ``state_dict()``; its content decides,
            not its suffix.
        model: see ``kdbench.models.model_names``. num_classes: at least 2. image_size: pixels a
            side.
        memory_bytes: private memory of the process that reads, at least 1 GiB, 0.8 GB of which
            torch takes.
        seconds: wall-clock time for the file, above 0; 4 s and 1 s per 25 MiB unless given.
            Starting the process and importing torch do not count.
        expect_sha256: 64 hexadecimal digits that the file has to have.
        sources: networks by name (``Registry.models``); None: kdbench's own.

    Raises:
        IntegrityError: the file is damaged, hostile, takes too much, or does not hold the weights
            of that network.
        UsageError: there is no such file or model, or another argument is wrong.
        KdbenchError: the confined process could not be started.
    """
    if os.name != "posix":
        raise UsageError(
            "foreign weights are read on Linux and macOS only, in a process with limits; use one "
            "of those"
        )
    if memory_bytes < _LEAST_MEMORY:
        raise ConfigError(
            f"memory is {memory_bytes} bytes; torch alone takes most of 1 GiB, so give at least "
            "that"
        )
    if seconds is not None and not 0 < seconds <= 86_400:
        raise ConfigError(f"the time limit is {seconds} s; it must be above 0 and at most 86400")
    if expect_sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", expect_sha256):
        raise ConfigError(f"{expect_sha256!r} is no SHA-256; it has 64 hexadecimal digits")
    path = Path(path)
    try:
        network = partial(_state, model, num_classes, image_size, sources)
        return _read(path, network, memory_bytes, seconds, expect_sha256)
    except IntegrityError as error:
        raise IntegrityError(f"{shown(path.name)} was not imported: {error}") from None


def _read(
    path: Path,
    state: Callable[[], dict[str, Tensor]],
    memory: int,
    seconds: float | None,
    expect_sha256: str | None,
) -> Foreign:
    with tempfile.TemporaryDirectory(prefix="kdbench-", ignore_cleanup_errors=True) as folder:
        # The copy is what is hashed and what is read: the original may change meanwhile.
        copy, out = Path(folder, "file"), Path(folder, "out")
        out.mkdir()
        size, digest = _copy(path, copy, memory)
        if expect_sha256 is not None and digest != expect_sha256.lower():
            raise IntegrityError(
                f"its SHA-256 is {digest}, not the one expected; fetch it once more"
            )
        seconds = seconds if seconds is not None else _SECONDS + size / _BYTES_A_SECOND
        with Reader(copy, out, memory, seconds) as reader:
            how = reader.start()
            kind = reader.inspect()
            # While the other process imports torch, so does this one.
            network = state()
            expected = {
                name: (tuple(t.shape), str(t.dtype).removeprefix("torch."))
                for name, t in network.items()
            }
            facts = reader.read(expected)
        found = _read_back(out / WEIGHTS, expected, network)
    import torch

    origin = {
        "file": strip_control(path.name),
        "bytes": size,
        "sha256": digest,
        "format": kind,
        **facts,
    }
    origin |= {"kdbench": __version__, "torch": torch.__version__, "confinement": how}
    return Foreign(found, origin)


def _copy(path: Path, to: Path, most: int) -> tuple[int, str]:
    """Copy a regular file of at most ``most`` bytes; answers its size and SHA-256."""
    try:
        # Opening a pipe must not wait for whoever writes into it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            f"cannot open {strip_control(path)}: {error.strerror}; name a file that exists and may "
            "be read"
        ) from None
    found, size = hashlib.sha256(), 0
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise IntegrityError("it is a folder, a pipe or a device; name a regular file")
        # Read no further than that even where it grows meanwhile.
        with to.open("xb", buffering=0) as target:
            while size <= most >= facts.st_size and (chunk := os.read(handle, _CHUNK)):
                found.update(chunk)
                target.write(chunk)
                size += len(chunk)
    finally:
        os.close(handle)
    if max(size, facts.st_size) > most:
        raise IntegrityError(
            f"it is larger than the {most / 2**30:.3g} GiB that reading it may take; allow more, "
            "or save weights only"
        )
    return size, found.hexdigest()


def _state(
    model: str, num_classes: int, image_size: int, sources: Mapping[str, ModelSource] | None
) -> dict[str, Tensor]:
    """The state that the network has when it is new."""
    from kdbench.models import blank_model
    from kdbench.models.builtin import MODELS

    network = blank_model(model, num_classes, image_size=image_size, sources=sources or MODELS)
    return network.state_dict()


def _read_back(path: Path, expected: Expected, network: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the other process wrote, which are checked as if it had been taken over."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from kdbench.untrusted.weights.weights import check_weights

    most = _HEADER + sum(tensor.numel() * tensor.element_size() for tensor in network.values())
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError
            held = file.read(most + 1)
        if len(held) > most:
            raise ValueError
        state = load(held)
    except (OSError, ValueError, KeyError, SafetensorError):
        raise IntegrityError(
            "the process that read it left no weights behind; try again, or save a state_dict() "
            "anew"
        ) from None
    check_weights(state, expected)
    state = {name: state[name] for name in expected}
    _check_constants(state, network)
    return state


def _check_constants(state: dict[str, Tensor], network: dict[str, Tensor]) -> None:
    """Whole numbers that a network keeps are places in its own tables, and have to be the ones it
    was built with."""
    import torch

    for name, tensor in state.items():
        constant = not tensor.is_floating_point() and not name.endswith("num_batches_tracked")
        if constant and not torch.equal(tensor, network[name]):
            raise IntegrityError(
                f"{shown(name)} is not what the network was built with; is --image-size the right "
                "one?"
            )
