"""``signs``: pictures like traffic signs, drawn from formulas, so that checks need no download.

An image depends on (seed, split, class, index, size) alone. More images or more classes leave those
that are already there unchanged.

Random numbers are raw words of PCG64, a stream that NumPy keeps the same in all versions. Drawing
is float64, and only the last step rounds to bytes. Shapes are signed distances with one pixel of
anti-aliasing.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from kdbench.data.base import Augmentation, Dataset
from kdbench.data.common import DatasetRequest, finish, padding
from kdbench.data.glyphs import CLASSES, Array, glyph_distance, outline
from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError

MEAN, STD = (0.41, 0.36, 0.37), (0.23, 0.23, 0.23)
"""Rounded per-channel statistics of 4000 training images (seed 0, 10 classes, 32 pixels)."""

#: Uniform random numbers of an image.
_PARAMETERS = 64
#: Images that are drawn at once.
_CHUNK = 128
#: Part of the seed, so that the two splits have no image in common.
_SPLITS = {"train": 0, "test": 1}


def class_names(num_classes: int) -> tuple[str, ...]:
    """Names such as ``red-circle/arrow-up``, one per class."""
    return tuple(f"{style.name}/{glyph}" for style, glyph in CLASSES[:num_classes])


def load_signs(request: DatasetRequest) -> Dataset:
    """``signs``, with the number of classes and images of the request."""

    def count(value: int | None, default: int) -> int:
        return default if value is None else value

    classes, size = count(request.num_classes, 10), request.side
    train, test = (
        draw_signs(n, num_classes=classes, size=size, seed=request.seed, split=split)
        for split, n in (
            ("train", count(request.train_size, 4000)),
            ("test", count(request.test_size, 1000)),
        )
    )
    return finish(
        request,
        name="signs",
        train=train,
        test=test,
        class_names=class_names(classes),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(padding(size, 2), flip=False),
    )


def draw_signs(count: int, *, num_classes: int, size: int, seed: int, split: str) -> TensorImages:
    """``count`` signs of ``size`` x ``size`` pixels.

    Row i is image i // num_classes of class i % num_classes.

    Args:
        split: ``train`` or ``test``. The two draw from different streams.

    Raises:
        ConfigError: num_classes outside 2..64, size outside 8..512, count < 1 or a negative seed.
    """
    _check("num_classes", num_classes, 2, len(CLASSES))
    _check("image_size", size, 8, 512)
    _check(f"{split}_size", count, 1, 10_000_000)
    _check("seed", seed, 0, 2**63 - 1)
    pixels = np.empty((count, size, size, 3), dtype=np.uint8)
    for label in range(min(num_classes, count)):
        rows = np.arange(label, count, num_classes)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            pixels[part] = _draw(label, part // num_classes, size, (seed, _SPLITS[split]))
    labels = torch.arange(count) % num_classes
    return TensorImages(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels)


def _check(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"signs: {name} is {value!r}; it must be a whole number in {low}..{high}")


def _random(
    label: int, indices: np.ndarray, size: int, stream: tuple[int, int]
) -> tuple[Array, Array]:
    """(uniform parameters in [0, 1), roughly normal noise of unit variance).

    Their shapes are (N, 64) and (N, size, size, 3).
    """
    cells = size * size * 3
    uniform = np.empty((len(indices), _PARAMETERS))
    noise = np.empty((len(indices), cells))
    for row, index in enumerate(indices.tolist()):
        source = np.random.PCG64(np.random.SeedSequence([*stream, label, index]))
        uniform[row] = (source.random_raw(_PARAMETERS) >> np.uint64(11)) * 2.0**-53
        # Each value is the sum of four bytes. Integers are the same on every machine, and the sum
        # is close enough to a Gaussian.
        words = source.random_raw((cells + 1) // 2).astype("<u8").view(np.uint8)
        noise[row] = words.reshape(-1, 4)[:cells].sum(axis=1, dtype=np.int64)
    noise = (noise - 510.0) / math.sqrt(4 * (256**2 - 1) / 12)
    return uniform, noise.reshape(len(indices), size, size, 3)


class _Dice:
    """Gives out the uniform parameters column by column, shaped to broadcast over (N, H, W).

    So the order of the calls decides which number goes where. A change of it changes every image.
    """

    def __init__(self, uniform: Array) -> None:
        self._uniform, self._next = uniform, 0

    def between(self, low: float, high: float) -> Array:
        column = self._uniform[:, self._next]
        self._next += 1
        return (low + (high - low) * column)[:, None, None]

    def colour(self, low: float, high: float) -> Array:
        return np.stack([self.between(low, high) for _ in range(3)], axis=-1)

    def near(self, colour: tuple[float, float, float], spread: float) -> Array:
        return np.stack([value + self.between(-spread, spread) for value in colour], axis=-1)


def _over(picture: Array, coverage: Array, colour: Array) -> Array:
    """Paint a colour over a picture. ``coverage`` is 0 to 1 for each pixel."""
    return picture + coverage[..., None] * (colour - picture)


def _draw(label: int, indices: np.ndarray, size: int, stream: tuple[int, int]) -> np.ndarray:
    """uint8 images (N, size, size, 3) of one class."""
    uniform, noise = _random(label, indices, size, stream)
    dice = _Dice(uniform)
    pixel = 2.0 / size
    axis = (np.arange(size) + 0.5) * pixel - 1.0
    x, y = np.broadcast_arrays(axis[None, None, :], axis[None, :, None])
    picture = _background(dice, x, y, pixel)
    u, v, scale = _pose(dice, x, y)
    picture = _paint_sign(dice, picture, label, u, v, pixel / scale)
    picture = _occlude(dice, picture, x, y, pixel)
    picture = _blur(_light(dice, picture, x, y), dice.between(0.0, 0.8)[..., None])
    picture = picture + dice.between(0.02, 0.09)[..., None] * noise
    return np.floor(np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _pose(dice: _Dice, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """(u, v, scale): each pixel in the coordinates of the sign, and how large the sign is."""
    turn, scale = dice.between(-0.21, 0.21), dice.between(0.60, 0.90)
    shear = dice.between(-0.12, 0.12)
    sx, sy = x - dice.between(-0.24, 0.24), y - dice.between(-0.24, 0.24)
    u = (np.cos(turn) * sx + np.sin(turn) * sy) / scale
    v = (np.cos(turn) * sy - np.sin(turn) * sx) / scale
    return u + shear * v, v, scale


def _paint_sign(dice: _Dice, picture: Array, label: int, u: Array, v: Array, soft: Array) -> Array:
    """Rim, face and glyph of a class. ``soft``: the width of a pixel in the sign's coordinates."""
    style, glyph = CLASSES[label]

    def inside(distance: Array) -> Array:
        return np.clip(0.5 - distance / soft, 0.0, 1.0)

    edge = outline(style, u, v)
    sign = inside(edge - style.radius)
    fade = dice.between(0.0, 0.25)[..., None]
    picture = _over(picture, sign, dice.near(style.rim, 0.10))
    face, ink_colour = (
        dice.near(style.face, 0.10) * (1 - fade) + 0.55 * fade,
        dice.near(style.ink, 0.10),
    )
    # In about half of the signs face and glyph swap colours. A linear classifier cannot learn it.
    swap = dice.between(0.0, 1.0)[..., None] < 0.5
    face, ink_colour = np.where(swap, ink_colour, face), np.where(swap, face, ink_colour)
    picture = _over(picture, inside(edge - style.inner), face)
    gu, gv = u / style.zoom, (v - style.centre) / style.zoom
    ink = inside((glyph_distance(glyph, gu, gv) - dice.between(-0.02, 0.03)) * style.zoom)
    return _over(picture, ink, ink_colour)


