"""How much arithmetic a stage's networks take for an image, to compare stages of unlike networks,
and how large they are."""

from __future__ import annotations

from functools import cache

from kdbench.bench.kinds import Training
from kdbench.models import blank_model

#: A training step computes a forward pass, and about twice as much on the way back.
_TRAINING = 3


def work(
    training: Training, networks: tuple[str, ...], num_classes: int, image_size: int
) -> float | None:
    """Operations for one image, about.

    Args:
        training: how the stage trains, see :mod:`kdbench.bench.kinds`.
        networks: first the one that the stage trains or measures, then those that it only asks.
            A stage that trains nothing asks the first only.

    Returns:
        None where a network is not kdbench's own and not a library's, or cannot be built.
    """
    counted = networks if training != "none" else networks[:1]
    forward = [_facts(name, num_classes, image_size)[0] for name in counted]
    known = [count for count in forward if count is not None]
    if not known or len(known) < len(forward):
        return None
    return known[0] if training == "none" else _TRAINING * known[0] + sum(known[1:])


def network_bytes(name: str, num_classes: int, image_size: int) -> float:
    """Of a network's file, about. 0 where that is not known."""
    return _facts(name, num_classes, image_size)[1]


@cache
def _facts(name: str, num_classes: int, image_size: int) -> tuple[float | None, float]:
    """(operations of a forward pass of one image, bytes of its numbers).

    They are counted without computing them: the meta device has shapes only.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    images = 2
    try:
        with torch.device("meta"), torch.no_grad():
            network = blank_model(name, num_classes, image_size=image_size).eval()
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(images, 3, image_size, image_size))
    # The network is a plugin's, which is not built here. Or a library refuses the size, and it may
    # raise anything. An estimate is not worth an error.
    except Exception:
        return None, 0.0
    numbers = network.state_dict().values()
    size = sum(number.numel() * number.element_size() for number in numbers)
    return counter.get_total_flops() / images or None, float(size)
