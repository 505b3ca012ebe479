"""Every repair, on a clean network and on one with a backdoor that was planted."""

import copy
from dataclasses import replace

import pytest

from kdbench.repair import Repair
from tests.plugins.planted import backdoored, corner_asr
from tests.plugins.tiny import accuracy, images, setting, trained

REPAIRS = ("anp", "argd", "bcu", "fineprune", "finetune", "ftsam", "ibau", "nad", "nc", "ulrl")
#: They remove this backdoor. Fine-tuning, fine-pruning, ANP and ULRL leave it whole or for the most
#: part. I-BAU leaves two thirds: the network is so sure of its classes that the slope which I-BAU
#: follows is nearly 0.
REMOVES = ("argd", "bcu", "ftsam", "nad", "nc")


def repaired(registry, name, model):
    method = registry.registered("defense", name).value
    given = replace(setting(epochs=12), report=lambda finding: None)
    return method(method.Params(**method.presets["quick"])).repair(copy.deepcopy(model), given)


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
    assert corner_asr(backdoored()) > 0.9
    model = repaired(registry, name, backdoored())
    assert corner_asr(model) < 0.45
    assert accuracy(model, images(400, seed=9)) > 0.95


def test_a_longer_training_alone_does_not_remove_it(registry):
    """So the tests above say something of the methods."""
    assert corner_asr(repaired(registry, "finetune", backdoored())) > 0.9
