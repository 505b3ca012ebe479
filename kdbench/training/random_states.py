"""The global random states of torch, numpy and Python: seeded, kept, put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdbench.training.checkpoint import Checkpoint


class _States(NamedTuple):
    """All global random states at one moment."""

    torch: Tensor
    #: One for each GPU.
    cuda: list[Tensor]
    #: What ``numpy.random.get_state`` returns.
    numpy: Any
    #: What ``random.getstate`` returns.
    python: Any

    @classmethod
    def now(cls, cuda: bool = True) -> _States:
        """The states now. ``cuda``: those of GPUs, too, which starts their driver."""
        gpus = torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_available() else []
        return cls(torch.get_rng_state(), gpus, np.random.get_state(), random.getstate())

    def put_back(self) -> None:
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        np.random.set_state(self.numpy)
        random.setstate(self.python)


@contextmanager
def seeded(seed: int, cuda: bool = True) -> Iterator[None]:
    """Seed the global random states inside, and put them back outside. ``cuda``: GPUs, too."""
    outside = _States.now(cuda)
    try:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        outside.put_back()


class RandomStates:
    """The random states of one of several trainees in one process.

    They are the global ones inside ``with``, while the trainee has its turn.
    """

    def __init__(self) -> None:
        self._inside = _States.now()

    def __enter__(self) -> None:
        self._outside = _States.now()
        self._inside.put_back()

    def __exit__(self, *_: object) -> None:
        self._inside = _States.now()
        self._outside.put_back()


def random_state(generator: torch.Generator) -> Checkpoint:
    """Every random state that a training step may draw from.

    These are the loop's generator and the global states of torch, numpy and Python.
    """
    states = _States.now()
    tensors = {"random.generator": generator.get_state(), "random.torch": states.torch}
    tensors |= {f"random.cuda.{i}": state for i, state in enumerate(states.cuda)}
    kind, keys, *rest = states.numpy
    tensors["random.numpy"] = torch.from_numpy(keys.astype(np.int64))
    version, numbers, gauss = states.python
    return Checkpoint(tensors, {"numpy": [kind, *rest], "python": [version, list(numbers), gauss]})


def restore_random_state(saved: Checkpoint, generator: torch.Generator) -> None:
    """Put back what :func:`random_state` returned."""
    tensors = saved.tensors
    generator.set_state(tensors["random.generator"])
    cuda = [
        tensors[f"random.cuda.{i}"]
        for i in range(sum(name.startswith("random.cuda.") for name in tensors))
    ]
    kind, *rest = saved.record["numpy"]
    numpy = (kind, tensors["random.numpy"].numpy().astype(np.uint32), *rest)
    version, numbers, gauss = saved.record["python"]
    _States(tensors["random.torch"], cuda, numpy, (version, tuple(numbers), gauss)).put_back()
