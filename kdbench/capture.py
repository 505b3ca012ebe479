"""A network's pass over a batch as one CUDA graph: the hundreds of small kernels of a deep network
are started at once.

At these image sizes a GPU computes a kernel faster than Python starts the next, so that it waits
for most of a step. On a CPU, and for a network that does not say that it can be captured,
everything here is the network's own pass.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdbench.models.base import GROUPS, FeatureModel, FeatureOutput
from kdbench.numerics import Numerics

#: Passes before a capture, in which libraries choose kernels and reserve memory.
_WARM_UP = 3
#: How far a replay may be from the network's own pass, as a share of the norm; two passes in bf16
#: differ by less than 0.03.
_TOLERANCE = 0.1


class Pass:
    """``model.features`` of images, captured at the first batch and replayed for every batch of
    that shape.

    A model with trainable parameters is captured with its backward pass, and one without under
    ``no_grad``. What is handed out, gradients too, is a copy: it stays what it is when the next
        batch comes. Whatever the graph does not fit is computed
    without it: another shape, mode or arithmetic; a network with hooks, or with other parameters
    that learn; a pass without gradients of a model that learns; a second pass before the backward
    one of the first, whose activations it would overwrite. The graph keeps the memory of its
    activations until the pass is dropped.

    A graph is compared with the network's own pass before it is used, on other images and with
    other weights than those it was captured with. Where the two differ, or the capture fails (of a
    model that says that it can be captured and cannot, or for want of memory), a RuntimeWarning
    says so and every pass is the network's own.

    Args:
        model: on the device and in the mode it stays in. numerics: of the run; passes are made
            under its autocast.
    """

    def __init__(self, model: FeatureModel, numerics: Numerics) -> None:
        self._model, self._numerics = model, numerics
        self._parts, self._parameters = list(model.modules()), list(model.parameters())
        self._learning = [p for p in self._parameters if p.requires_grad]
        self._learns = bool(self._learning)
        self._usable = numerics.device.type == "cuda" and model.capturable
        self._graph: _Graph | None = None
        self._fits: tuple[object, ...] = ()

    def __call__(self, images: Tensor) -> FeatureOutput:
        """Float images (N, 3, H, W) in [0, 1] -> features and logits."""
        if (
            not self._usable
            or images.requires_grad
            or torch.is_grad_enabled() != self._learns
            or self._hooked()
        ):
            return self._model.features(images)
        if self._graph is None:
            self._graph, self._fits = self._captured(images), self._now(images)
            self._usable = self._graph is not None
        if self._graph is None or self._graph.open or self._fits != self._now(images):
            return self._model.features(images)
        copies = tuple(t.clone() for t in self._graph(images))
        return FeatureOutput(copies[:GROUPS], copies[GROUPS : 2 * GROUPS], copies[-1])

    def logits(self, images: Tensor) -> Tensor:
        """Float images (N, 3, H, W) in [0, 1] -> logits (N, num_classes)."""
        return self(images).logits

    def _now(self, images: Tensor) -> tuple[object, ...]:
        """Everything besides values that the captured kernels depend on."""
        modes = [part.training for part in self._parts]
        learning = [p.requires_grad for p in self._parameters]
        return (
            images.shape,
            images.dtype,
            torch.is_autocast_enabled(self._numerics.device.type),
            modes,
            learning,
        )

    def _hooked(self) -> bool:
        """Whether a method has hung something on a part that a replay would not call."""
        return any(
            p._forward_hooks or p._forward_pre_hooks or p._backward_hooks or p._backward_pre_hooks
            for p in self._parts
        )

    def _captured(self, images: Tensor) -> _Graph | None:
        """The graph, or None where there is none that computes what the network does."""
        try:
            return self._capture(images)
        except RuntimeError as error:  # torch has no narrower class for what a capture may meet
            name = type(self._model).__name__
            warnings.warn(
                f"{name} is computed without CUDA graphs, which takes longer: {error}",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

    def _capture(self, images: Tensor) -> _Graph:
        # No cache of casts: those made before a capture would not be part of it, and weights would
        # stay what they were.
        enabled = torch.is_autocast_enabled(self._numerics.device.type)
        autocast = torch.autocast(
            self._numerics.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False
        )
        # A stream belongs to a device, and one that is not named to the current device, which need
        # not be the run's.
        with torch.cuda.device(images.device), autocast, _kept_buffers(self._model):
            flat, shown, other = _Flat(self._model), images.clone(), 1 - images
            with _aside():
                for _ in range(_WARM_UP):
                    _outcome(flat, shown, self._learning)
                own = _outcome(flat, other, self._learning)
                reached = _reached(flat(shown), self._learning) if self._learns else []
            graph = (
                _record_both(flat, shown, self._learning, reached)
                if self._learns
                else _record_forward(flat, shown)
            )
            if not own.agrees(_outcome(graph, other, self._learning)):
                raise RuntimeError(
                    "replayed, it gives other features or gradients than the network itself"
                )
        return graph


class _Flat(nn.Module):
    """The features as a plain tuple."""

    def __init__(self, model: FeatureModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model.features(images)
        return *out.groups, *out.taps, out.logits


class _Graph(Protocol):
    """Images -> the graph's own outputs. open: whether a backward pass may still come that another
    replay would spoil."""

    open: bool

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]: ...


class _Forward:
    """A captured pass without gradients. images, found: its memory."""

    open = False

    def __init__(
        self, graph: torch.cuda.CUDAGraph, images: Tensor, found: tuple[Tensor, ...]
    ) -> None:
        self._graph, self._images, self._found = graph, images, found

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        self._images.copy_(images)
        self._graph.replay()
        return self._found


class _Turn:
    """One replay: lives as long as somebody can go backward through it."""

    done = False


class _Both:
    """A captured forward and backward pass, one node of autograd.

    Not torch.cuda.make_graphed_callables: that one keeps the captured autograd graph, and with it,
    on the stream of the capture, the nodes that gather gradients, which then wait for one another
    in every step; it fills in zeros for every output that a loss leaves out; and what it hands out
    as gradients is overwritten by the next replay.

    Args:
        forward, backward: the graphs. images, found, slopes, gradients: their memory; slopes are 0.
            gradients: of parameters.
        reached: for each of ``found`` the places of the parameters that it depends on.
    """

    def __init__(
        self,
        forward: torch.cuda.CUDAGraph,
        backward: torch.cuda.CUDAGraph,
        images: Tensor,
        found: tuple[Tensor, ...],
        slopes: tuple[Tensor, ...],
        gradients: tuple[Tensor | None, ...],
        parameters: list[Tensor],
        reached: list[set[int]],
    ) -> None:
        self._forward, self._backward = forward, backward
        self._images, self._found, self._slopes, self._gradients = images, found, slopes, gradients
        self._parameters, self._reached = parameters, reached
        self._written: set[int] = set()
        self._turn: weakref.ref[_Turn] | None = None

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return _Node.apply(self, images, *self._parameters)

    @property
    def open(self) -> bool:
        turn = None if self._turn is None else self._turn()
        return turn is not None and not turn.done

    def go_forward(self, images: Tensor) -> tuple[_Turn, tuple[Tensor, ...]]:
        turn = _Turn()
        self._turn = weakref.ref(turn)
        self._images.copy_(images)
        self._forward.replay()
        return turn, tuple(t.detach() for t in self._found)

    def go_backward(self, turn: _Turn, slopes: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        if self._turn is None or self._turn() is not turn:
            raise RuntimeError(
                "a backward pass through a batch whose activations the next batch has overwritten"
            )
        turn.done = True
        for i, (held, slope) in enumerate(zip(self._slopes, slopes, strict=True)):
            if slope is not None:
                held.copy_(slope)
            elif i in self._written:
                held.zero_()
        self._written = {i for i, slope in enumerate(slopes) if slope is not None}
        self._backward.replay()
        # A parameter that the loss does not depend on has no gradient, which is not a gradient of
        # 0: weights would decay.
        learned = sorted(set().union(*(self._reached[i] for i in self._written)))
        # Copies of all of them in a few kernels; a clone each would be hundreds.
        copies = dict(
            zip(
                learned, torch._foreach_mul([self._gradients[k] for k in learned], 1.0), strict=True
            )
        )
        return [copies.get(k) for k in range(len(self._gradients))]


class _Node(torch.autograd.Function):
    """Where autograd enters :class:`_Both`."""

    @staticmethod
    def forward(ctx: Any, graph: _Both, images: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.graph = graph
        ctx.turn, found = graph.go_forward(images)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.graph.go_backward(ctx.turn, slopes)


def _record_both(
    flat: _Flat, shown: Tensor, parameters: list[Tensor], reached: list[set[int]]
) -> _Both:
    forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with _recording(forward):
        found = flat(shown)
    slopes = tuple(torch.zeros_like(t) for t in found)
    with _recording(backward, forward):
        # Retained, so that going backward leaves the activations as they are and can be done again.
        gradients = _gradients(found, parameters, slopes)
    return _Both(
        forward,
        backward,
        shown,
        tuple(t.detach() for t in found),
        slopes,
        gradients,
        parameters,
        reached,
    )


def _reached(found: tuple[Tensor, ...], parameters: list[Tensor]) -> list[set[int]]:
    """For each of ``found`` the places of the parameters that it depends on."""
    slopes = [_gradients((t,), parameters, (torch.zeros_like(t),)) for t in found]
    return [{k for k, slope in enumerate(of_one) if slope is not None} for of_one in slopes]


def _gradients(
    found: tuple[Tensor, ...], parameters: list[Tensor], slopes: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Of each parameter, None of one that nothing depends on. Outputs before the first learned
    layer lead to none."""
    leading = [(t, slope) for t, slope in zip(found, slopes, strict=True) if t.requires_grad]
    if not leading:
        return (None,) * len(parameters)
    outputs, slopes = zip(*leading, strict=True)
    return torch.autograd.grad(outputs, parameters, slopes, allow_unused=True, retain_graph=True)


