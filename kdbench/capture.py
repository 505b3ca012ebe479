"""A network's pass over a batch as one CUDA graph: the hundreds of small kernels of a deep network are started at once.

At these image sizes a GPU computes a kernel faster than Python starts the next, so that it waits for most of a step. On a CPU,
and for a network that does not say that it can be captured, everything here is the network's own pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdbench.models.base import GROUPS, FeatureModel, FeatureOutput
from kdbench.numerics import Numerics

#: Passes before a capture, in which libraries choose kernels and reserve memory.
_WARM_UP = 3


class Pass:
    """``model.features`` of images, captured at the first batch and replayed for every batch of that shape.

    A model with trainable parameters is captured with its backward pass, and one without under ``no_grad``. What is handed
    out is a copy: it stays what it is when the next batch comes. Whatever the graph does not fit is computed without it:
    another shape, mode or arithmetic; a pass without gradients of a model that learns; a second pass before the backward one
    of the first, whose activations it would overwrite.

    Args:
        model: on the device and in the mode it stays in. numerics: of the run; passes are made under its autocast.
    """

    def __init__(self, model: FeatureModel, numerics: Numerics) -> None:
        self._model, self._numerics = model, numerics
        self._learns = any(p.requires_grad for p in model.parameters())
        self._usable = numerics.device.type == "cuda" and model.capturable
        self._replay: Callable[[Tensor], tuple[Tensor, ...]] | None = None
        self._fits: tuple[object, ...] = ()
        self._open = False

    def __call__(self, images: Tensor) -> FeatureOutput:
        """Float images (N, 3, H, W) in [0, 1] -> features and logits."""
        if not self._usable or self._open or images.requires_grad or torch.is_grad_enabled() != self._learns:
            return self._model.features(images)
        if self._replay is None:
            self._replay, self._fits = self._capture(images), self._now(images)
        if self._fits != self._now(images):
            return self._model.features(images)
        found = self._replay(images)
        if self._learns:
            self._open = True
            found[-1].grad_fn.register_hook(self._close)  # type: ignore[union-attr]
        copies = tuple(t.clone() for t in found)
        return FeatureOutput(copies[:GROUPS], copies[GROUPS : 2 * GROUPS], copies[-1])

    def logits(self, images: Tensor) -> Tensor:
        """Float images (N, 3, H, W) in [0, 1] -> logits (N, num_classes)."""
        return self(images).logits

    def _close(self, *_: object) -> None:
        self._open = False

    def _now(self, images: Tensor) -> tuple[object, ...]:
        device = self._numerics.device.type
        return images.shape, images.dtype, self._model.training, torch.is_autocast_enabled(device)

    def _capture(self, images: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
        # No cache of casts: those made before a capture would not be part of it, and weights would stay what they were.
        enabled = torch.is_autocast_enabled(self._numerics.device.type)
        autocast = torch.autocast(self._numerics.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)
        capture = _capture_both if self._learns else _capture_forward
        with autocast, _kept_buffers(self._model):
            return capture(_Flat(self._model), images)


class _Flat(nn.Module):
    """The features as a plain tuple, which is what a capture takes."""

    def __init__(self, model: FeatureModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model.features(images)
        return *out.groups, *out.taps, out.logits


class _Graphs(torch.autograd.Function):
    """Both graphs as one node of autograd.

    Not torch.cuda.make_graphed_callables: that one keeps the captured autograd graph, and with it, on the stream of the
    capture, the nodes that gather gradients, which then wait for one another in every step; and it fills in zeros for every
    output that a loss leaves out.
    """

    @staticmethod
    def forward(ctx: Any, graphs: _Both, images: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.graphs = graphs
        ctx.set_materialize_grads(False)
        graphs.images.copy_(images)
        graphs.forward.replay()
        return tuple(t.detach() for t in graphs.found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        graphs: _Both = ctx.graphs
        for i, (held, slope) in enumerate(zip(graphs.slopes, slopes, strict=True)):
            if slope is not None:
                held.copy_(slope)
            elif i in graphs.written:
                held.zero_()
        graphs.written = {i for i, slope in enumerate(slopes) if slope is not None}
        graphs.backward.replay()
        # Detached: what is gathered may then be the graph's own memory, which stays as it is until the next backward pass.
        return None, None, *(None if g is None else g.detach() for g in graphs.gradients)


@dataclass
class _Both:
    """A forward and a backward pass. images, found, slopes, gradients: their memory; written: which slopes are not 0."""

    images: Tensor
    forward: torch.cuda.CUDAGraph
    found: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    backward: torch.cuda.CUDAGraph
    gradients: tuple[Tensor | None, ...]
    written: set[int] = field(default_factory=set)


def _capture_both(flat: _Flat, images: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    parameters = [p for p in flat.parameters() if p.requires_grad]
    shown = images.clone()
    with _warming_up():
        for _ in range(_WARM_UP):
            found = flat(shown)
            torch.autograd.grad(found, parameters, [torch.zeros_like(t) for t in found], allow_unused=True)
    del found
    forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(forward):
        found = flat(shown)
    slopes = tuple(torch.zeros_like(t) for t in found)
    with torch.cuda.graph(backward, pool=forward.pool()):
        gradients = torch.autograd.grad(found, parameters, slopes, allow_unused=True)
    both = _Both(shown, forward, tuple(t.detach() for t in found), slopes, backward, gradients)
    return lambda batch: _Graphs.apply(both, batch, *parameters)


def _capture_forward(flat: _Flat, images: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    shown = images.clone()
    with _warming_up():
        for _ in range(_WARM_UP):
            flat(shown)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = flat(shown)

    def replay(batch: Tensor) -> tuple[Tensor, ...]:
        shown.copy_(batch)
        graph.replay()
        return found

    return replay


@contextmanager
def _warming_up() -> Iterator[None]:
    """On a stream of its own, as what is captured later."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Warming up and capturing leave the statistics of batch norms where they were."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)