def _background(dice: _Dice, x: Array, y: Array, pixel: float) -> Array:
    """A colour gradient with a stripe and two discs of other colours."""
    first, second = dice.colour(0.1, 0.85), dice.colour(0.1, 0.85)
    angle = dice.between(0.0, 2 * math.pi)
    slope = np.clip(0.5 + 0.4 * (np.cos(angle) * x + np.sin(angle) * y), 0.0, 1.0)[..., None]
    picture = first + slope * (second - first)
    angle = dice.between(0.0, 2 * math.pi)
    stripe = np.abs(np.cos(angle) * x + np.sin(angle) * y - dice.between(-1.0, 1.0)) - dice.between(
        0.05, 0.3
    )
    picture = _over(picture, np.clip(0.5 - stripe / pixel, 0.0, 1.0), dice.colour(0.1, 0.85))
    for _ in range(2):
        away = np.hypot(x - dice.between(-1.1, 1.1), y - dice.between(-1.1, 1.1)) - dice.between(
            0.1, 0.5
        )
        picture = _over(picture, np.clip(0.5 - away / pixel, 0.0, 1.0), dice.colour(0.1, 0.85))
    return picture


def _occlude(dice: _Dice, picture: Array, x: Array, y: Array, pixel: float) -> Array:
    """In three of ten pictures something covers the sign from the rim inwards."""
    angle, reach = dice.between(0.0, 2 * math.pi), dice.between(0.42, 0.85)
    present = dice.between(0.0, 1.0) < 0.3
    distance = reach - (np.cos(angle) * x + np.sin(angle) * y)
    cover = np.clip(0.5 - distance / pixel, 0.0, 1.0) * present
    return _over(picture, cover, dice.colour(0.05, 0.5))


def _light(dice: _Dice, picture: Array, x: Array, y: Array) -> Array:
    """Overall gain, a gradient over the picture, and in three of ten a shadow with a straight
    edge."""
    angle = dice.between(0.0, 2 * math.pi)
    light = dice.between(0.55, 1.1) * (
        1 + dice.between(0.0, 0.25) * (np.cos(angle) * x + np.sin(angle) * y)
    )
    angle, depth = dice.between(0.0, 2 * math.pi), dice.between(0.1, 0.45)
    present = dice.between(0.0, 1.0) < 0.3
    side = np.clip(
        0.5 + 6 * (np.cos(angle) * x + np.sin(angle) * y - dice.between(-0.6, 0.6)), 0.0, 1.0
    )
    return picture * (light * (1 - present * depth * side))[..., None]


def _blur(picture: Array, amount: Array) -> Array:
    """Mix each picture with its 3x3 binomial average (edges repeat)."""
    wide = np.pad(picture, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
    soft = 0.25 * (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:])
    wide = np.pad(soft, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    soft = 0.25 * (wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:])
    return picture + amount * (soft - picture)
