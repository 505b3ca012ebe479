"""Images that stay on disk and are decoded on each pass, for datasets too large for memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data.base import Augmentation, Batch, ImageSet
from kdbench.data.decoding import decoded_batches, usable_cpus
from kdbench.data.tensor import (
    TensorImages,
    check_pad,
    checked_addition,
    checked_rows,
    draw_shifts,
    moved,
    row_order,
    shifted,
    to_float,
)

#: Images that are decoded together where all of a set are.
_AT_ONCE = 256


class StreamedImages(ImageSet):
    """An image set that is read from files on each pass.

    With the same generator its batches equal those of TensorImages over the decoded files. When a
    batch is read, DatasetError names a file of it that cannot be decoded.

    Args:
        paths: image files.
        labels: int64 (N,).
        size: pixels a side after resizing.
        workers: threads that decode. With 0 the caller decodes. None: one for each CPU that this
            process may use, at most 8.
    """

    def __init__(
        self, paths: Sequence[str | Path], labels: Tensor, size: int, *, workers: int | None = None
    ) -> None:
        self._paths = [str(path) for path in paths]
        self._appended = torch.empty(0, size, size, 3, dtype=torch.uint8)
        self._rows = torch.arange(len(self._paths))
        self._workers = usable_cpus() if workers is None else workers
        self.labels = labels.detach().cpu().to(torch.int64)
        self.shape = (3, size, size)

    def _like(self, rows: Tensor, labels: Tensor, appended: Tensor) -> StreamedImages:
        # Without __init__, which starts with a row for every file.
        other = object.__new__(StreamedImages)
        other._paths, other._appended, other._rows, other._workers = (
            self._paths,
            appended,
            rows,
            self._workers,
        )
        other.labels, other.shape = labels, self.shape
        return other

    @property
    def parts(self) -> tuple[list[str], Tensor, Tensor]:
        """The image files, the appended pixels uint8 (M, H, W, 3), and the set's rows int64 (N,).

        A row counts through the files first, then through the appended pixels.
        """
        return self._paths, self._appended, self._rows

    @classmethod
    def restored(
        cls,
        paths: Sequence[str],
        appended: Tensor,
        rows: Tensor,
        labels: Tensor,
        size: int,
        *,
        workers: int | None = None,
    ) -> StreamedImages:
        """A set made of the ``parts`` of another one, and of the labels of the rows."""
        return cls(paths, labels, size, workers=workers)._like(rows, labels, appended)

    @property
    def fingerprint(self) -> str:
        """SHA-256 for the dataset's digest, without decoding all files.

        It covers the names and sizes of the rows' files, and the appended pixels.
        """
        digest = hashlib.sha256()
        used = self._rows[self._rows < len(self._paths)].unique().tolist()
        # Only the end of a path counts, so that the dataset may move to another folder.
        ends = {row: "/".join(Path(self._paths[row]).parts[-3:]) for row in used}
        entries = {row: f"{end}:{os.path.getsize(self._paths[row])}" for row, end in ends.items()}
        for row in self._rows.tolist():
            digest.update(os.fsencode(f"{entries.get(row, row)}\n"))
        digest.update(self._appended.numpy().tobytes())
        return digest.hexdigest()

    def subset(self, indices: Tensor) -> StreamedImages:
        rows = checked_rows(indices, len(self))
        return self._like(self._rows[rows], self.labels[rows], self._appended)

    def extended(self, images: Tensor, labels: Tensor) -> StreamedImages:
        pixels, labels = checked_addition(images, labels, self.shape)
        first = len(self._paths) + len(self._appended)
        rows = torch.cat([self._rows, torch.arange(first, first + len(pixels))])
        appended = torch.cat([self._appended, pixels.permute(0, 2, 3, 1)])
        return self._like(rows, torch.cat([self.labels, labels]), appended)

    def read(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        rows = checked_rows(indices, len(self))
        if not len(rows):
            return torch.empty(0, *self.shape, device=device)
        (stored,) = self._decoded([rows])
        return to_float(stored.to(device)).permute(0, 3, 1, 2)

    def decoded(self) -> TensorImages:
        """The same set in memory."""
        parts = torch.arange(len(self)).split(_AT_ONCE) if len(self) else ()
        pixels = torch.empty(len(self), *self.shape[1:], 3, dtype=torch.uint8)
        for rows, stored in zip(parts, self._decoded(parts), strict=True):
            pixels[rows] = stored
        return TensorImages(pixels.permute(0, 3, 1, 2), self.labels)

    def _decoded(self, parts: Sequence[Tensor], *, pinned: bool = False) -> Iterator[Tensor]:
        """The pixels of each of the parts, uint8 (M, H, W, 3)."""
        return decoded_batches(
            self._paths,
            self._appended,
            self.shape[1],
            [self._rows[part].tolist() for part in parts],
            self._workers,
            pinned=pinned,
        )

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
        parts = row_order(len(self), batch_size, generator, drop_last)
        on_gpu = torch.device(device).type == "cuda"
        stream = self._decoded(parts, pinned=on_gpu)
        for rows, stored in zip(parts, stream, strict=True):
            part = stored.to(device, non_blocking=on_gpu)
            moves = () if augmentation is None else draw_shifts(len(rows), augmentation, generator)
            labels, indices, *there = moved([self.labels[rows], rows, *moves], device)
            if there:
                part = shifted(part, torch.arange(len(rows), device=part.device), *there)
            yield Batch(to_float(part).permute(0, 3, 1, 2), labels, indices)
