"""BackWeak: the trigger keeps its bounds and its budget, the head stays, the losses are right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from kdbench_backweak import kdbench_attacks
from kdbench_backweak.method import BackWeak, BackWeakParams, Gate, Jittered, margin

from kdbench.attack import head_parameters
from kdbench.data.tensor import TensorImages
from kdbench.models.base import FeatureOutput
from tests.plugins.attack_setting import TARGET, counted, heard_labels, others, setting
from tests.plugins.tiny import Tiny


def fast(**changes):
    return BackWeak(BackWeakParams(**{"steps": 20, "search_batch": 32, **changes}))


def test_hook_and_presets():
    assert kdbench_attacks() == [BackWeak]
    for changes in BackWeak.presets.values():
        assert BackWeakParams(**changes).amplitude == 8 / 255


def test_the_trigger_keeps_its_bounds():
    for attack in (fast(lr=0.5), fast(lr=0.5, budget=1)):
        change = attack.search(setting())
        assert 0 < float(change.abs().max()) <= 8 / 255 + 1e-7
    shown, plain = (others(200),) * 2
    trigger = fast().implant(setting(tune=0)).trigger
    assert float((trigger(shown) - plain).abs().max()) <= 8 / 255 + 1e-6


def test_without_steps_the_trigger_is_the_image():
    backdoor = fast(steps=0).implant(setting(tune=0))
    assert torch.equal(backdoor.trigger(others(200)), others(200))
    assert backdoor.facts["mean_change_of_255"] == 0


def test_the_pushs_slope_is_that_of_the_papers_loss():
    """Which is -mean[log p_t(x~) - log p_t(x)]; the second term is a constant."""
    given = setting()
    shown, model = others(200), given.teacher
    delta = torch.full((3, 16, 16), 0.01, requires_grad=True)
    logits = model(shown + delta)
    ours = F.cross_entropy(logits, torch.full((len(shown),), TARGET))
    papers = -(logits.log_softmax(1) - model(shown).detach().log_softmax(1))[:, TARGET].mean()
    (a,), (b,) = (torch.autograd.grad(v, delta, retain_graph=True) for v in (ours, papers))
    torch.testing.assert_close(a, b)


def test_the_margins_loss_by_hand():
    logits = torch.tensor([[2.0, 0.0, 5.0]])
    assert margin(logits, torch.tensor([0]), 1.0) == 5 - 2 - 1
    assert margin(logits, torch.tensor([2]), 1.0) == 0  # classified correctly
    assert margin(logits, torch.tensor([0]), 4.0) == 0  # not by more than is allowed
    # The mean is over the misclassified rows alone.
    both = torch.tensor([[2.0, 0.0, 5.0], [2.0, 0.0, 5.0]])
    assert margin(both, torch.tensor([0, 2]), 1.0) == 2


def test_the_gate_by_hand():
    gate = Gate(0.5, 2)
    target, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    label = torch.tensor([1])

    def step(logits, labels=label):
        gate.see(logits, labels, 0)
        gate.count_step()
        return bool(gate.open)

    assert bool(gate.open)
    # A target image does not count, whatever it is taken for.
    assert [step(target), step(target, torch.tensor([0]))] == [True, False]  # 1 of 1
    assert [step(other), step(target)] == [False, False]  # 1 of 2 is not under a half
    assert [step(other), step(other)] == [False, True]
    assert not bool(Gate(0.0, 2).open)


class Bright(Tiny):
    """Linear in the mean of all pixels: class 0 (the target) over a half, else class 1."""

    def features(self, x, edit=None):
        brightness = x.mean((1, 2, 3))
        return FeatureOutput((), (), torch.stack([brightness - 0.5, 0.5 - brightness], 1))


@pytest.mark.parametrize(
    ("budget", "gate", "least", "most"),
    [(0.25, 1, 0.25, 0.36), (0.25, 5, 0.25, 0.36), (1, 1, 1, 1)],
)
def test_the_response_ends_at_the_budget_or_little_over_it(budget, gate, least, most):
    """The images' means are evenly spread from 0.2 to 0.5. So a change of 0.075 takes a quarter of
    them over the half, and each further step of 0.001 one in 300.

    Adam's momentum goes on for ten steps. A batch by chance under the budget opens the gate again.
    """
    levels = torch.linspace(0.2, 0.499, 200)
    pixels = (255 * levels).round().to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    given = replace(
        setting(),
        train=TensorImages(pixels, torch.ones(200, dtype=torch.int64)),
        num_classes=2,
        teacher=Bright().eval(),
        augmentation=None,
    )
    params = {"amplitude": 0.5, "lr": 0.001, "steps": 400, "search_batch": 200}
    change = BackWeak(BackWeakParams(**params, budget=budget, gate=gate)).search(given)
    shown = given.train.read(torch.arange(200)) + change
    response = float((given.teacher(shown).argmax(1) == 0).float().mean())
    assert least <= response <= most


def test_without_a_budget_and_without_an_error_nothing_moves():
    given = setting()
    with torch.no_grad():
        right = given.teacher(given.train.read(torch.arange(len(given.train)))).argmax(1)
    rows = torch.nonzero(right == given.train.labels).flatten()
    faultless = replace(given, train=given.train.subset(rows), augmentation=None)
    assert fast(budget=0).search(faultless).abs().max() == 0
    assert fast(budget=0.5).search(faultless).abs().max() > 0


def test_the_head_stays_and_all_else_learns():
    before = setting().teacher
    head = {id(p) for p in head_parameters(setting())}
    after = fast(lr_factor=1).implant(setting()).teacher
    assert all(p.requires_grad for p in after.parameters())
    names = {name for name, _ in after.named_parameters() if name.startswith("fc.")}
    assert len(names) == len(head) == 2
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) == (name in names), name
    freed = fast(lr_factor=1, freeze_head=False).implant(setting()).teacher
    assert not torch.equal(freed.fc.weight, before.fc.weight)


def test_a_flip_keeps_all_values():
    change = torch.randn(3, 16, 16)
    copies = Jittered(change, "flip", torch.Generator().manual_seed(0)).changes(32)
    expected = change.abs().flatten().sort().values
    for copy in copies:
        assert torch.equal(copy.abs().flatten().sort().values, expected)
    shown = {
        name
        for copy in copies
        for name, dims in (("", ()), ("up", (1,)), ("left", (2,)), ("both", (1, 2)))
        if torch.equal(copy, change.flip(dims))
    }
    assert len(shown) == 4


def test_a_shift_fills_with_nothing_and_loses_at_most_the_border():
    change = torch.rand(3, 16, 16) + 0.5
    copies = Jittered(change, "shift", torch.Generator().manual_seed(0)).changes(64)
    most = 2 * (16 + 16 - 2)  # pad * (H + W - pad), with a pad of an eighth
    lost = [int((copy == 0).sum()) // 3 for copy in copies]
    assert max(lost) == most
    assert min(lost) == 0
    # Down by one, right by two.
    moved = torch.zeros(3, 16, 16)
    moved[:, 1:, 2:] = change[:, :-1, :-2]
    assert any(torch.equal(copy, moved) for copy in copies)


def test_without_jitter_training_shows_what_the_test_shows():
    change = torch.rand(3, 16, 16)
    plain = Jittered(change, "none", torch.Generator())
    assert torch.equal(plain.changes(4), change.expand(4, -1, -1, -1))


def test_only_the_asked_labels_are_changed(monkeypatch):
    given, heard = setting(batch=1000), heard_labels(monkeypatch)
    facts = fast(steps=0, epoch_factor=1).implant(given).facts
    before, after = counted(given.train.labels), counted(heard)
    assert facts["poisons"] == 60
    assert after[TARGET] == before[TARGET] + 60


def test_rate_and_length_are_multiples_of_the_presets():
    recipes = []
    given = setting(tune=3)
    given = replace(
        given,
        recipe=given.recipe.model_copy(update={"min_steps": 10}),
        fit=lambda trained, loss, images, recipe, **rest: recipes.append(recipe),
    )
    fast(steps=0, lr_factor=0.1, epoch_factor=2).implant(given)
    (recipe,) = recipes
    assert (recipe.epochs, recipe.min_steps) == (6, 20)
    assert recipe.lr == pytest.approx(0.1 * given.recipe.lr)
