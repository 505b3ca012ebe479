"""A network's pass over a batch as one CUDA graph, which starts hundreds of small kernels at once.

At these image sizes a GPU computes a kernel faster than Python starts the next one, and waits for
most of a step. On a CPU the plain pass of the network is used. The same holds for a network that
does not say that it can be captured.
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

#: Passes before a capture. In them libraries choose kernels and reserve memory.
_WARM_UP = 3
#: How far a replay may be from the plain pass, as a share of the norm. Two plain passes in bf16
#: differ by less than 0.03.
_TOLERANCE = 0.1


class Pass:
    """``model.features``, captured at the first batch and replayed for batches of the same shape.

    A model with trainable parameters is captured with its backward pass. One without is captured
    under ``no_grad``. Features and gradients are copies, so the next batch does not change them.
    The graph keeps the memory of its activations until the pass is dropped.

    The plain pass is used where the graph does not fit:

    - another shape, mode or arithmetic,
    - a network with hooks, or with other trainable parameters,
    - a pass without gradients of a model that learns,
    - a second forward pass before the backward pass of the first. It would overwrite the
      activations of the first.

    Before a graph is used, it is compared with the plain pass, on other images and with other
    weights than at the capture. If the two differ, or if the capture fails, a RuntimeWarning says
    so, and every pass is a plain one. A capture fails for want of memory, or for a model that
    cannot be captured though it says so.

    Args:
        model: on the device, and in the mode that it stays in.
        numerics: of the run. Passes are made under its autocast.
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
        groups, taps, (logits, *stem) = (
            copies[:GROUPS],
            copies[GROUPS : 2 * GROUPS],
            copies[2 * GROUPS :],
        )
        return FeatureOutput(groups, taps, logits, *stem)

    def logits(self, images: Tensor) -> Tensor:
        """Float images (N, 3, H, W) in [0, 1] -> logits (N, num_classes)."""
        return self(images).logits

    def _now(self, images: Tensor) -> tuple[object, ...]:
        """Everything but values that the captured kernels depend on."""
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
        """Whether a part of the model has a hook, which a replay would not call."""
        return any(
            p._forward_hooks or p._forward_pre_hooks or p._backward_hooks or p._backward_pre_hooks
            for p in self._parts
        )

    def _captured(self, images: Tensor) -> Graph | None:
        """The graph. None: it could not be captured, or computes something else."""
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
        # No cache of casts. A cast made before the capture would not be part of the graph, which
        # would then go on with old weights.
        enabled = torch.is_autocast_enabled(self._numerics.device.type)
        autocast = torch.autocast(
            self._numerics.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False
        )
        # A stream belongs to the current device unless another is named. The current device need
        # not be that of the run.
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
    """A function from batches to the features of a frozen teacher, without gradients."""
    features = Pass(teacher.model, numerics)

    def of_batch(batch: Batch) -> FeatureOutput:
        with torch.no_grad(), numerics.autocast():
            return features(batch.images)

    return of_batch


class _Flat(nn.Module):
    """The features as a plain tuple, which graphs can hold."""

    def __init__(self, model: FeatureModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model.features(images)
        stem = () if out.stem is None else (out.stem,)
        return *out.groups, *out.taps, out.logits, *stem


class _Outcome(NamedTuple):
    """The result of a pass."""

    outputs: tuple[Tensor, ...]
    #: The gradients of all parameters as one vector.
    gradients: Tensor
    #: Places of the parameters without a gradient.
    without: tuple[int, ...]

    def agrees(self, other: _Outcome) -> bool:
        """Whether each output, and all gradients together, are near those of the other.

        Values that overflow are not compared.
        """
        pairs = [*zip(self.outputs, other.outputs, strict=True), (self.gradients, other.gradients)]
        return self.without == other.without and all(
            (a.float() - b.float()).norm() <= _TOLERANCE * a.float().norm()
            for a, b in pairs
            if a.isfinite().all()
        )


def _outcome(run: Run, images: Tensor, parameters: Sequence[Tensor]) -> _Outcome:
    """The result of ``run`` with flipped parameters.

    Gradients are those of the sum over all outputs of their mean squares.
    """
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
    """Reverse the first dimension of each parameter inside.

    That gives other weights without random numbers, and is undone exactly.
    """

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
    """Run what is inside on another stream, as a capture does."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put buffers back afterwards. Warming up would change the statistics of batch norms."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)
