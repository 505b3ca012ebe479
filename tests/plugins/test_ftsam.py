"""FT-SAM against hand-computed numbers."""

import copy
import math
from dataclasses import replace
from functools import cache

import pydantic
import pytest
import torch
import torch.nn.functional as F
from kdbench_finetune.method import FineTuning
from kdbench_ftsam.method import FTSAM, FTSAMParams, perturbation, sharp, smoothed
from kdbench_ftsam.swing import Swing

from kdbench.data.base import Batch
from kdbench.errors import ConfigError
from kdbench.metrics import accuracy as counted
from kdbench.numerics import Numerics
from kdbench.repair import PlainTuningParams, TuningParams, fine_tune, held_out, position
from kdbench.training import Fit, Recipe, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from tests.plugins.tiny import digest, images, setting, tiny, trained


@cache
def _trained():
    return trained(1)


def network():
    return copy.deepcopy(_trained())


def repaired(model, s=None, **params):
    return FTSAM(FTSAMParams(**params)).repair(model, s or setting())


def bowl(weights, again=False):
    """L = (3 w1^2 + 2 w2^2) / 2."""
    w = weights["w"]
    return (torch.tensor([1.5, 1.0]) * w.square()).sum()


@pytest.mark.parametrize(
    ("adaptive", "rho", "eps", "gradient"),
    [
        (True, 2.0, (0.7022469, 3.7453167), (5.1067407, 11.4906334)),
        (False, 0.05, (0.03, 0.04), (3.09, 4.08)),
    ],
)
def test_a_step_by_hand(adaptive, rho, eps, gradient):
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    (found,) = perturbation([w], [torch.tensor([3.0, 4.0])], rho, adaptive)
    torch.testing.assert_close(found, torch.tensor(eps))
    (slope,) = torch.autograd.grad(sharp(bowl, {"w": w}, rho, adaptive), w)
    torch.testing.assert_close(slope, torch.tensor(gradient))


def test_the_norm_goes_over_all_weights():
    """|w| g of (3, 8) in two tensors instead of one."""
    parts = perturbation(
        [torch.tensor([1.0]), torch.tensor([2.0])],
        [torch.tensor([3.0]), torch.tensor([4.0])],
        2.0,
        True,
    )
    torch.testing.assert_close(torch.cat(parts), torch.tensor([0.7022469, 3.7453167]))


@pytest.mark.parametrize("adaptive", [True, False])
def test_without_a_slope_nothing_is_perturbed(adaptive):
    (eps,) = perturbation([torch.ones(3)], [torch.zeros(3)], 2.0, adaptive)
    assert torch.equal(eps, torch.zeros(3))


def test_smoothing_by_hand():
    labels, uniform = torch.tensor([3, 0]), torch.zeros(2, 10)
    assert smoothed(uniform, labels, 0.1).item() == pytest.approx(1.7577797, abs=1e-6)
    row = torch.full((2, 10), 0.1 / 9)
    row[0, 3] = row[1, 0] = 0.9
    assert smoothed(row.log(), labels, 0.1).item() == pytest.approx(0, abs=1e-6)
    logits = torch.randn(2, 10)
    assert torch.equal(smoothed(logits, labels, 0), F.cross_entropy(logits, labels))


def test_rho_zero_is_fine_tuning_bit_for_bit():
    model, s = network(), setting(nesterov=False)
    fine_tune(model, s, s.recipe)
    assert digest(repaired(network(), rho=0)) == digest(model)
    assert digest(repaired(network(), rho=0, adaptive=False)) == digest(model)
    assert digest(repaired(network())) != digest(model)
    nesterov = FineTuning().repair(network(), setting())
    assert digest(repaired(network(), rho=0, nesterov=True)) == digest(nesterov) != digest(model)


def test_running_statistics_move_once_in_a_step():
    """As in one forward pass of the same batch."""
    s = setting(epochs=1, batch_size=96)
    once, whole = network().train(), replace(s, augmentation=None)
    once(images().read(torch.arange(96)))
    done = repaired(network(), whole)
    for mine, other in zip(done.bns, once.bns, strict=True):
        torch.testing.assert_close(mine.running_mean, other.running_mean)
        torch.testing.assert_close(mine.running_var, other.running_var)
        assert mine.num_batches_tracked == other.num_batches_tracked


