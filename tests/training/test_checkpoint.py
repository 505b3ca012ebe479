"""Training that is stopped at an epoch boundary and taken up again ends in the same bits."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.data.tensor import TensorImages
from kdbench.models import create_model
from kdbench.numerics import Numerics
from kdbench.training import Fit, Recipe, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from tests.stopping import StopAfter, Stopped

#: Five batches an epoch. It is the state between steps that counts, and not how much is learned.
IMAGES, BATCH = 60, 12


def training(folder, stripes, recipe, stop=None):
    """Two calls of the loop, with every source of randomness in between and inside; returns all
    that they leave."""
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    generator = torch.Generator().manual_seed(4)
    model = create_model("wrn10_1", 3)
    numerics = Numerics()
    numerics.place(model)
    leaf = torch.zeros(3, requires_grad=True)
    checkpoints = FolderCheckpoints(folder, 0)
    fit = Fit(numerics, StopAfter(stop) if stop else Silent(), checkpoints=checkpoints)

    def loss(batch):
        noise = torch.rand(()) + np.random.rand() + random.random()
        return {
            "ce": nn.functional.cross_entropy(model(batch.images) + leaf, batch.labels)
            * (1 + 0.1 * noise)
        }

    history = []
    for trained in ([model.train()], [model, leaf]):
        history += fit(
            trained,
            loss,
            TensorImages(stripes.train.pixels[:IMAGES], stripes.train.labels[:IMAGES]),
            recipe,
            generator=generator,
            augmentation=stripes.augmentation,
        )
    drawn = [
        torch.rand(1, generator=generator),
        torch.rand(1),
        torch.tensor([np.random.rand(), random.random()]),
    ]
    return [*model.state_dict().values(), leaf.detach(), torch.tensor(history), *drawn]


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "adam", "lr": 0.01}, {"schedule": "steps"}, {"schedule": "onecycle"}],
)
def test_resumed_training_ends_in_the_same_bits(tmp_path, stripes, options):
    recipe = Recipe(**{"epochs": 4, "batch_size": BATCH, "lr": 0.05, **options})
    whole = training(tmp_path / "whole", stripes, recipe)
    # of 2 x 20 steps: in the first epoch, later, at the end of the first call, in the second
    for stop in (3, 12, 20, 31):
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            training(folder, stripes, recipe, stop)
        resumed = training(folder, stripes, recipe)
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True)), stop


def test_what_was_done_is_not_done_again(tmp_path, stripes):
    recipe = Recipe(epochs=4, batch_size=BATCH, lr=0.05)
    with pytest.raises(Stopped):
        training(tmp_path, stripes, recipe, 33)
    with pytest.raises(Stopped):  # 40 steps, 30 of them kept: the eleventh would be one too many
        training(tmp_path, stripes, recipe, 10)
    training(tmp_path, stripes, recipe, 11)


def test_a_damaged_or_foreign_checkpoint_counts_as_none(tmp_path, stripes):
    recipe = Recipe(epochs=4, batch_size=BATCH, lr=0.05)
    whole = training(tmp_path / "whole", stripes, recipe)
    for damage in (
        lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        lambda data: data[:100],
        lambda data: b"",
    ):
        with pytest.raises(Stopped):
            training(tmp_path / "cut", stripes, recipe, 12)
        path = tmp_path / "cut" / "fit-0.safetensors"
        path.write_bytes(damage(path.read_bytes()))
        assert FolderCheckpoints(tmp_path / "cut", 0).load(0) is None
        resumed = training(tmp_path / "cut", stripes, recipe)
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
        path.unlink()


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_training(tmp_path, stripes):
    (tmp_path / "file").write_text("in the way of a folder")
    recipe = Recipe(epochs=1, batch_size=BATCH, lr=0.05)
    training(tmp_path / "file", stripes, recipe)
    assert FolderCheckpoints(tmp_path / "file", 0).load(0) is None


def test_checkpoints_are_as_rare_as_asked(tmp_path):
    assert FolderCheckpoints(tmp_path, 0).due()
    assert not FolderCheckpoints(tmp_path, 1000).due()
