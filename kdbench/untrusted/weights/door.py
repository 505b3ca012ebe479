"""The parent's side of reading foreign weights.

It copies the file, lets a confined process read the copy, and checks what comes back. The file
itself is never parsed here. Only the plain safetensors that the other process wrote are.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kdbench import __version__
from kdbench._counted import counted
from kdbench.errors import ConfigError, IntegrityError, UsageError
from kdbench.untrusted.box import temporary_folder
from kdbench.untrusted.files import chunks, open_regular
from kdbench.untrusted.header import shown
from kdbench.untrusted.text import strip_control
from kdbench.untrusted.weights.child import WEIGHTS
from kdbench.untrusted.weights.commands import FILE, merge
from kdbench.untrusted.weights.names import BODY
from kdbench.untrusted.weights.process import Reader

if TYPE_CHECKING:
    from torch import Tensor

    from kdbench.models import ModelSource
    from kdbench.untrusted.weights.names import Expected

_MEMORY = 2 << 30
_SECONDS, _BYTES_A_SECOND = 4.0, 25 << 20
_LEAST_MEMORY = 1 << 30
#: A copy may take this long, and no disk is slower.
_COPY_SECONDS, _COPY_BYTES_A_SECOND = 60.0, 1 << 20
#: A path that may stand in a command of the shell as it is.
_PLAIN_PATH = re.compile(r"[\w./@+-]+", re.ASCII)
_PART = re.compile(r"(\w+)-(\d{1,6})-of-(\d{1,6})(\.\w+)", re.ASCII)
_ADDRESS = re.compile(r"https?:/")
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_HEADER = 8 << 20
"""The most bytes that safetensors takes besides the tensors themselves."""


@dataclass(frozen=True)
class Foreign:
    """Weights from elsewhere, checked."""

    state: dict[str, Tensor]
    """Exactly the names, shapes and dtypes of the network's ``state_dict``. Floats are float32 and
    finite."""
    origin: dict[str, Any]
    """Where they are from, and what was done to them.

    - ``file``: the file's name without folders; ``bytes`` and ``sha256`` of it; ``format``.
    - ``converted``: dtypes that became float32.
    - ``unwrapped``: keys of the tables around the weights.
    - ``prefixes``: taken off every name; ``body.`` was added.
    - ``absent_counters``: counters of batches that the file lacks, which are 0 now.
    - Where there are any, ``words``: taken out of some names; ``left_out``: how many values were
      left out that are no weights, as counters of a profiler; ``beside``: places of other tables
      that would fit as well.
    - ``kdbench``, ``torch``: versions. ``confinement``: ``landlock N`` or ``none``.
    """

    def changes(self) -> list[str]:
        """What was done to the weights, in words."""
        origin = self.origin
        changes = [f"{dtype} became float32" for dtype in origin["converted"]]
        changes += [f"taken out of {key!r}" for key in origin["unwrapped"]]
        changes += [
            f"{prefix!r} {'put' if prefix == BODY else 'removed'} before every name"
            for prefix in origin["prefixes"]
        ]
        changes += [f"{word!r} removed from some names" for word in origin.get("words", [])]
        if origin.get("left_out"):
            changes.append(f"{counted(origin['left_out'], 'value')} left out: no weights")
        changes += [
            f"{place!r} left out, which would fit as well" for place in origin.get("beside", [])
        ]
        if origin["absent_counters"]:
            changes.append(f"{origin['absent_counters']} counters of batches were absent and are 0")
        return changes


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
    state: Callable[[], dict[str, Tensor]] | None = None,
) -> Foreign:
    """Read the weights of a named network from a file that nobody has to trust.

    A file that this refuses cannot be loaded at all: unsafe loading is not implemented.

    Args:
        path: safetensors, or a ``state_dict()`` written by ``torch.save``. The content decides, and
            not the suffix.
        model: one of ``kdbench.models.model_names``.
        num_classes: at least 2.
        image_size: pixels a side.
        memory_bytes: private memory of the process that reads, at least 1 GiB. torch takes 0.8 GB
            of it.
        seconds: wall-clock time for the file, above 0. The default is 4 s and 1 s per 25 MiB.
            Starting the process and importing torch do not count.
        expect_sha256: 64 hexadecimal digits that the file has to have.
        sources: networks by name (``Registry.models``); None: kdbench's own.
        state: what the network's ``state_dict()`` holds when it is new; None: of the named network.

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
        network = state or partial(_state, model, num_classes, image_size, sources)
        return _read(path, network, memory_bytes, seconds, expect_sha256)
    except IntegrityError as error:
        text = _with_name(str(error), path)
        raise IntegrityError(f"{shown(path.name)} was not imported: {text}") from None


