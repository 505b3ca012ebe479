"""A plugin's network or trigger in a process of its own, where there are no labels.

The process of a measurement holds the test labels and the target class, so it runs no code of a
plugin. It sends images in random order to a companion, and gets numbers back. A companion is told
one file, the packages whose classes the file may be of, and the arithmetic of the run.

    question   count of images (4 bytes), float32 images
    answer     0 (1 byte), float32 numbers, as many as the question fixes
               1 (1 byte), length (2 bytes), text: what went wrong

So an answer can lie about nothing but its numbers.
"""

from __future__ import annotations

import importlib.util
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kdbench.attack import Trigger
from kdbench.errors import ContractError, IntegrityError
from kdbench.metrics import Answer, Network, network_of
from kdbench.models.base import FeatureModel
from kdbench.models.files import load_module
from kdbench.numerics import Numerics
from kdbench.untrusted.text import strip_control

#: What a companion's process calls.
ENTRY = f"{__name__}:serve"
#: Names of the links to the two copies of a network, and to a trigger.
COPIES = ("first", "second")
TRIGGER = "trigger"
#: Seconds that an answer may take. Pyramid-200 takes less than a minute on one core.
ANSWER_S = 600.0
_MOST_IMAGES = 4096
_MOST_TEXT = 1000
_COUNT = struct.Struct("=I")
_LENGTH = struct.Struct("=H")
_FLOAT = 4


# -- the process of the measurement ----------------------------------------------------------------