def test_one_step_of_a_network_is_sgd_at_the_perturbed_weights():
    """The same in place: climb, take the gradient, go back, and step."""
    s = replace(setting(epochs=1, batch_size=96, weight_decay=0.1), augmentation=None)
    by_hand, batch = network().train().requires_grad_(True), images()
    x, labels = batch.read(torch.arange(96)), batch.labels
    weights = list(by_hand.parameters())

    def slopes():
        return torch.autograd.grad(F.cross_entropy(by_hand(x), labels), weights)

    eps = perturbation(weights, slopes(), 2.0, True)
    with torch.no_grad():
        start = [w.clone() for w in weights]
        for w, e in zip(weights, eps, strict=True):
            w.add_(e)
    gradients = slopes()
    with torch.no_grad():
        for w, old, g in zip(weights, start, gradients, strict=True):
            w.copy_(old - 0.02 * (g + 0.1 * old))
    for mine, other in zip(repaired(network(), s).parameters(), weights, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_rate_of_the_release_swings():
    """With 4 epochs of 6 steps: the rate is 0 after 4 steps, and full again after 8."""
    recipe = Recipe(epochs=4, batch_size=16, lr=1.0)
    swing = Swing([torch.zeros(1)], recipe, 96)
    shares = []
    for done in range(24):
        swing.begin(Batch(torch.zeros(0), torch.zeros(0), torch.zeros(0), done / 24))
        shares.append(swing.share)
    expected = [(1 + math.cos(math.pi * i / 4)) / 2 for i in range(24)]
    assert shares == pytest.approx(expected)
    assert shares[4] == pytest.approx(0)
    assert shares[8] == pytest.approx(1)


def test_a_shortened_step_is_a_step_of_that_rate():
    """SGD with momentum, by hand: v = 0.9 v + g, w = w - rate * v."""
    w = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    swing = Swing([w], Recipe(epochs=4, batch_size=2, lr=0.1), 4)
    expected, v = 1.0, 0.0
    for done in range(8):
        swing.begin(Batch(torch.zeros(0), torch.zeros(0), torch.zeros(0), done / 8))
        w.grad = w.detach().clone()
        optimizer.step()
        swing.end()
        v = 0.9 * v + expected
        expected -= 0.1 * (1 + math.cos(math.pi * done / 4)) / 2 * v
        assert w.item() == pytest.approx(expected, rel=1e-5)


def test_the_release_is_something_else():
    assert digest(repaired(network(), swing=True)) != digest(repaired(network()))


def test_val_takes_the_largest_rho_that_accuracy_allows(monkeypatch):
    tried = []
    accuracies = {8.0: 0.80, 2.0: 0.96, 0.5: 0.97}

    def tune(self, model, given, chosen, rho):
        tried.append((rho, digest(model)))
        model.fc.bias.data.fill_(rho)

    def measured(model, chosen, numerics):
        rho = model.fc.bias[0].item()
        return round(100 * accuracies.get(rho, 0.97)), 100

    monkeypatch.setattr(FTSAM, "tune", tune)
    monkeypatch.setattr("kdbench_ftsam.method.accuracy", measured)
    model = network()
    before = digest(model)
    assert repaired(model, select="val").fc.bias[0] == 2.0
    assert tried == [(8.0, before), (2.0, before)], "each starts from the network that was given"
    tried.clear()
    assert repaired(network(), select="val", max_drop=0).fc.bias[0] == 0.5
    assert [rho for rho, _ in tried] == [8.0, 2.0, 0.5]


def test_val_does_not_train_on_what_it_chooses_with():
    s = setting()
    expected = network()
    rest, choosing = held_out(s.clean, 0.2, s.generator)
    method = FTSAM(FTSAMParams(select="val", max_drop=1))
    method.tune(expected, s, rest, 8.0)
    assert digest(method.repair(network(), setting())) == digest(expected)
    assert counted(expected, choosing, Numerics())[1] == len(choosing) == 20


def test_val_without_an_image_to_hold_out_says_so():
    with pytest.raises(ConfigError, match="no class has two; raise --clean-fraction"):
        repaired(network(), setting(images(4)), select="val")


def test_a_killed_run_resumes(tmp_path):
    def run(fit):
        return digest(repaired(network(), replace(setting(), fit=fit), swing=True))

    plain = run(Fit(Numerics(), Silent()))
    for _ in range(2):
        assert plain == run(Fit(Numerics(), Silent(), checkpoints=FolderCheckpoints(tmp_path, 0)))
    assert (tmp_path / "fit-0.safetensors").exists()


def test_bfloat16_and_a_network_without_batch_norm():
    for model, s in ((network(), setting(bf16=True)), (tiny(0, norms=False), setting())):
        before = digest(model)
        assert digest(repaired(model, s)) != before
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_recipes():
    base = Recipe(epochs=3, lr=0.02, schedule="onecycle")
    plain = PlainTuningParams()
    assert plain.recipe(base) == base.model_copy(update={"nesterov": False})
    assert PlainTuningParams(nesterov=True).recipe(base) == base == TuningParams().recipe(base)
    paper = FTSAMParams(**FTSAM.presets["paper"]).recipe(base)
    assert paper == Recipe(
        epochs=100, batch_size=256, lr=0.01, nesterov=False, schedule="cosine", weight_decay=5e-4
    )
    with pytest.raises(pydantic.ValidationError, match="cosine and milestones are two schedules"):
        PlainTuningParams(cosine=True, milestones=(0.5,))


def test_the_place_of_a_batch_in_a_training():
    """Each step of 3 epochs of 7 is found, though the share of the steps is a rounded number."""
    recipe, data = Recipe(epochs=3, batch_size=13, lr=0.1), images()
    model, found = network(), []

    def loss(batch):
        found.append(position(batch, recipe, len(data)))
        return {"ce": F.cross_entropy(model(batch.images), batch.labels)}

    setting().fit(model, loss, data, recipe, generator=torch.Generator().manual_seed(0))
    assert found == [(epoch, step) for epoch in range(3) for step in range(7)]
