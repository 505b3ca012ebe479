"""Passes over a batch that are recorded as CUDA graphs, and how to record them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: A pass: images -> several outputs.
Run = Callable[[Tensor], tuple[Tensor, ...]]


class Graph(Protocol):
    """Images -> the outputs in the memory of the graph. The next replay overwrites them."""

    @property
    def open(self) -> bool:
        """Whether a backward pass may still come. Another replay would spoil it."""
        ...

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]: ...


class Forward:
    """A captured pass without gradients. ``images`` and ``outputs`` are its memory."""

    #: There is no backward pass to wait for.
    open = False

    def __init__(
        self, graph: torch.cuda.CUDAGraph, images: Tensor, outputs: tuple[Tensor, ...]
    ) -> None:
        self._graph, self._images, self._outputs = graph, images, outputs

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        self._images.copy_(images)
        self._graph.replay()
        return self._outputs


class Replay:
    """One replay. It lives as long as the autograd graph that can go backward through it."""

    #: Its backward pass has been made.
    done = False


class ForwardBackward:
    """A captured forward and backward pass, one node of autograd.

    torch.cuda.make_graphed_callables does not do here, for three reasons:

    - It keeps the captured autograd graph. With it, the nodes that gather gradients stay on the
      stream of the capture and wait for one another in every step.
    - It fills in zeros for every output that a loss does not use.
    - Its gradients are overwritten by the next replay.

    Args:
        forward: the graph of the forward pass. It reads ``images`` and writes ``outputs``.
        backward: the graph of the backward pass. It reads ``output_grads`` and writes
            ``gradients``.
        output_grads: the memory for the gradients of the outputs, all 0 now.
        gradients: the memory for the gradients of ``parameters``.
        reached: for each of ``outputs`` the places of the parameters that it depends on.
    """

    def __init__(
        self,
        forward: torch.cuda.CUDAGraph,
        backward: torch.cuda.CUDAGraph,
        images: Tensor,
        outputs: tuple[Tensor, ...],
        output_grads: tuple[Tensor, ...],
        gradients: tuple[Tensor | None, ...],
        parameters: Sequence[Tensor],
        reached: list[set[int]],
    ) -> None:
        self._forward, self._backward = forward, backward
        self._images, self._outputs = images, outputs
        self._output_grads, self._gradients = output_grads, gradients
        self._parameters, self._reached = parameters, reached
        self._written: set[int] = set()
        self._replay: weakref.ref[Replay] | None = None

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = Node.apply(self, images, *self._parameters)
        return outputs

    @property
    def open(self) -> bool:
        replay = None if self._replay is None else self._replay()
        return replay is not None and not replay.done

    def go_forward(self, images: Tensor) -> tuple[Replay, tuple[Tensor, ...]]:
        replay = Replay()
        self._replay = weakref.ref(replay)
        self._images.copy_(images)
        self._forward.replay()
        return replay, tuple(t.detach() for t in self._outputs)

    def go_backward(
        self, replay: Replay, output_grads: tuple[Tensor | None, ...]
    ) -> list[Tensor | None]:
        if self._replay is None or self._replay() is not replay:
            raise RuntimeError(
                "a backward pass through a batch whose activations the next batch has overwritten"
            )
        replay.done = True
        for i, (held, grad) in enumerate(zip(self._output_grads, output_grads, strict=True)):
            if grad is not None:
                held.copy_(grad)
            elif i in self._written:
                held.zero_()
        self._written = {i for i, grad in enumerate(output_grads) if grad is not None}
        self._backward.replay()
        # A parameter that the loss does not depend on has no gradient. With a gradient of 0 the
        # optimiser would still decay its weights.
        learned = sorted(set().union(*(self._reached[i] for i in self._written)))
        # This copies all of them in a few kernels. Clones would take hundreds.
        gradients = {k: grad for k in learned if (grad := self._gradients[k]) is not None}
        copies = dict(zip(gradients, torch._foreach_mul([*gradients.values()], 1.0), strict=True))
        return [copies.get(k) for k in range(len(self._gradients))]


class Node(torch.autograd.Function):
    """Where autograd enters :class:`ForwardBackward`."""

    @staticmethod
    def forward(
        ctx: Any, graph: ForwardBackward, images: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.graph = graph
        ctx.replay, outputs = graph.go_forward(images)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.graph.go_backward(ctx.replay, output_grads)


def record_forward_backward(
    flat: Run, shown: Tensor, parameters: Sequence[Tensor], reached: list[set[int]]
) -> ForwardBackward:
    """Record a pass over ``shown`` and its backward pass."""
    forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with recording(forward):
        outputs = flat(shown)
    output_grads = tuple(torch.zeros_like(t) for t in outputs)
    with recording(backward, forward):
        # Retained, so that a backward pass leaves the activations as they are and can be replayed
        # again.
        gradients = gradients_of(outputs, parameters, output_grads)
    return ForwardBackward(
        forward,
        backward,
        shown,
        tuple(t.detach() for t in outputs),
        output_grads,
        gradients,
        parameters,
        reached,
    )


def reached_by(outputs: tuple[Tensor, ...], parameters: Sequence[Tensor]) -> list[set[int]]:
    """For each of ``outputs`` the places of the parameters that it depends on."""
    output_grads = [gradients_of((t,), parameters, (torch.zeros_like(t),)) for t in outputs]
    return [{k for k, grad in enumerate(grads) if grad is not None} for grads in output_grads]


def gradients_of(
    outputs: tuple[Tensor, ...], parameters: Sequence[Tensor], output_grads: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """The gradient of each parameter. None: no output depends on it."""
    # An output before the first trainable layer has no gradient to start from.
    leading = [(t, grad) for t, grad in zip(outputs, output_grads, strict=True) if t.requires_grad]
    if not leading:
        return (None,) * len(parameters)
    starts, start_grads = zip(*leading, strict=True)
    return torch.autograd.grad(
        starts, parameters, start_grads, allow_unused=True, retain_graph=True
    )


def record_forward(flat: Run, shown: Tensor) -> Forward:
    """Record a pass over ``shown`` without gradients."""
    graph = torch.cuda.CUDAGraph()
    with recording(graph):
        outputs = flat(shown)
    return Forward(graph, shown, outputs)


def recording(
    graph: torch.cuda.CUDAGraph, after: torch.cuda.CUDAGraph | None = None
) -> torch.cuda.graph:
    """Record what is inside as ``graph``, in the memory of the graph ``after``."""
    # Other threads may use CUDA meanwhile, as a loader does that pins pages. Only this thread is
    # watched.
    return torch.cuda.graph(
        graph, pool=None if after is None else after.pool(), capture_error_mode="thread_local"
    )
