"""Draws what a trigger does to images."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from kdbench._files import write_atomically

#: Images in a row. More would be too small on a page.
MAX_COLUMNS = 6


def amplification(difference: Tensor) -> int:
    """The largest whole factor k, from 1 to 255, that keeps ``0.5 + k * difference`` within
    [0, 1]."""
    largest = float(difference.abs().max()) if difference.numel() else 0.0
    return 1 if largest == 0 else min(255, max(1, math.floor(0.5 / largest + 1e-3)))


def strength(clean: Tensor, triggered: Tensor) -> dict[str, float | int | None]:
    """How much a trigger changes images, in numbers for the record.

    Args:
        clean, triggered: float of one shape, values from 0 to 1.

    Returns:
        ``psnr_db``: 10 log10(1 / the mean squared change of a value), 0 or more. None: nothing
        changed. ``linf``: the largest change of a value, from 0 to 1. ``images``: their number.
    """
    change = (triggered.detach() - clean.detach()).double()
    squared = float(change.square().mean())
    return {
        "psnr_db": round(10 * math.log10(1 / squared), 2) if squared > 0 else None,
        "linf": round(float(change.abs().max()), 5),
        "images": len(clean),
    }


def write_trigger_picture(clean: Tensor, triggered: Tensor, path: str | Path, title: str) -> None:
    """Save a PNG with the rows clean, triggered and amplified difference (mid-grey: unchanged).

    Args:
        clean, triggered: float (N, C, H, W) in [0, 1], C 1 or 3. The first six images are drawn.

    Raises:
        ValueError: the two differ in shape, or there is nothing to draw.
    """
    if clean.shape != triggered.shape or clean.ndim != 4 or len(clean) == 0:
        shapes = f"{tuple(clean.shape)}, {tuple(triggered.shape)}"
        raise ValueError(f"expected two equal shapes (N, C, H, W), N > 0; got {shapes}")
    before = clean[:MAX_COLUMNS].detach().float().cpu()
    after = triggered[:MAX_COLUMNS].detach().float().cpu()
    k = amplification(after - before)
    rows = [
        ("clean", before),
        ("triggered", after),
        (f"difference\nx {k}, grey = 0", 0.5 + k * (after - before)),
    ]
    columns = len(before)
    figure = Figure(figsize=(1.5 + 1.5 * columns, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    # characters a line, so that a long title does not run out of a narrow figure
    width = 18 * columns + 18
    lines = [title[start : start + width] for start in range(0, len(title), width)]
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, images) in zip(axes, rows, strict=True):
        for axis, image in zip(line, images.clamp(0, 1), strict=True):
            axis.imshow(image.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(label, fontsize=9)
    write_atomically(path, lambda target: figure.savefig(target, format="png", dpi=120))