def _with_name(text: str, path: Path) -> str:
    """A message whose commands name the file, and which says so where it is a part of one."""
    if _PLAIN_PATH.fullmatch(str(path)):
        text = text.replace(FILE, repr(str(path)))
    part = _PART.fullmatch(path.name)
    if part is None:
        return text
    how = merge(part[1], part[4])
    return f"{text} (by its name it is part {int(part[2])} of {int(part[3])}; all of them: {how})"


def _read(
    path: Path,
    state: Callable[[], dict[str, Tensor]],
    memory: int,
    seconds: float | None,
    expect_sha256: str | None,
) -> Foreign:
    with temporary_folder("kdbench-") as folder:
        # The copy is hashed and read, since the original may change meanwhile.
        copy, out = folder / "file", folder / "out"
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
            # This process imports torch and builds the network while the other one imports torch.
            network = state()
            expected = {
                name: (tuple(t.shape), str(t.dtype).removeprefix("torch."))
                for name, t in network.items()
            }
            facts = reader.read(expected)
        weights = _read_back(out / WEIGHTS, expected, network)
    import torch

    origin = {
        "file": strip_control(path.name),
        "bytes": size,
        "sha256": digest,
        "format": kind,
        **facts,
    }
    origin |= {"kdbench": __version__, "torch": torch.__version__, "confinement": how}
    return Foreign(weights, origin)


def _copy(path: Path, to: Path, most: int) -> tuple[int, str]:
    """Copy a regular file of at most ``most`` bytes. Returns its size in bytes and its SHA-256."""
    sha256, size = hashlib.sha256(), 0
    with _opened(path) as source:
        known = os.fstat(source.fileno()).st_size
        if known > most:
            raise IntegrityError(
                f"it is larger than the {most / 2**30:.3g} GiB that reading it may take; allow "
                "more, or save weights only"
            )
        patience = _COPY_SECONDS + known / _COPY_BYTES_A_SECOND
        until = time.monotonic() + patience
        try:
            with to.open("xb", buffering=0) as target:
                for chunk in chunks(source):
                    sha256.update(chunk)
                    target.write(chunk)
                    size += len(chunk)
                    if time.monotonic() > until:
                        raise IntegrityError(
                            f"copying it takes more than {patience:.0f} s; copy it to a faster disk"
                        )
        except OSError as error:
            raise IntegrityError(
                f"it cannot be copied ({error.strerror or error}); try again when it is whole"
            ) from None
    return size, sha256.hexdigest()


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise IntegrityError(f"it is a folder, a pipe or a device; {_instead(path)}") from None
        advice = "name a file that exists and may be read"
        if _ADDRESS.match(str(path)):
            advice = "it is an address: download it, or name hf:OWNER/NAME@COMMIT of the hub"
        raise UsageError(f"cannot open {strip_control(path)}: {error.strerror}; {advice}") from None


def _instead(path: Path) -> str:
    """What to name in the place of a folder."""
    if not path.is_dir():
        return "name a regular file"
    if (path / "data.pkl").exists():
        return "something unpacked what torch.save wrote; name the file as it was saved"
    try:
        files = list(islice(path.iterdir(), 1000))
    except OSError:
        files = []
    inside = sorted(file.name for file in files if file.suffix in _SUFFIXES)
    return (
        f"name a file of weights in it{': ' if inside else ''}{', '.join(map(shown, inside[:4]))}"
    )


def _state(
    model: str, num_classes: int, image_size: int, sources: Mapping[str, ModelSource] | None
) -> dict[str, Tensor]:
    """The state that the network has when it is new."""
    from kdbench.models import blank_model
    from kdbench.models.builtin import MODELS

    network = blank_model(model, num_classes, image_size=image_size, sources=sources or MODELS)
    return network.state_dict()


def _read_back(path: Path, expected: Expected, network: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the other process wrote. The file may have taken it over, so all is checked
    again."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from kdbench.untrusted.weights.weights import check_weights

    most = _HEADER + sum(tensor.numel() * tensor.element_size() for tensor in network.values())
    try:
        # The other process may have left a link, a pipe or a huge file behind.
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
    """Refuse whole numbers that differ from those of a new network.

    Such a buffer holds places in the network's own tables, as in a Swin transformer. Other numbers
    would make the network read elsewhere. Counters of batches are the exception.
    """
    import torch

    for name, tensor in state.items():
        constant = not tensor.is_floating_point() and not name.endswith("num_batches_tracked")
        if constant and not torch.equal(tensor, network[name]):
            raise IntegrityError(
                f"{shown(name)} is not what the network was built with; is --image-size the right "
                "one?"
            )
