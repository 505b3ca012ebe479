"""The implicit term of SCAR: what the surrogate student makes of a change of the teacher.

The surrogate F_s with weights w is distilled from the teacher F_t with the inner loss

    inner(w) = CE(F_s(x; w), y) + delta KL(softmax(F_t(x)) || softmax(F_s(x; w)))

and the attacker wants a small outer loss of it, with the triggered images G(x) and the target t:

    outer(w) = beta CE(F_s(x; w), y) + gamma CE(F_s(G(x); w), t)

A step of the inner training takes w to w - s d inner / d w. So the outer loss changes with the
teacher by -s (d^2 inner / d teacher d w)^T g, with g = d outer / d w. The teacher is in the inner
loss only by its soft labels, so this is the slope, in the teacher, of

    implicit = s delta mean over b of sum over k of softmax(F_t(x_b))_k d_bk

    d_b = (d / d h) F_s(x_b; w + h g) at h = 0

where d is a constant. No second derivative is taken. In words: the teacher's soft labels move away
from the classes whose logit rises in the surrogate where its weights move along g.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

#: The parameters of a network by name, without a graph.
Weights = dict[str, Tensor]


def weights_of(network: nn.Module) -> Weights:
    """The network's parameters as constants."""
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def slope(outer: Callable[[Weights], Tensor], weights: Weights) -> Weights:
    """g = d outer / d w, by one backward pass."""
    found: Weights = grad(outer)(weights)
    return found


def logit_change(
    network: nn.Module, images: Tensor, weights: Weights, direction: Weights
) -> Tensor:
    """d, (N, K): how fast the logits of images (N, 3, H, W) change where the weights move along a
    direction. By one forward-mode pass, without a graph."""
    # The first forward-mode pass of a process makes torch import what torch itself deprecates.
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        _, change = jvp(
            lambda moved: functional_call(network, moved, (images,)), (weights,), (direction,)
        )
    return change.detach()


def tilt(teacher_logits: Tensor, change: Tensor) -> Tensor:
    """mean over b of sum over k of softmax(F_t(x_b))_k d_bk, of (N, K) each. A scalar."""
    return (F.softmax(teacher_logits, 1) * change).sum(1).mean()
