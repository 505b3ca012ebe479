"""Images in memory: bytes, order, augmentation, views and wrong use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdbench.data import Augmentation, TensorImages
from kdbench.data.tensor import draw_shifts
from kdbench.errors import ConfigError
from tests.data.pictures import seeded, some_images


def test_plain_batches_in_order():
    images = some_images()
    batches = list(images.batches(4))
    assert [len(b.labels) for b in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([b.positions for b in batches]), torch.arange(10))
    assert torch.equal(torch.cat([b.labels for b in batches]), images.labels)
    stacked = torch.cat([b.images for b in batches])
    assert stacked.dtype == torch.float32
    assert stacked.shape == (10, 3, 6, 7)
    assert torch.equal(stacked, images.pixels.float() / 255)
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)
    assert [len(b.labels) for b in images.batches(4, drop_last=True)] == [4, 4]


def test_shuffled_batches_match_their_positions():
    images = some_images()
    batches = list(images.batches(4, generator=seeded()))
    positions = torch.cat([b.positions for b in batches])
    assert not torch.equal(positions, torch.arange(10))
    assert torch.equal(positions.sort().values, torch.arange(10))
    for b in batches:
        assert torch.equal(b.images, images.read(b.positions))
        assert torch.equal(b.labels, images.labels[b.positions])


def test_augmentation_is_pad_crop_flip():
    images, augmentation = some_images(), Augmentation(pad=2, flip=True)
    batch = next(images.batches(10, generator=seeded(3), augmentation=augmentation))
    replay = seeded(3)
    order = torch.randperm(10, generator=replay)
    down, right, mirror = draw_shifts(10, augmentation, replay)
    assert mirror.any()
    assert not mirror.all()
    assert down.unique().numel() > 1
    for k in range(10):
        padded = np.pad(images.pixels[order[k]].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        crop = padded[:, 2 + down[k] : 8 + down[k], 2 + right[k] : 9 + right[k]]
        expected = crop[:, :, ::-1] if mirror[k] else crop
        assert np.array_equal((batch.images[k] * 255).round().byte().numpy(), expected)


def test_augmentation_repeats_and_leaves_the_global_generator_alone():
    images = some_images()
    state = torch.get_rng_state()
    first, again, other = (
        torch.cat(
            [b.images for b in images.batches(3, generator=seeded(s), augmentation=Augmentation(1))]
        )
        for s in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_bytes_on_the_gpu():
    images = some_images(50)
    for here, there in zip(
        images.batches(16, generator=seeded(), augmentation=Augmentation(2)),
        images.batches(16, generator=seeded(), augmentation=Augmentation(2), device="cuda"),
        strict=True,
    ):
        assert torch.equal(here.images, there.images.cpu())
        assert torch.equal(here.positions, there.positions.cpu())


def test_subset_extended_read():
    images = some_images()
    part = images.subset(torch.tensor([4, 4, 1]))
    assert torch.equal(part.pixels, images.pixels[[4, 4, 1]])
    assert part.labels.tolist() == [1, 1, 1]
    longer = part.extended(images.read(torch.tensor([0, 9])), torch.tensor([2, 0]))
    assert longer.labels.tolist() == [1, 1, 1, 2, 0]
    assert len(part) == 3
    assert torch.equal(longer.pixels[3:], images.pixels[[0, 9]])
    assert len(images.subset(torch.empty(0, dtype=torch.int64))) == 0


def test_subset_is_a_view():
    images = some_images()
    rows = torch.tensor([7, 2, 2, 9, 0])
    # Copied, these rows would take 79 GB.
    assert len(some_images(2, 512, 512).subset(torch.arange(2).repeat(50_000))) == 100_000
    view, copy = images.subset(rows), TensorImages(images.pixels[rows], images.labels[rows])
    assert view._store is images._store
    assert view._store.on("meta") is images._store.on("meta")
    assert torch.equal(view.pixels, copy.pixels)
    assert torch.equal(
        view.subset(torch.tensor([3, 0])).read(torch.tensor([1, 0])),
        images.read(torch.tensor([7, 9])),
    )
    for mine, its in zip(
        view.batches(2, generator=seeded(), augmentation=Augmentation(2)),
        copy.batches(2, generator=seeded(), augmentation=Augmentation(2)),
        strict=True,
    ):
        assert torch.equal(mine.images, its.images)
        assert mine.images.stride() == its.images.stride()
        assert torch.equal(mine.labels, its.labels)
        assert torch.equal(mine.positions, its.positions)


@pytest.mark.parametrize(
    "action",
    [
        lambda i: i.subset(torch.tensor([10])),
        lambda i: i.read(torch.tensor([-1])),
        lambda i: i.subset(torch.ones(10, dtype=torch.bool)),
        lambda i: i.extended(torch.zeros(1, 3, 5, 5), torch.zeros(1)),
        lambda i: i.extended(torch.zeros(1, 3, 6, 7), torch.zeros(2)),
        lambda i: list(i.batches(0)),
        lambda i: list(i.batches(2, augmentation=Augmentation(pad=6))),
        lambda i: TensorImages(torch.zeros(2, 3, 4, 4), torch.zeros(2)),
        lambda i: TensorImages(i.pixels, torch.zeros(3)),
    ],
)
def test_bad_use_is_a_config_error(action):
    with pytest.raises(ConfigError):
        action(some_images())
