"""Several that take turns on each batch, against hand-computed values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError, ContractError, DivergedError
from kdbench.numerics import Numerics
from kdbench.training import Fit, Player, Recipe, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from tests.stopping import StopAfter, Stopped

PLAIN = Recipe(epochs=2, batch_size=240, lr=0.1, momentum=0.0, weight_decay=0.0)


def play(players, images, progress=None, checkpoints=None):
    options = {} if checkpoints is None else {"checkpoints": checkpoints}
    fit = Fit(Numerics(), progress or Silent(), **options)
    return fit.players(players, images, generator=torch.Generator().manual_seed(0))


def test_each_steps_on_its_own_loss_after_those_before_it(stripes):
    w, b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    seen = []
    players = [
        Player([w], lambda _: {"min": w * b}, PLAIN, lambda: seen.append("w")),
        Player([b], lambda _: {"max": -w * b}, PLAIN, lambda: seen.append("b")),
    ]
    history = play(players, stripes.train)
    # w: 1 - 0.1 * 1 = 0.9, then 0.9 - 0.1 * 1.09; b: 1 + 0.1 * 0.9 = 1.09, then 1.09 + 0.1 * 0.791.
    assert (w.item(), b.item()) == (pytest.approx(0.791), pytest.approx(1.1691))
    # 1 * 1 - 0.9 * 1, then 0.9 * 1.09 - 0.791 * 1.09
    assert history == [pytest.approx(0.1), pytest.approx(0.11881)]
    assert seen == ["w", "b", "w", "b"]


def game(folder, images, stop=None):
    """A network and a picture that play against each other; all that they leave."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))
    network(torch.zeros(2, 3, 16, 16))
    picture = torch.zeros(3, 16, 16, requires_grad=True)

    def loss(sign):
        return lambda batch: {
            "ce": sign * nn.functional.cross_entropy(network(batch.images + picture), batch.labels)
        }

    adam = Recipe(epochs=4, batch_size=20, lr=0.01, optimizer="adam", betas=(0.5, 0.9))
    drops = Recipe(epochs=4, batch_size=20, lr=0.05, schedule="steps")
    history = play(
        [Player(network.train(), loss(1), drops), Player(picture, loss(-1), adam)],
        images,
        StopAfter(stop) if stop else None,
        FolderCheckpoints(folder, 0),
    )
    return [*network.state_dict().values(), picture.detach(), torch.tensor(history)]


def test_a_game_that_was_stopped_ends_in_the_same_bits(stripes, tmp_path):
    images = TensorImages(stripes.train.pixels[:60, :, :16, :16], stripes.train.labels[:60])
    whole = game(tmp_path / "whole", images)
    with pytest.raises(Stopped):
        game(tmp_path / "stopped", images, stop=8)
    assert len(list((tmp_path / "stopped").iterdir())) == 1, "players share one checkpoint"
    for one, other in zip(game(tmp_path / "stopped", images), whole, strict=True):
        assert torch.equal(one, other)


def test_players_of_different_length_are_refused(stripes):
    w, b = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
    longer = PLAIN.model_copy(update={"epochs": 3})
    with pytest.raises(ConfigError, match="recipes of different length"):
        play(
            [Player([w], lambda _: {"a": w}, PLAIN), Player([b], lambda _: {"b": b}, longer)],
            stripes.train,
        )


def test_a_parameter_has_one_player(stripes):
    w = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ContractError, match="two players train the same parameter"):
        play([Player([w], lambda _: {"a": w}, PLAIN)] * 2, stripes.train)


def test_a_player_whose_loss_is_no_number_ends_all_and_is_named(stripes):
    w, b = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
    with pytest.raises(DivergedError, match=r"2\.bad=nan"):
        play(
            [
                Player([w], lambda _: {"good": w}, PLAIN),
                Player([b], lambda _: {"bad": b * float("nan")}, PLAIN),
            ],
            stripes.train,
        )


def test_a_batch_says_how_far_the_training_is(stripes):
    w, seen = nn.Parameter(torch.tensor(1.0)), []

    def loss(batch):
        seen.append(batch.progress)
        return {"a": w}

    recipe = PLAIN.model_copy(update={"batch_size": 120})
    play([Player([w], loss, recipe)], stripes.train)
    assert seen == [0.0, 0.25, 0.5, 0.75]
