"""Images that stay on disk and are decoded on each pass, for datasets too large for memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdbench.data.base import Augmentation, Batch, ImageSet
from kdbench.data.decode import decode_image
from kdbench.data.tensor import (
    check_pad,
    checked_addition,
    checked_rows,
    draw_shifts,
    moved,
    row_order,
    shifted,
    to_float,
)
from kdbench.errors import DatasetError


class _Batches(Dataset[Tensor | DatasetError]):
    """Item i is batch i, uint8 (M, H, W, 3), or an error about one of its files.

    An error is returned, not raised. The loader would bury its message in a worker's traceback.
    """

    def __init__(
        self, paths: Sequence[str], appended: Tensor, size: int, parts: list[list[int]]
    ) -> None:
        self.paths, self.appended, self.size, self.parts = paths, appended, size, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Tensor | DatasetError:
        try:
            return torch.stack([self.image(row) for row in self.parts[index]])
        except DatasetError as error:
            return error

    def image(self, row: int) -> Tensor:
        known = len(self.paths)
        return (
            decode_image(self.paths[row], self.size) if row < known else self.appended[row - known]
        )


def _checked(item: Tensor | DatasetError) -> Tensor:
    if isinstance(item, DatasetError):
        raise item
    return item


class StreamedImages(ImageSet):
    """An image set that is read from files on each pass.

    With the same generator its batches equal those of TensorImages over the decoded files. When a
    batch is read, DatasetError names a file of it that cannot be decoded.

    Args:
        paths: image files.
        labels: int64 (N,).
        size: pixels a side after resizing.
        workers: decoding processes; by default one per CPU, at most 8.
    """

    def __init__(
        self, paths: Sequence[str | Path], labels: Tensor, size: int, *, workers: int | None = None
    ) -> None:
        self._paths = [str(path) for path in paths]
        self._appended = torch.empty(0, size, size, 3, dtype=torch.uint8)
        self._rows = torch.arange(len(self._paths))
        self._workers = min(8, os.cpu_count() or 1) if workers is None else workers
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
        cls, paths: Sequence[str], appended: Tensor, rows: Tensor, labels: Tensor, size: int
    ) -> StreamedImages:
        """A set made of the ``parts`` of another one, and of the labels of the rows."""
        return cls(paths, labels, size)._like(rows, labels, appended)

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
        source = _Batches(self._paths, self._appended, self.shape[1], [self._rows[rows].tolist()])
        return to_float(_checked(source[0]).to(device)).permute(0, 3, 1, 2)

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
        source = _Batches(
            self._paths,
            self._appended,
            self.shape[1],
            [self._rows[part].tolist() for part in parts],
        )
        on_gpu = torch.device(device).type == "cuda"
        # The loader draws a seed for its workers. From torch's global generator it would shift what
        # every later draw gives.
        loader = DataLoader(
            source,
            batch_size=None,
            num_workers=self._workers,
            pin_memory=on_gpu,
            generator=torch.Generator(),
        )
        for rows, stored in zip(parts, loader, strict=True):
            part = _checked(stored).to(device, non_blocking=on_gpu)
            moves = () if augmentation is None else draw_shifts(len(rows), augmentation, generator)
            labels, indices, *there = moved([self.labels[rows], rows, *moves], device)
            if there:
                part = shifted(part, torch.arange(len(rows), device=part.device), *there)
            yield Batch(to_float(part).permute(0, 3, 1, 2), labels, indices)
