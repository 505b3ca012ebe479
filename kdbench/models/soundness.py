"""Whether the three groups of a network make sense: a check on any network, whatever it is called.

The network runs on two random images, and again with one group of the two images exchanged. If the
rest of the network is computed from that group alone, then everything after it is exchanged as
well. Nothing is trained, and the check takes five passes of two images.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kdbench.errors import ContractError
from kdbench.models.base import GROUPS, Edit, FeatureModel, FeatureOutput

_ALMOST_ALL = 0.99
"""Of the parameters of a network, after which the rest is no network any more."""
_SAME = 0.1
"""Up to this share of the difference between two images, results count as equal. The class token of
a vision transformer carries a little past a group of patches."""
_NOISE = 1e-4
"""Smaller differences between two images, as a share of the values, tell nothing."""


def check_groups(model: FeatureModel, size: int) -> list[str]:
    """What makes no sense in the groups of a network, a sentence each. Empty: nothing.

    The network's weights are changed, so it must not be used afterwards.

    Args:
        model: a network with blank weights, in evaluation mode.
        size: pixels a side.

    Raises:
        ContractError: it is no classifier with three groups.
    """
    try:
        return list(_problems(model, size))
    except ContractError:
        raise
    except Exception as error:  # a network may raise anything
        return [f"they cannot be tried with images of {size}x{size}: {cause(error)}"]


def cause(error: Exception) -> str:
    """What a network or a library says of an error, in a line. Some say nothing but its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".;") if lines else type(error).__name__


def _problems(model: FeatureModel, size: int) -> Iterator[str]:
    generator = torch.Generator().manual_seed(0)
    _disturb(model, generator)
    x = torch.rand(2, 3, size, size, generator=generator)
    _settle(model, x)
    with torch.enable_grad():
        out = model.features(x)
        _check_shapes(model, out)
        yield from _weightless(model, out)
    with torch.no_grad():
        yield from _shrinking(out)
        yield from _depending(model, x, out)


def _disturb(model: nn.Module, generator: torch.Generator) -> None:
    """Make weights random that are all the same.

    Networks often begin with a head of zeros or with branches that are scaled to nothing. Then no
    result would depend on anything.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.flatten()
            if parameter.is_floating_point() and bool((flat == flat[:1]).all()):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.2 * noise.to(parameter.dtype))


def _settle(model: FeatureModel, x: Tensor) -> None:
    """Give batch norms the statistics of these images. Without, what an image is fades in a deep
    network with fresh weights."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model.features(x)
    for norm in norms:
        norm.eval()


def _check_shapes(model: FeatureModel, out: FeatureOutput) -> None:
    counts = len(out.groups), len(out.taps)
    if counts != (GROUPS, GROUPS):
        raise ContractError(
            f"{model.name} has {counts[0]} groups and {counts[1]} taps; every network has {GROUPS}"
        )
    shape = tuple(out.logits.shape)
    if shape != (2, model.num_classes):
        raise ContractError(
            f"{model.name} is no classifier: for 2 images and {model.num_classes} classes it gives "
            f"{_brief(shape)}; name a network with a head"
        )


def _shrinking(out: FeatureOutput) -> Iterator[str]:
    for kind, tensors in (("G", out.groups), ("T", out.taps)):
        for i, tensor in enumerate(tensors, 1):
            if tensor.dim() != 4:
                yield f"{kind}{i} is {_brief(tensor.shape[1:])} and no map of features (C, H, W)"
        sides = [tensor.shape[2:].numel() for tensor in tensors]
        for i in range(1, GROUPS):
            if sides[i] > sides[i - 1]:
                yield f"{kind}{i + 1} has more places than {kind}{i}, although maps shrink"


def _depending(model: FeatureModel, x: Tensor, out: FeatureOutput) -> Iterator[str]:
    """Whether groups depend on the images, and what follows on the groups alone."""
    names = [f"G{i + 1}" for i in range(GROUPS)]
    for i, group in enumerate(out.groups):
        if _equal(group[0], group[1], group):
            yield f"{names[i]} is the same for every image"
            return
        for j in range(i):
            if group.shape == out.groups[j].shape and torch.equal(group, out.groups[j]):
                yield f"{names[i]} is {names[j]} once more"
                return
    if _equal(out.logits[0], out.logits[1], out.logits):
        yield "the logits are the same for every image"
        return
    for i, name in enumerate(names):
        exchanged = model.features(x, _exchange(i))
        plain, changed = (*out.groups, out.logits), (*exchanged.groups, exchanged.logits)
        for j, follower in enumerate([*names, "the logits"]):
            if j > i and not _follows(plain[j], changed[j]):
                yield f"{name} alone does not decide {follower}: something passes it by"
                return


def _exchange(i: int) -> Edit:
    return lambda j, g: g.flip(0) if j == i else g


def _follows(plain: Tensor, changed: Tensor) -> bool:
    """Whether the results of two images are exchanged in ``changed``."""
    difference = float((plain[0] - plain[1]).abs().max())
    if difference <= _NOISE * float(plain.abs().max()):
        return True
    return float((changed - plain.flip(0)).abs().max()) <= _SAME * difference


def _equal(a: Tensor, b: Tensor, both: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-6 * float(both.abs().max())


def _weightless(model: FeatureModel, out: FeatureOutput) -> Iterator[str]:
    """Which parts have no weights of their own, or almost all of them."""
    sizes = {id(p): p.numel() for p in model.parameters()}
    total = sum(sizes.values())
    seen: set[int] = set()
    before = "the image"
    for name, tensor in zip(("G1", "G2", "G3", "the head"), (*out.groups, out.logits), strict=True):
        used = _leaves(tensor) & sizes.keys()
        share = sum(sizes[leaf] for leaf in used - seen) / total if total else 0.0
        if total and not used - seen and name != "the head":
            yield f"no weight lies between {before} and {name}"
        if share >= _ALMOST_ALL:
            yield f"{share:.1%} of all weights belong to {name}"
        seen, before = seen | used, name


def _leaves(tensor: Tensor) -> set[int]:
    """The ids of the parameters that a tensor was computed from."""
    leaves: set[int] = set()
    left, known = [tensor.grad_fn], {tensor.grad_fn}
    while left:
        node = left.pop()
        if node is None:
            continue
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.add(id(leaf))
        for follower, _ in node.next_functions:
            if follower is not None and follower not in known:
                known.add(follower)
                left.append(follower)
    return leaves


def _brief(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