def _record_forward(flat: _Flat, shown: Tensor) -> _Forward:
    graph = torch.cuda.CUDAGraph()
    with _recording(graph):
        found = flat(shown)
    return _Forward(graph, shown, found)


class _Outcome(NamedTuple):
    """outputs: each by itself. gradients: one vector of all, and which parameters have none."""

    outputs: tuple[Tensor, ...]
    gradients: Tensor
    without: tuple[int, ...]

    def agrees(self, other: _Outcome) -> bool:
        """Whether each output, and all gradients together, are the other's. What overflows tells
        nothing."""
        pairs = [*zip(self.outputs, other.outputs, strict=True), (self.gradients, other.gradients)]
        return self.without == other.without and all(
            (a.float() - b.float()).norm() <= _TOLERANCE * a.float().norm()
            for a, b in pairs
            if a.isfinite().all()
        )


def _outcome(
    run: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, parameters: list[Tensor]
) -> _Outcome:
    """What ``run`` gives with turned parameters, and the gradients of the sum of its outputs' mean
    squares."""
    slopes: tuple[Tensor | None, ...] = ()
    with _turned(parameters):
        found = run(images)
        if parameters:
            loss = torch.stack([t.float().square().mean() for t in found]).sum()
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradients = [slope.flatten().float() for slope in slopes if slope is not None]
    return _Outcome(
        tuple(t.detach() for t in found),
        torch.cat(gradients) if gradients else found[0].new_zeros(0),
        tuple(i for i, slope in enumerate(slopes) if slope is None),
    )


@contextmanager
def _turned(parameters: list[Tensor]) -> Iterator[None]:
    """Parameters with their first dimension reversed meanwhile: other weights, no random numbers,
    exactly undone."""

    def turn() -> None:
        with torch.no_grad():
            for p in parameters:
                if p.dim():
                    p.copy_(p.flip(0))

    turn()
    try:
        yield
    finally:
        turn()


@contextmanager
def _aside() -> Iterator[None]:
    """On a stream of its own, as what is captured later."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _recording(
    graph: torch.cuda.CUDAGraph, after: torch.cuda.CUDAGraph | None = None
) -> torch.cuda.graph:
    """``after``: whose memory it shares. What other threads do meanwhile, such as a loader that
    pins pages, is theirs."""
    return torch.cuda.graph(
        graph, pool=None if after is None else after.pool(), capture_error_mode="thread_local"
    )


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
