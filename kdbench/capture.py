"""A network's pass over a batch as one CUDA graph: the hundreds of small kernels of a deep network
are started at once.

At these image sizes a GPU computes a kernel faster than Python starts the next, so that it waits
for most of a step. On a CPU, and for a network that does not say that it can be captured,
everything here is the network's own pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdbench._cuda_graphs import Graph, Run, reached_by, record_forward, record_forward_backward
from kdbench.data.base import Batch
from kdbench.models.base import GROUPS, FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher
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
    batch comes. The graph keeps the memory of its activations until the pass is dropped.

    Whatever the graph does not fit is computed without it: another shape, mode or arithmetic; a
    network with hooks, or with other parameters that learn; a pass without gradients of a model
    that learns; a second pass before the backward one of the first, whose activations it would
    overwrite.

    A graph is compared with the network's own pass before it is used, on other images and with
    other weights than those it was captured with. Where the two differ, or the capture fails (of a
    model that says that it can be captured and cannot, or for want of memory), a RuntimeWarning
    says so and every pass is the network's own.

    Args:
        model: on the device and in the mode it stays in.
        numerics: of the run; passes are made under its autocast.
    """

    def __init__(self, model: FeatureModel, numerics: Numerics) -> None:
        self._model, self._numerics = model, numerics
        self._parts, self._parameters = list(model.modules()), list(model.parameters())
        self._learning = [p for p in self._parameters if p.requires_grad]
        self._learns = bool(self._learning)
        self._usable = numerics.device.type == "cuda" and model.capturable
        self._graph: Graph | None = None
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

    def _captured(self, images: Tensor) -> Graph | None:
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

    def _capture(self, images: Tensor) -> Graph:
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
            with _side_stream():
                for _ in range(_WARM_UP):
                    _outcome(flat, shown, self._learning)
                expected = _outcome(flat, other, self._learning)
                reached = reached_by(flat(shown), self._learning) if self._learns else []
            graph = (
                record_forward_backward(flat, shown, self._learning, reached)
                if self._learns
                else record_forward(flat, shown)
            )
            if not expected.agrees(_outcome(graph, other, self._learning)):
                raise RuntimeError(
                    "replayed, it gives other features or gradients than the network itself"
                )
        return graph


def teacher_features(
    teacher: FrozenTeacher, numerics: Numerics
) -> Callable[[Batch], FeatureOutput]:
    """The features of a frozen teacher, for batch after batch: a :class:`Pass` without gradients
    under the run's autocast."""
    features = Pass(teacher.model, numerics)

    def of_batch(batch: Batch) -> FeatureOutput:
        with torch.no_grad(), numerics.autocast():
            return features(batch.images)

    return of_batch


class _Flat(nn.Module):
    """The features as a plain tuple."""

    def __init__(self, model: FeatureModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model.features(images)
        return *out.groups, *out.taps, out.logits


class _Outcome(NamedTuple):
    """What a pass gives."""

    outputs: tuple[Tensor, ...]
    #: Those of all parameters in one vector.
    gradients: Tensor
    #: The places of the parameters that have none.
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


def _outcome(run: Run, images: Tensor, parameters: Sequence[Tensor]) -> _Outcome:
    """What ``run`` gives with flipped parameters, and the gradients of the sum of its outputs' mean
    squares."""
    grads: tuple[Tensor | None, ...] = ()
    with _flipped_weights(parameters):
        outputs = run(images)
        if parameters:
            loss = torch.stack([t.float().square().mean() for t in outputs]).sum()
            grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradients = [grad.flatten().float() for grad in grads if grad is not None]
    return _Outcome(
        tuple(t.detach() for t in outputs),
        torch.cat(gradients) if gradients else outputs[0].new_zeros(0),
        tuple(i for i, grad in enumerate(grads) if grad is None),
    )


@contextmanager
def _flipped_weights(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Parameters with their first dimension reversed meanwhile: other weights, no random numbers,
    exactly undone."""

    def flip() -> None:
        with torch.no_grad():
            for p in parameters:
                if p.dim():
                    p.copy_(p.flip(0))

    flip()
    try:
        yield
    finally:
        flip()


@contextmanager
def _side_stream() -> Iterator[None]:
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
