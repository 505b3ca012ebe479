"""I-BAU against hand-computed numbers."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from kdbench_ibau.method import IBAU, IBAUParams, hypergradient, perturbed_count, with_gradients

from kdbench.training import Fit, Recipe, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from tests.plugins.tiny import accuracy, digest, images, setting, tiny, trained

SHORT = {"rounds": 2, "batch_size": 32, "fixed_point": 3}


@cache
def _trained():
    return trained(1)


def network():
    return copy.deepcopy(_trained())


def method(**params):
    return IBAU(IBAUParams(**(SHORT | params)))


@pytest.mark.parametrize(
    ("iterations", "expected"), [(1, 4.2), (5, 4.81902), (50, 5.98969), (400, 6.0)]
)
def test_the_hypergradient_by_hand(iterations, expected):
    """inner = (delta - theta)^2 / 2, so that delta* = theta. outer = theta^2 / 2 + delta theta.
    At theta = delta = 2 the limit is 3 theta."""
    theta = torch.tensor([2.0], requires_grad=True)
    value, (h,) = hypergradient(
        lambda d: (theta.square() / 2 + d * theta).sum(),
        lambda d: (d - theta).square().sum() / 2,
        torch.tensor([2.0]),
        [theta],
        0.1,
        iterations,
    )
    assert h.item() == pytest.approx(expected, abs=1e-5)
    assert value.item() == 6
    assert not h.requires_grad


def test_a_step_takes_exactly_these_gradients():
    weights = [torch.randn(3, 2, requires_grad=True), torch.randn(5, requires_grad=True)]
    gradients = [torch.randn(3, 2), torch.randn(5)]
    scalar = with_gradients(torch.tensor(0.25), weights, gradients)
    scalar.backward()
    assert scalar.item() == pytest.approx(0.25, abs=1e-6)
    for w, g in zip(weights, gradients, strict=True):
        assert torch.equal(w.grad, g)


@pytest.mark.parametrize(("batch", "up", "down"), [(8, 1, 0), (64, 1, 0), (256, 3, 2), (300, 3, 3)])
def test_how_many_images_are_perturbed(batch, up, down):
    assert perturbed_count(IBAUParams(), batch) == up
    assert perturbed_count(IBAUParams(rounding="floor"), batch) == down
    assert perturbed_count(IBAUParams(portion=0), batch) == 0


def test_where_no_image_is_perturbed_it_is_fine_tuning_with_adam_in_eval_mode():
    """So it is in the authors' code, in batches under 100."""
    expected, s = network(), setting()
    torch.randperm(96, generator=s.generator)
    s.fit(
        expected,
        lambda b: {"ce": F.cross_entropy(expected(b.images), b.labels)},
        s.clean,
        Recipe(epochs=2, batch_size=32, optimizer="adam", lr=1e-4, weight_decay=0),
        generator=s.generator,
        augmentation=s.augmentation,
    )
    none = [
        method(**p).repair(network(), setting()) for p in ({"portion": 0}, {"rounding": "floor"})
    ]
    for mine in none:
        for a, b in zip(mine.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    assert digest(method().repair(network(), setting())) != digest(none[0])


def test_only_parameters_move():
    model = network()
    before = {k: v.clone() for k, v in model.named_buffers()}
    repaired = method().repair_student(model, None, setting())
    assert repaired is model
    assert not any(module.training for module in model.modules())
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name
    assert all(
        not torch.equal(a, b)
        for a, b in zip(model.parameters(), network().parameters(), strict=True)
    )


@pytest.mark.parametrize("space", ["pixel", "normalised"])
def test_the_perturbation_does_harm(space):
    model, ours = network(), method(space=space)
    model.set_normalization((0.0,) * 3, (1.2,) * 3)
    data = images()
    delta = ours.worst(model, data.subset(torch.arange(96).repeat(100)))
    assert delta.shape == (1, 3, 16, 16)
    assert not delta.requires_grad
    x = data.read(torch.arange(96))
    with torch.no_grad():
        labels = model(x).argmax(1)
        harmed = F.cross_entropy(model(ours.add(model, x, delta)), labels)
        assert harmed > 2 * F.cross_entropy(model(x), labels)


def test_what_the_perturbation_is_added_to():
    model, x = network(), images().read(torch.arange(2))
    model.set_normalization((0.5,) * 3, (0.25, 0.5, 1.0))
    delta = torch.full((1, 3, 16, 16), 2.0)
    assert torch.equal(method().add(model, x, delta), x + 2)
    shift = torch.tensor([0.5, 1.0, 2.0]).view(1, 3, 1, 1).expand_as(x)
    torch.testing.assert_close(method(space="normalised").add(model, x, delta) - x, shift)
    assert torch.equal(method(clamp=True).add(model, x, delta), torch.ones_like(x))


def test_the_inner_loss_by_hand():
    model, x = tiny(1), images().read(torch.arange(4))
    labels = torch.arange(4)
    delta = torch.full((1, 3, 16, 16), 0.5)
    found = method(penalty=0.01).inner(model, x, labels, delta)
    expected = 0.01 * 0.25 * 768 - F.cross_entropy(model(x + 0.5), labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_round_searches_anew_for_the_network_as_it_is(monkeypatch):
    seen, searched = [], IBAU.worst

    def worst(self, model, data):
        seen.append(digest(model))
        return searched(self, model, data)

    monkeypatch.setattr(IBAU, "worst", worst)
    method(rounds=3).repair(network(), setting())
    assert len(seen) == len(set(seen)) == 3


def test_a_killed_run_resumes_and_another_seed_is_another_network(tmp_path):
    def run(seed, fit):
        torch.manual_seed(seed)
        return digest(method().repair(network(), replace(setting(seed=seed), fit=fit)))

    numerics = setting().numerics
    plain = run(3, Fit(numerics, Silent()))
    for _ in range(2):
        assert plain == run(3, Fit(numerics, Silent(), checkpoints=FolderCheckpoints(tmp_path, 0)))
    assert (tmp_path / "fit-0.safetensors").exists()
    assert plain != run(4, Fit(numerics, Silent()))


def test_bfloat16_changes_nothing():
    runs = []
    for bf16 in (False, True):
        torch.manual_seed(0)
        runs.append(digest(method().repair(network(), setting(bf16=bf16))))
    assert runs[0] == runs[1]


def test_it_keeps_what_the_network_can_do():
    model = method(rounds=3, lr=1e-3).repair(network(), setting())
    assert accuracy(model, images(seed=9)) > 0.9


def test_the_numbers_of_the_sources():
    p = IBAUParams(**IBAU.presets["paper"])
    assert (p.rounds, p.batch_size, p.lr, p.portion, p.inner_lr) == (5, 256, 1e-4, 0.01, 10)
    assert (p.fixed_point, p.inner_step, p.penalty, p.clamp) == (5, 0.1, 0.001, False)
