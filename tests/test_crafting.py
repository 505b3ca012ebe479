"""Poisons keep their bound, and take the place of the images that they are made from."""

import torch

from kdbench.crafting import move, on_grid, replaced
from kdbench.data.tensor import TensorImages


def test_a_change_is_projected_onto_both_bounds():
    images = torch.tensor([0.02, 0.5, 0.95, 0.5])
    change = torch.tensor([0.0, 0.05, 0.0, -0.09])
    move(change, images, torch.tensor([-0.05, 0.2, 0.2, 0.01]), 0.1)
    torch.testing.assert_close(change, torch.tensor([-0.02, 0.1, 0.05, -0.08]))


def test_the_grid_is_that_of_stored_images():
    images = torch.rand(2, 3, 4, 4)
    stored = TensorImages(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1)).extended(
        images, torch.zeros(2)
    )
    torch.testing.assert_close(stored.read(torch.arange(1, 3)), on_grid(images), rtol=0, atol=1e-7)


def test_replaced_images_are_at_the_end():
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    given = TensorImages(pixels, torch.arange(5))
    new = replaced(given, torch.tensor([3, 1]), torch.ones(1, 3, 2, 2), 7)
    assert new.labels.tolist() == [0, 2, 4, 7]
    assert new.pixels[:, 0, 0, 0].tolist() == [0, 2, 4, 255]
    assert given.labels.tolist() == [0, 1, 2, 3, 4]
    assert len(replaced(given, torch.tensor([], dtype=torch.int64), torch.ones(1, 3, 2, 2), 7)) == 6
