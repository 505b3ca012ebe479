"""BCU against hand-computed numbers."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from kdbench_bcu.method import (
    BCU,
    HEAD,
    STEM,
    BCUParams,
    depths,
    reinitialise,
    soft_loss,
    temperature_of,
)
from torch import nn

from kdbench.data.tensor import TensorImages
from kdbench.models import create_model
from kdbench.training import Fit, Recipe, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from tests.plugins.tiny import accuracy, digest, images, setting, trained


@cache
def _trained():
    return trained(1)


def network():
    return copy.deepcopy(_trained())


def repaired(model, s=None, **params):
    return BCU(BCUParams(**params)).repair(model, s or setting())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_loss_by_hand():
    teacher = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    student = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert soft_loss(teacher, student, 1.0).item() == pytest.approx(0.5523989, abs=1e-6)
    assert soft_loss(teacher, student, 4.0).item() == pytest.approx(0.0458116, abs=1e-6)
    assert soft_loss(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-7)


def test_the_temperature_by_hand():
    found = [temperature_of(e, 100, 4.0) for e in (0, 49, 99)]
    assert found == pytest.approx([1.03, 2.5, 4.0])


def test_each_epoch_has_its_temperature(monkeypatch):
    taus = []

    def recorded(teacher, student, tau):
        taus.append(tau)
        return soft_loss(teacher, student, tau)

    monkeypatch.setattr("kdbench_bcu.method.soft_loss", recorded)
    repaired(network(), setting(epochs=3, batch_size=48))
    assert taus == pytest.approx([2.0, 2.0, 3.0, 3.0, 4.0, 4.0])


def test_that_share_of_the_weights_is_drawn_anew():
    layer = nn.Linear(100, 100)
    before = layer.weight.detach().clone()
    reinitialise(layer, 0.27, generator())
    share = (layer.weight != before).float().mean().item()
    assert share == pytest.approx(0.27, abs=0.018), "four standard deviations of 10^4 weights"
    kept = layer.weight == before
    assert torch.equal(layer.weight[kept], before[kept])


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 64, 3), nn.Linear(512, 16)])
def test_new_weights_are_those_of_a_new_layer(layer):
    bias = layer.bias.detach().clone()
    reinitialise(layer, 1.0, generator())
    # The variance of a convolution is 2 / (k^2 C_out), that of a linear layer 1 / (3 C_in).
    expected = 2 / (9 * 64) if isinstance(layer, nn.Conv2d) else 1 / (3 * 512)
    assert layer.weight.var().item() == pytest.approx(expected, rel=0.1)
    assert torch.equal(layer.bias, bias)


def test_without_rates_nothing_changes_and_with_one_everything_does(monkeypatch):
    monkeypatch.setattr("kdbench_bcu.method.fine_tune", lambda *_, **__: None)
    before = network()
    assert digest(repaired(network(), scale=0)) == digest(before)
    done = repaired(network(), rates=(1, 1, 1, 1, 1))
    for mine, old in zip(done.convs, before.convs, strict=True):
        assert not (mine.weight == old.weight).any()
        assert torch.equal(mine.bias, old.bias)
    assert not (done.fc.weight == before.fc.weight).any()
    for mine, old in zip(done.bns, before.bns, strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip(mine.state_dict().values(), old.state_dict().values(), strict=True)
        )


def test_a_scaled_rate_ends_at_one():
    params = BCUParams(scale=3)
    assert [params.rate(d) for d in range(5)] == pytest.approx([0.03, 0.03, 0.09, 0.81, 0.3])
    assert BCUParams(scale=30).rate(3) == 1.0


@pytest.mark.parametrize("name", ["wrn10_1", "resnet20", "timm/test_efficientnet"])
def test_every_layer_has_its_depth(name):
    model = create_model(name, 4, image_size=32).eval()
    found = depths(model, torch.rand(1, 3, 32, 32))
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert set(found) == set(layers)
    assert sorted(set(found.values())) == [STEM, 1, 2, 3, HEAD]
    assert sum(depth == STEM for depth in found.values()) == 1
    assert found[layers[-1]] == HEAD
    assert all(not m._forward_hooks for m in layers)
    if name == "wrn10_1":
        by_name = {name: found[m] for name, m in model.named_modules() if m in found}
        for path, depth in by_name.items():
            first, *rest = path.split(".")
            assert depth == (
                1 + int(rest[0]) if first == "group" else {"stem": STEM, "fc": HEAD}[first]
            )


def test_labels_make_no_difference():
    data = images()
    shuffled = TensorImages(data.pixels, data.labels[torch.randperm(96, generator=generator())])
    assert digest(repaired(network())) == digest(repaired(network(), setting(shuffled)))


def test_unlabeled_images_take_the_place_of_the_clean_ones():
    """Where there are some, nothing depends on the clean images."""
    pool, others = images(64, seed=5), images(48, seed=7)
    with_pool = [
        digest(repaired(network(), replace(setting(clean), unlabeled=pool)))
        for clean in (images(), others)
    ]
    assert with_pool[0] == with_pool[1] != digest(repaired(network()))
    # The same images, whether they have labels or not.
    assert with_pool[0] == digest(repaired(network(), setting(pool)))


def test_its_epochs_are_those_of_the_unlabeled_images(monkeypatch):
    taus = []

    def recorded(teacher, student, tau):
        taus.append(tau)
        return soft_loss(teacher, student, tau)

    monkeypatch.setattr("kdbench_bcu.method.soft_loss", recorded)
    given = replace(setting(epochs=3, batch_size=48), unlabeled=images(144, seed=5))
    repaired(network(), given)
    assert taus == pytest.approx([2.0] * 3 + [3.0] * 3 + [4.0] * 3)


def test_it_learns_what_the_network_can_do():
    """Half of the last group's weights are new, and are learned again without labels."""
    model = repaired(
        network(), setting(epochs=20, lr=0.1), rates=(0.05, 0.05, 0.1, 0.5, 0.1), temperature=1
    )
    assert not model.training
    assert accuracy(model, images(seed=9)) > 0.9


def test_when():
    before = digest(network())
    cleansed = BCU(BCUParams(when="before")).cleanse_teacher(network(), setting())
    student = BCU().repair_student(network(), None, setting())
    assert digest(cleansed) == digest(student) != before


def test_a_killed_run_resumes(tmp_path):
    def run(fit):
        return digest(repaired(network(), replace(setting(), fit=fit)))

    numerics = setting().numerics
    plain = run(Fit(numerics, Silent()))
    for _ in range(2):
        assert plain == run(Fit(numerics, Silent(), checkpoints=FolderCheckpoints(tmp_path, 0)))
    assert (tmp_path / "fit-0.safetensors").exists()


def test_the_authors_recipe():
    base = Recipe(epochs=2, min_steps=50, batch_size=64, lr=0.1, schedule="onecycle")
    assert BCUParams(**BCU.presets["paper"]).recipe(base) == Recipe(
        epochs=100, batch_size=256, lr=0.01, nesterov=False, schedule="cosine", weight_decay=5e-4
    )
