"""What a defense is given."""

from dataclasses import replace

import torch

from kdbench.data.stream import StreamedImages
from tests.plugins.tiny import images, setting


def test_unlabeled_images_have_no_label_whoever_makes_the_setting():
    data = images()
    made = replace(setting(), unlabeled=data)
    assert made.unlabeled.labels.tolist() == [-1] * len(data)
    assert [batch.labels.unique().tolist() for batch in made.unlabeled.batches(96)] == [[-1]]
    assert torch.equal(made.unlabeled.pixels, data.pixels)
    assert data.labels.max() == 3, "the caller's set stays as it is"
    assert not any(
        torch.equal(data.labels, value)
        for value in vars(made.unlabeled).values()
        if isinstance(value, torch.Tensor)
    )


def test_a_set_on_disk_has_none_either():
    data = StreamedImages(["a.png", "b.png"], torch.tensor([2, 1]), 8)
    assert data.unlabeled().labels.tolist() == [-1, -1]
    assert data.labels.tolist() == [2, 1]


def test_without_them_there_are_none():
    assert setting().unlabeled is None
