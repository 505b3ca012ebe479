"""Every repair, on a clean network and on one with a backdoor that was planted."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch

from kdbench.repair import Repair
from kdbench.training import Recipe
from tests.plugins.tiny import accuracy, fit, images, setting, trained

REPAIRS = ("anp", "argd", "bcu", "fineprune", "finetune", "ftsam", "ibau", "nad", "nc", "ulrl")
#: They remove this backdoor. Fine-tuning, fine-pruning, ANP and ULRL leave it whole or for the most
#: part. I-BAU leaves two thirds: the network is so sure of its classes that the slope which I-BAU
#: follows is nearly 0.
REMOVES = ("argd", "bcu", "ftsam", "nad", "nc")


def repaired(registry, name, model):
    method = registry.registered("defense", name).value
    given = replace(setting(epochs=12), report=lambda finding: None)
    return method(method.Params(**method.presets["quick"])).repair(copy.deepcopy(model), given)


def with_corner(count=96, seed=0):
    x = images(seed=seed).read(torch.arange(count))
    x[:, :, :3, :3] = 1
    return x


@cache
def planted():
    """A network that takes a white corner for class 2."""
    model, data = trained(1).train(), images(192)
    recipe = Recipe(epochs=12, batch_size=32, lr=0.05)
    fit(model, data.extended(with_corner(), torch.full((96,), 2)), recipe)
    return model.eval()


def asr(model):
    others = torch.arange(96) % 4 != 2
    with torch.no_grad():
        return (model(with_corner(seed=9)).argmax(1) == 2)[others].float().mean().item()


def test_these_are_all(registry):
    methods = {n: registry.registered("defense", n).value for n in registry.names("defense")}
    assert {n for n, method in methods.items() if issubclass(method, Repair)} == set(REPAIRS)


@pytest.mark.parametrize("name", REPAIRS)
def test_a_clean_network_stays_as_accurate(registry, name):
    clean, unseen = trained(1), images(400, seed=9)
    assert accuracy(clean, unseen) > 0.97
    after = accuracy(repaired(registry, name, clean), unseen)
    assert after > accuracy(clean, unseen) - 0.03


@pytest.mark.parametrize("name", REMOVES)
def test_a_planted_backdoor_is_removed(registry, name):
    assert asr(planted()) > 0.9
    model = repaired(registry, name, planted())
    assert asr(model) < 0.45
    assert accuracy(model, images(400, seed=9)) > 0.95


def test_a_longer_training_alone_does_not_remove_it(registry):
    """So the tests above say something of the methods."""
    assert asr(repaired(registry, "finetune", planted())) > 0.9