class Link:
    """Questions to one companion. Nothing that it does can raise anything but ContractError here.

    Args:
        descriptor: the socket that leads to it. The caller closes it.
        what: what runs there, in words.
        limit_s: seconds for each answer.
    """

    def __init__(self, descriptor: int, what: str, limit_s: float | None = None) -> None:
        self._descriptor, self._what = descriptor, what
        self._limit_s = ANSWER_S if limit_s is None else limit_s

    def ask(self, images: Tensor, values: int) -> Tensor:
        """``values`` numbers for each of the images, float32 (N, values) on the CPU.

        Raises:
            ContractError: there is no such answer. The message says why.
        """
        deadline = time.monotonic() + self._limit_s
        try:
            with _borrowed(self._descriptor) as companion:
                self._expect_silence(companion)
                _send(companion, images, deadline)
                (failed,) = receive(companion, 1, deadline)
                if failed:
                    raise ContractError(f"{self._what} failed: {_text(companion, deadline)}")
                data = receive(companion, len(images) * values * _FLOAT, deadline)
                self._expect_silence(companion)
        except TimeoutError:
            raise ContractError(f"{self._what} did not answer within {self._limit_s:g} s") from None
        except OSError as error:
            raise ContractError(
                f"{self._what} gave no answer: its process ended ({error.strerror or error})"
            ) from None
        return torch.frombuffer(data, dtype=torch.float32).view(len(images), values)

    def _expect_silence(self, companion: socket.socket) -> None:
        """Refuse what was sent without a question."""
        companion.settimeout(0)
        try:
            data = companion.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError
        raise ContractError(f"{self._what} sent more than it was asked for")


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A socket on a descriptor that stays open."""
    borrowed = socket.socket(fileno=descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _send(companion: socket.socket, images: Tensor, deadline: float) -> None:
    for data in (_COUNT.pack(len(images)), _bytes(images)):
        companion.settimeout(_left(deadline))
        companion.sendall(data)


def _text(companion: socket.socket, deadline: float) -> str:
    """Why a companion failed. Its words, so they are cut and lose their control characters."""
    (length,) = _LENGTH.unpack(receive(companion, _LENGTH.size, deadline))
    text = receive(companion, min(length, _MOST_TEXT), deadline).decode(errors="replace")
    return strip_control(text)


def remote_network(descriptor: int, num_classes: int) -> Network:
    """A network that answers in a companion."""
    link = Link(descriptor, "the network, in a process of its own,")

    def answer(images: Tensor) -> Answer:
        numbers = link.ask(images, num_classes + 1)
        return Answer(numbers[:, :-1], numbers[:, -1])

    return answer


def remote_trigger(descriptor: int) -> Callable[[Tensor], Tensor]:
    """A trigger that draws in a companion."""
    link = Link(descriptor, "the trigger, in a process of its own,")

    def draw(images: Tensor) -> Tensor:
        numbers = link.ask(images, images[0].numel())
        return numbers.view(images.shape).to(images.device)

    return draw


# -- the companion ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """All that a companion is told."""

    role: Literal["network", "trigger"]
    file: str
    """The network or the trigger."""
    packages: list[str]
    """Whose classes it may be of."""
    plugins: str
    """Folder of plugins that are files."""
    num_classes: int
    image_size: int
    mean: list[float]
    """Of each channel. An imported network normalises with it."""
    std: list[float]
    """As ``mean``."""
    device: str
    bf16: bool
    threads: int


def serve(channel: socket.socket, order: Mapping[str, Any], links: Mapping[str, int]) -> None:
    """Answer the questions of a job until it closes the socket."""
    told = Order(**order)
    numerics = Numerics(torch.device(told.device), told.bf16, told.threads)
    torch.set_num_threads(told.threads)
    answer: Callable[[Tensor], Tensor] | None = None
    with _borrowed(links["job"]) as job:
        while (images := _question(job, told.image_size)) is not None:
            try:
                if answer is None:
                    answer = _answers(told, numerics)
                shown = images.to(numerics.device).contiguous(memory_format=torch.channels_last)
                reply = b"\0" + _bytes(answer(shown))
            except (Exception, SystemExit) as error:
                text = f"{type(error).__name__}: {error}".encode()[:_MOST_TEXT]
                reply = b"\1" + _LENGTH.pack(len(text)) + text
            job.settimeout(None)
            job.sendall(reply)


def _question(job: socket.socket, side: int) -> Tensor | None:
    """The next images. None: there are no more."""
    try:
        (count,) = _COUNT.unpack(receive(job, _COUNT.size))
        if not 1 <= count <= _MOST_IMAGES:
            raise IntegrityError(f"a question of {count} images")
        data = receive(job, count * 3 * side * side * _FLOAT)
    except OSError:
        return None
    return torch.frombuffer(data, dtype=torch.float32).view(count, 3, side, side)


def _answers(told: Order, numerics: Numerics) -> Callable[[Tensor], Tensor]:
    """The function that answers. Only here code of a plugin is imported."""
    new = [package for package in told.packages if package not in sys.modules]
    if any(importlib.util.find_spec(package) is None for package in new):
        sys.path.append(told.plugins)
    module, record = load_module(Path(told.file), told.packages)
    return _ROLES[told.role](told, module, record, numerics)


def _network_answers(
    told: Order, module: Any, record: Mapping[str, Any], numerics: Numerics
) -> Callable[[Tensor], Tensor]:
    model = as_network(module, record, told.mean, told.std, Path(told.file).name)
    network = network_of(numerics.place(model), numerics)

    def answer(images: Tensor) -> Tensor:
        logits, variance = network(images)
        wanted = (len(images), told.num_classes)
        if tuple(logits.shape) != wanted or not logits.is_floating_point():
            raise ContractError(
                f"its logits are {logits.dtype} {tuple(logits.shape)}; float {wanted} are needed"
            )
        return torch.cat([logits.float(), variance.view(-1, 1)], dim=1)

    return answer


def _trigger_answers(
    told: Order, module: Any, record: Mapping[str, Any], numerics: Numerics
) -> Callable[[Tensor], Tensor]:
    trigger = numerics.place(as_trigger(module, Path(told.file).name))

    @torch.inference_mode()
    def answer(images: Tensor) -> Tensor:
        stamped: Tensor = trigger(images)
        if stamped.shape != images.shape or stamped.dtype != images.dtype:
            raise ContractError(
                f"it made {stamped.dtype} {tuple(stamped.shape)} of {images.dtype} "
                f"{tuple(images.shape)}; keep type and shape"
            )
        return stamped

    return answer


_ROLES = {"network": _network_answers, "trigger": _trigger_answers}


def as_network(
    module: object, record: Mapping[str, Any], mean: Any, std: Any, file: str
) -> FeatureModel:
    """What was in a file, as a network that normalises as it must.

    Raises:
        IntegrityError: it is no network.
    """
    if not isinstance(module, FeatureModel):
        raise IntegrityError(f"{file} holds a {type(module).__name__}, no network")
    # An imported teacher came as weights alone. Its input is normalised as its import stated, or as
    # the dataset says.
    normalization = record.get("normalization")
    if normalization == "dataset":
        module.set_normalization(tuple(mean), tuple(std))
    elif isinstance(normalization, dict):
        module.set_normalization(tuple(normalization["mean"]), tuple(normalization["std"]))
    return module


def as_trigger(module: object, file: str) -> Trigger:
    """What was in a file, as a trigger.

    Raises:
        IntegrityError: it is none.
    """
    if not isinstance(module, Trigger):
        raise IntegrityError(f"{file} holds a {type(module).__name__}, no trigger")
    return module


# -- both ------------------------------------------------------------------------------------------


def receive(source: socket.socket, size: int, deadline: float | None = None) -> bytearray:
    """Exactly ``size`` bytes.

    Raises:
        TimeoutError: they are not there at the deadline.
        OSError: the other side ended.
    """
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        source.settimeout(None if deadline is None else _left(deadline))
        count = source.recv_into(view[have:])
        if count == 0:
            raise ConnectionResetError
        have += count
    return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _bytes(tensor: Tensor) -> bytes:
    """The numbers of a tensor as float32, one after the other."""
    return tensor.detach().float().cpu().contiguous().numpy().tobytes()
