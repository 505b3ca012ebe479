"""ARGD against hand-computed numbers."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from kdbench_argd.method import ARGD, ARGDParams, edges
from kdbench_finetune.method import FineTuning
from kdbench_nad.method import NAD, NADParams

from kdbench.repair import derived
from kdbench.training import Fit, Recipe, Silent
from tests.plugins.tiny import accuracy, digest, images, setting, trained


@cache
def _trained():
    return trained(1)


def network():
    return copy.deepcopy(_trained())


def repaired(s=None, **params):
    return ARGD(ARGDParams(**params)).repair(network(), s or setting())


def one_place(place, side):
    """A map of one channel with attention at one place."""
    g = torch.zeros(1, 1, side, side)
    g[0, 0, place, place] = 3
    return g


def test_edges_by_hand():
    """Image 1: the first two groups look at the same place, and the third at another. Image 2: all
    look at different places. Two different places are 2 apart."""
    groups = tuple(
        torch.cat([one_place(a, 4), one_place(b, 4)]) for a, b in ((0, 0), (0, 1), (2, 3))
    )
    torch.testing.assert_close(
        edges(groups), torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), rtol=0, atol=1e-5
    )


def test_a_larger_map_is_pooled():
    """One place of 4x4 is a quarter of one place of 2x2: (1/4 - 1)^2 against (1/4)^2 + 1."""
    large = torch.cat([one_place(0, 4), one_place(0, 4)])
    small = torch.cat([one_place(0, 2), one_place(1, 2)])
    (found,) = edges((large, small))
    torch.testing.assert_close(found, torch.tensor([0.5625 / 1.0625, 1.0]), rtol=1e-4, atol=1e-5)


def test_edges_have_a_largest_of_one_and_no_unit():
    torch.manual_seed(0)
    groups = tuple(torch.randn(6, c, s, s) for c, s in ((4, 16), (8, 8), (16, 4)))
    found = edges(groups)
    assert found.shape == (3, 6)
    torch.testing.assert_close(found.max(1).values, torch.ones(3))
    scaled = tuple(c * g for c, g in zip((5.0, 0.3, 2.0), groups, strict=True))
    torch.testing.assert_close(edges(scaled), found, rtol=1e-3, atol=1e-4)


def test_equal_maps_are_finite():
    g = torch.randn(3, 4, 8, 8).requires_grad_()
    found = edges((g, g, g))
    assert torch.equal(found, torch.zeros(3, 3))
    found.sum().backward()
    assert torch.isfinite(g.grad).all()


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({}, {"attention1", "attention2", "attention3", "edge"}),
        ({"edge_weight": 0}, {"attention1", "attention2", "attention3"}),
        ({"node_weight": 0}, {"edge"}),
    ],
)
def test_a_network_like_its_copy_has_no_loss(params, names):
    terms = {}

    class Looking(Fit):
        """Computes the loss once, and trains nothing."""

        def __call__(self, model, loss, images, recipe, **named):
            if recipe.epochs:  # the second call: the network itself, on stored statistics
                model.eval()
                terms.update(loss(next(images.batches(96))))

    s = replace(setting(), fit=Looking(setting().numerics, Silent()))
    ARGD(ARGDParams(teacher_epochs=0, **params)).repair(network(), s)
    assert terms.keys() == names | {"ce"}
    assert all(terms[name].item() == pytest.approx(0, abs=1e-6) for name in names)


def test_without_weights_it_is_fine_tuning_and_without_edges_nad():
    plain = FineTuning().repair(network(), setting())
    assert digest(repaired(node_weight=0, edge_weight=0)) == digest(plain)
    beta = (2000.0, 5000.0, 2000.0)
    nad = NAD(NADParams(beta=beta)).repair(network(), setting())
    nodes, both, alone = (
        digest(repaired(**params)) for params in ({"edge_weight": 0}, {}, {"node_weight": 0})
    )
    assert nodes == digest(nad)
    assert len({nodes, both, alone, digest(plain)}) == 4
    assert digest(repaired()) == both


def test_a_derived_generator_leaves_its_origin():
    g = torch.Generator().manual_seed(3)
    before = g.get_state()
    other = derived(g)
    assert other.initial_seed() == 4
    assert torch.equal(g.get_state(), before)
    assert derived(torch.Generator().manual_seed(2**63 - 1)).initial_seed() == 0


def test_repair_keeps_accuracy():
    model = repaired(setting(lr=0.005))
    assert not model.training
    assert accuracy(model, images(seed=9)) > 0.9


def test_paper_preset_is_the_authors_recipe():
    base = Recipe(epochs=100, min_steps=1000, batch_size=256, lr=0.01, schedule="onecycle")
    params = ARGDParams(**ARGD.presets["paper"])
    common = {"batch_size": 64, "lr": 0.1, "weight_decay": 1e-4, "schedule": "steps"}
    assert params.teacher_recipe(base) == Recipe(epochs=10, milestones=(0.2,), **common)
    assert params.recipe(base) == Recipe(epochs=20, milestones=(0.1,), **common)
    assert params.beta == (2000, 5000, 2000)
    assert (params.node_weight, params.edge_weight) == pytest.approx((1, 1))
