"""Images held as one uint8 tensor, cut into batches and augmented on the device that asks for
them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kdbench.data.base import Augmentation, Batch, ImageSet
from kdbench.errors import ConfigError


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [0, 1] (any shape) as uint8, rounded to the nearest of 256 levels (values
    outside clip)."""
    return images.detach().mul(255).round().clamp_(0, 255).to(torch.uint8)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], to the same bits on every device."""
    # A Python scalar would make CUDA multiply by the reciprocal, which differs from CPU division in
    # the last bit.
    return pixels.float().div_(torch.full((), 255.0, device=pixels.device))


def checked_rows(indices: Tensor, length: int) -> Tensor:
    """``indices`` as an int64 CPU vector, or ConfigError where one lies outside [0, length)."""
    rows = torch.as_tensor(indices).detach().cpu().reshape(-1)
    if rows.dtype == torch.bool or rows.is_floating_point():
        raise ConfigError(
            f"row indices have dtype {rows.dtype}; expected int64 (use mask.nonzero() for a mask)"
        )
    rows = rows.to(torch.int64)
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < length):
        raise ConfigError(
            f"row indices span {int(rows.min())}..{int(rows.max())}; the set has rows "
            f"0..{length - 1}"
        )
    return rows


def checked_addition(
    images: Tensor, labels: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Validate what is to be appended; returns uint8 CPU images and int64 CPU labels."""
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or labels.shape != (len(images),):
        raise ConfigError(
            f"cannot append images {tuple(images.shape)} with labels {tuple(labels.shape)}; "
            "expected (M, "
            f"{shape[0]}, {shape[1]}, {shape[2]}) and (M,)"
        )
    return to_uint8(images).cpu(), labels.detach().cpu().to(torch.int64)


def row_order(
    length: int, batch_size: int, generator: torch.Generator | None, drop_last: bool
) -> list[Tensor]:
    """The rows of each batch of one pass: shuffled with a generator, in order without."""
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
    order = (
        torch.arange(length) if generator is None else torch.randperm(length, generator=generator)
    )
    parts = list(order.split(batch_size)) if length else []
    if drop_last and parts and len(parts[-1]) < batch_size:
        parts.pop()
    return parts


def draw_shifts(
    count: int, augmentation: Augmentation, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Row shifts, column shifts (int64 in [-pad, pad]) and mirror flags (bool), each (count,), on
    the CPU."""
    # Always three draws, so that switching flip off leaves the shifts as they were.
    pad = augmentation.pad
    down = torch.randint(-pad, pad + 1, (count,), generator=generator)
    right = torch.randint(-pad, pad + 1, (count,), generator=generator)
    mirror = torch.rand(count, generator=generator) < 0.5
    return down, right, mirror & augmentation.flip


def shifted(pixels: Tensor, rows: Tensor, down: Tensor, right: Tensor, mirror: Tensor) -> Tensor:
    """Gather ``rows`` of NHWC ``pixels``, each shifted and mirrored; reflects at the border.
    Returns (M, H, W, 3).

    Output pixel (i, j) is the reflect-padded input at (i + down, j' + right), with j' = W-1-j where
    ``mirror``: the same as reflect-pad, crop at (pad + down, pad + right), then flip. All arguments
    lie on one device.
    """
    height, width = pixels.shape[1:3]
    y = torch.arange(height, device=pixels.device)[None] + down[:, None]
    x = torch.arange(width, device=pixels.device)[None].expand(len(rows), -1)
    x = torch.where(mirror[:, None], width - 1 - x, x) + right[:, None]
    y = (height - 1) - ((height - 1) - y.abs()).abs()
    x = (width - 1) - ((width - 1) - x.abs()).abs()
    return pixels[rows[:, None, None], y[:, :, None], x[:, None, :]]


def moved(columns: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """CPU vectors of whole numbers or flags, of one length, on ``device``: to a GPU in one copy,
    for which nobody waits."""
    if torch.device(device).type != "cuda":
        return [column.to(device) for column in columns]
    together = (
        torch.stack([column.to(torch.int64) for column in columns])
        .pin_memory()
        .to(device, non_blocking=True)
    )
    return [part.to(column.dtype) for part, column in zip(together, columns, strict=True)]


def check_pad(augmentation: Augmentation | None, shape: tuple[int, int, int]) -> None:
    """ConfigError where the padding cannot be reflected once inside the image."""
    if augmentation and not 0 <= augmentation.pad < min(shape[1:]):
        raise ConfigError(
            f"augmentation pad {augmentation.pad} does not fit images of {shape[1]}x{shape[2]} "
            "pixels"
        )


class _Store:
    """Pixels in memory and their copy on the device that last asked; all views of a set share
    one."""

    def __init__(self, pixels: Tensor) -> None:
        # NHWC, so that one gather gives whole pixels and batches come out channels_last without a
        # copy.
        self.pixels = pixels.permute(0, 2, 3, 1).contiguous()
        self._copies: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device | str) -> Tensor:
        """The pixels on ``device``, uint8 (N, H, W, 3)."""
        device = torch.device(device)
        if device == self.pixels.device:
            return self.pixels
        if device not in self._copies:
            self._copies = {device: self.pixels.to(device)}
        return self._copies[device]


class TensorImages(ImageSet):
    """An image set in memory.

    pixels: uint8 (N, 3, H, W); labels: int64 (N,). The pixels are copied to a device when a pass
    first asks for it, and stay there for the next pass. A subset shares them, there too, and so
    keeps all of them alive. Batches are float32 in channels_last memory format; augmentation draws
    only from the CPU generator given, so the same seed gives the same bytes on every device.
    Raises ConfigError for other shapes or types.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ConfigError(
                f"pixels are {pixels.dtype} {tuple(pixels.shape)}; expected uint8 (N, 3, H, W)"
            )
        if labels.shape != (len(pixels),):
            raise ConfigError(
                f"{len(pixels)} images came with labels {tuple(labels.shape)}; expected one each"
            )
        self.labels = labels.detach().cpu().to(torch.int64)
        self.shape = (3, pixels.shape[2], pixels.shape[3])
        self._store, self._rows = _Store(pixels), torch.arange(len(pixels))

    @property
    def pixels(self) -> Tensor:
        """A copy of the uint8 images, (N, 3, H, W)."""
        return self._store.pixels[self._rows.to(self._store.pixels.device)].permute(0, 3, 1, 2)

    def subset(self, indices: Tensor) -> TensorImages:
        rows = checked_rows(indices, len(self))
        view = object.__new__(TensorImages)
        view.labels, view.shape = self.labels[rows], self.shape
        view._store, view._rows = self._store, self._rows[rows]
        return view

    def extended(self, images: Tensor, labels: Tensor) -> TensorImages:
        added, labels = checked_addition(images, labels, self.shape)
        pixels = self.pixels
        return TensorImages(
            torch.cat([pixels, added.to(pixels.device)]), torch.cat([self.labels, labels])
        )

    def read(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        store = self._store.on(device)
        rows = self._rows[checked_rows(indices, len(self))]
        return to_float(store[rows.to(store.device)].permute(0, 3, 1, 2))

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        check_pad(augmentation, self.shape)
        store = self._store.on(device)
        for rows in row_order(len(self), batch_size, generator, drop_last):
            moves = () if augmentation is None else draw_shifts(len(rows), augmentation, generator)
            stored, labels, indices, *there = moved(
                [self._rows[rows], self.labels[rows], rows, *moves], device
            )
            part = shifted(store, stored, *there) if there else store[stored]
            yield Batch(to_float(part).permute(0, 3, 1, 2), labels, indices)
