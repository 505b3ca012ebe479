"""Small pictures and image sets that the tests of the loaders share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdbench.data import TensorImages, load_dataset

GTSRB_HEAD = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"


def some_images(count=10, height=6, width=7):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(
        0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8
    )
    return TensorImages(pixels, torch.arange(count) % 3)


def save(path: Path, value, size=(9, 8), **options):
    """A picture of one colour: a gray level or (red, green, blue)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path, **options)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def folder(tree, **more):
    return load_dataset(
        f"imagefolder:{tree}", **{"image_size": 8, "cache_dir": tree.parent / "cache", **more}
    )
