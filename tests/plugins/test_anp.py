"""ANP: masks in bounds, nothing but scales changed, and a loss that an adversary does raise."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from kdbench_anp.method import ANP, THRESHOLDS, ANPParams, Neurons, adversarial_noise
from kdbench_fkd.method import FKD

from kdbench.errors import ConfigError
from kdbench.metrics import accuracy as counted
from kdbench.models import create_model
from kdbench.models.views import FrozenTeacher, batch_statistics
from kdbench.numerics import Numerics
from kdbench.repair import held_out
from kdbench.training import Fit, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from tests.plugins.tiny import digest, images, setting, tiny

SHORT = {"iterations": 12, "batch_size": 16}


def method(**params):
    return ANP(ANPParams(**(SHORT | params)))


def learned(model, **params):
    torch.manual_seed(5)
    return method(**params).learn(Neurons(model), images(), setting())


def gammas(model):
    return torch.cat([bn.weight.detach() for bn in model.bns])


def test_masks_stay_in_bounds_and_the_network_as_it_was(good):
    before = digest(good)
    good.fc.weight.requires_grad_(False)
    flags = {n: p.requires_grad for n, p in good.named_parameters()}
    m = learned(good, lr=2.0)
    assert m.shape == (4 + 8 + 16,)
    assert ((m >= 0) & (m <= 1)).all()
    assert (m == 0).any()
    assert len(m.unique()) > 2
    assert digest(good) == before, "neither weights nor buffers move"
    assert {n: p.requires_grad for n, p in good.named_parameters()} == flags
    assert not any(module.training for module in good.modules())
    assert all(bn.track_running_stats for bn in good.bns)


def test_scales_are_zero_exactly_where_the_mask_is_low(good):
    before = copy.deepcopy(good.state_dict())
    m = learned(good, lr=1.0)
    threshold = m.mean().item()
    torch.manual_seed(5)
    repaired = method(lr=1.0, threshold=threshold).repair_student(good, None, setting())
    assert repaired is good
    pruned = m <= threshold
    assert torch.equal(gammas(repaired) == 0, pruned)
    assert 0 < int(pruned.sum()) < len(m)
    for name, value in repaired.state_dict().items():
        if name.startswith("bns.") and name.endswith(".weight"):
            assert torch.equal(value[value != 0], before[name][value != 0])
        else:
            assert torch.equal(value, before[name]), name


def test_below_every_mask_nothing_is_pruned(good):
    before = digest(good)
    assert digest(method(threshold=-1, lr=2.0).repair_student(good, None, setting())) == before
    assert digest(method(threshold=0, lr=1e-3).repair_student(good, None, setting())) == before


def test_a_higher_threshold_prunes_more(good):
    neurons, m = Neurons(good), torch.linspace(0, 1, 28)
    numbers = []
    for threshold in (-1.0, *THRESHOLDS, 1.0):
        neurons.prune(m, threshold)
        numbers.append(int((gammas(good) == 0).sum()))
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert numbers[-1] == 28
    neurons.prune(m, -1.0)
    assert (gammas(good) != 0).all(), "a lower threshold gives scales back"


def test_noise_acts_as_the_formula_says(good):
    """One batch norm by hand: y = (m + delta) gamma x_hat + (1 + xi) beta."""
    torch.manual_seed(0)
    m, noise, shown = torch.rand(28), torch.rand(2, 28) - 0.5, images().read(torch.arange(8))
    by_hand, at = copy.deepcopy(good), 0
    with torch.no_grad():
        for bn in by_hand.bns:
            part = slice(at, at := at + bn.num_features)
            bn.weight *= m[part] + noise[0, part]
            bn.bias *= 1 + noise[1, part]
        torch.testing.assert_close(Neurons(good).logits(shown, m, noise), by_hand(shown))
        assert torch.equal(Neurons(good).logits(shown, torch.ones(28)), good(shown))


def test_the_adversary_raises_the_loss(good):
    data, neurons, ones = images(), Neurons(good), torch.ones(28)
    torch.manual_seed(0)
    clean, random, perturbed = [], [], []
    with batch_statistics(good):
        for batch in data.batches(16):

            def loss(noise, batch=batch):
                return F.cross_entropy(neurons.logits(batch.images, ones, noise), batch.labels)

            clean.append(loss(None).item())
            state = torch.get_rng_state()
            random.append(loss(0.8 * torch.rand(2, 28) - 0.4).item())
            torch.set_rng_state(state)
            perturbed.append(
                loss(adversarial_noise(loss, 28, torch.device("cpu"), ANPParams())).item()
            )
    assert sum(perturbed) > sum(random)
    assert sum(perturbed) > sum(clean)


@pytest.mark.parametrize(
    ("project", "steps", "largest"),
    [(False, 1, 0.8), (False, 4, 0.8), (True, 1, 0.4), (True, 4, 0.4)],
)
def test_how_far_the_noise_may_go(project, steps, largest):
    torch.manual_seed(0)
    params = ANPParams(project_noise=project, inner_steps=steps)
    noise = adversarial_noise(lambda n: n.sum(), 500, torch.device("cpu"), params)
    assert not noise.requires_grad
    assert noise.shape == (2, 500)
    assert 0.95 * largest < noise.max().item() <= largest + 1e-6
    start = noise.min().item()
    assert start == pytest.approx(0, abs=0.02), (
        "each started in [-0.4, 0.4] and went up by 0.4 in all"
    )


def test_without_noise_and_with_alpha_one_the_losses_are_the_same(good):
    """Then only the plain loss of the masks is left, and both halves of the sum are it."""
    assert torch.equal(learned(good, epsilon=0, alpha=1.0), learned(good, epsilon=0.4, alpha=1.0))
    torch.testing.assert_close(
        learned(good, epsilon=0, alpha=0.3),
        learned(good, epsilon=0, alpha=1.0),
        atol=1e-4,
        rtol=1e-4,
    )
    assert not torch.equal(learned(good, alpha=0.2), learned(good, alpha=1.0))


def test_val_takes_the_largest_threshold_that_accuracy_allows(good):
    given = {"select": "val", "lr": 1.0, "max_drop": 0.1}
    torch.manual_seed(5)
    original = copy.deepcopy(good)
    repaired = method(**given).repair_student(good, None, setting())
    s = setting()
    repair, choosing = held_out(s.clean, 0.2, s.generator)
    torch.manual_seed(5)
    neurons = Neurons(original)
    m = method(**given).learn(neurons, repair, s)
    correct, total = counted(original, choosing, Numerics())
    allowed = []
    for threshold in THRESHOLDS:
        neurons.prune(m, threshold)
        if counted(original, choosing, Numerics())[0] >= correct - 0.1 * total:
            allowed.append(threshold)
    neurons.prune(m, max(allowed))
    assert digest(repaired) == digest(original)
    assert (gammas(repaired) == 0).any()


def test_val_prunes_nothing_where_even_zero_costs_too_much(good, monkeypatch):
    before = digest(good)
    monkeypatch.setattr(
        ANP, "learn", lambda self, neurons, images, setting: torch.zeros(neurons.count)
    )
    assert digest(method(select="val").repair_student(good, None, setting())) == before


def test_the_same_seeds_give_the_same_network_and_a_killed_run_resumes(good, tmp_path):
    def repaired(seed, fit):
        torch.manual_seed(seed)
        return digest(
            method(lr=1.0, threshold=0.5).repair_student(
                copy.deepcopy(good), None, replace(setting(), fit=fit)
            )
        )

    plain = repaired(5, Fit(Numerics(), Silent()))
    assert plain == repaired(5, Fit(Numerics(), Silent()))
    for _ in range(2):  # the second finds the masks of the first
        assert plain == repaired(
            5, Fit(Numerics(), Silent(), checkpoints=FolderCheckpoints(tmp_path, 0))
        )
    assert (tmp_path / "fit-0.safetensors").exists()


def test_a_library_model_is_pruned():
    torch.manual_seed(0)
    model = create_model("timm/test_efficientnet", 4, image_size=16).eval()
    before = copy.deepcopy(model.state_dict())
    repaired = method(iterations=4, lr=2.0, threshold=0.9).repair_student(model, None, setting())
    changed = [
        name
        for name, value in repaired.state_dict().items()
        if not torch.equal(value, before[name])
    ]
    assert changed
    assert all(
        isinstance(model.get_submodule(n.removesuffix(".weight")), torch.nn.BatchNorm2d)
        for n in changed
    )


def test_bfloat16(good):
    m = method().learn(Neurons(good), images(), setting(bf16=True))
    assert m.dtype == torch.float32
    assert ((m >= 0) & (m <= 1)).all()


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(
        ConfigError,
        match="tiny has no batch norm with a scale; choose another network, or a defense",
    ):
        method().repair_student(tiny(0, norms=False), None, setting())


def test_without_an_image_to_hold_out_val_says_so(good):
    with pytest.raises(ConfigError, match="no class has two; raise --clean-fraction"):
        method(select="val").repair_student(good, None, setting(images(4)))


def test_fkd_reads_margins_of_a_pruned_teacher(good):
    teacher = method(threshold=0.9, lr=1.0, when="before").cleanse_teacher(good, setting())
    assert (gammas(teacher) == 0).any()
    frozen, student, batch = FrozenTeacher(teacher, "batch"), tiny(2), next(images().batches(16))
    objective = FKD().objective(frozen, student)
    losses = objective(batch, frozen.features(batch.images), student.features(batch.images))
    assert all(torch.isfinite(getattr(objective, f"margin{i}")).all() for i in range(3))
    assert all(torch.isfinite(value) for value in losses.values())


def test_the_papers_numbers():
    assert ANP.presets["paper"] == {}
    p = ANPParams()
    assert (p.epsilon, p.alpha, p.lr, p.momentum, p.batch_size, p.iterations, p.inner_steps) == (
        0.4,
        0.2,
        0.2,
        0.9,
        128,
        2000,
        1,
    )
    assert (p.threshold, p.select, p.project_noise) == (0.2, "fixed", False)
