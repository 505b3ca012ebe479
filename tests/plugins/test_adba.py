"""ADBA: three that take turns, against hand-computed values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kdbench_adba import kdbench_attacks
from kdbench_adba.losses import ADBAParams, Losses, soft_loss
from kdbench_adba.masked import margin, mask_head
from kdbench_adba.method import ADBA

from kdbench.attack import head_parameters
from kdbench.data.base import Batch
from kdbench.models import create_model
from kdbench.training import cross_entropy, seeded
from kdbench.triggers import LearnedTrigger
from tests.plugins.attack_setting import counted, heard_labels, setting, success_rate


def test_hook_returns_the_class():
    assert kdbench_attacks() == [ADBA]


def with_networks(given):
    """The setting with networks by name, as a stage has it."""

    def network(name):
        with seeded(int(torch.randint(1 << 62, (), generator=given.generator))):
            return create_model(name, given.num_classes).train()

    return replace(given, network=network)


def losses(form="paper", side=4, **params):
    """Losses of two made-up networks on 4x4 images with a trigger of ones."""
    teacher, shadow = (
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)) for _ in "ab"
    )
    trigger = LearnedTrigger(torch.full((3, side, side), 0.5), torch.ones(1, side, side), 1.0, None)
    return Losses(ADBAParams(form=form, **params), 2, teacher, shadow, trigger)


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 4, 4, generator=generator)
    return Batch(images, torch.tensor([0, 1, 2, 0, 1]), torch.arange(5))


def test_the_size_of_a_mask_of_ones():
    # |m|_2 of 32 x 32 ones is 32, and mu 0.1 makes it 3.2.
    one = losses(side=32)
    assert one.params.mu * one.size().item() == pytest.approx(3.2)


def test_the_size_in_the_code_of_2020():
    # m ~ U(0, 0.1), d ~ U(0, 1), one m for each of 3072 values: 3072 * 0.01/3 * 1/3 = 3.413.
    one = losses("kdbackdoor", mu=0.05)
    generator = torch.Generator().manual_seed(0)
    one.trigger.mask = torch.rand(3, 320, 320, generator=generator) * 0.1
    one.trigger.pattern = torch.rand(3, 320, 320, generator=generator)
    assert 2 * one.size().item() / 100 == pytest.approx(3.413, rel=0.01)
    assert one.params.mu * one.size().item() / 100 == pytest.approx(0.0853, rel=0.01)


def test_the_teacher_s_losses_by_hand():
    one = losses(beta=0.3)
    for parameter in one.teacher.parameters():
        torch.nn.init.zeros_(parameter)
    terms = one.of_teacher(batch())
    assert terms["ce"].item() == pytest.approx(math.log(3))
    assert terms["backdoor"].item() == pytest.approx(0.3 * math.log(3))
    terms = losses("kdbackdoor", beta=0.01).of_teacher(batch())
    assert set(terms) == {"ce", "backdoor"}


def test_the_weights_of_the_code_of_2020():
    one = losses("kdbackdoor", beta=0.01, temperature=8.0)
    with torch.no_grad():
        logits = one.teacher(batch().images)
        wanted = 0.99 * torch.nn.functional.cross_entropy(logits / 8, batch().labels)
    assert one.of_teacher(batch())["ce"].item() == pytest.approx(wanted.item())


def test_soft_losses_differ_by_a_constant_of_the_student():
    teacher = torch.tensor([[1.0, 0.0, 2.0]])
    differences = []
    for seed in (0, 1):
        student = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed))
        kl = soft_loss(student, teacher, 1.0, "paper")
        differences.append((soft_loss(student, teacher, 1.0, "kdbackdoor") - kl).item())
    p = teacher.softmax(1)
    assert differences == [pytest.approx(-(p * p.log()).sum().item())] * 2


def test_soft_loss_by_hand():
    # softmax(0, 0) against softmax(0, T log 3 / T) = (1/4, 3/4): 0.5 log 2 + 0.5 log(2/3), times 4.
    student, teacher = torch.tensor([[0.0, 2 * math.log(3)]]), torch.zeros(1, 2)
    expected = 4 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert soft_loss(student, teacher, 2.0, "paper").item() == pytest.approx(expected)


def test_each_loss_has_a_gradient_at_its_own_player_alone():
    one = losses()
    players = {
        "teacher": (one.of_teacher, list(one.teacher.parameters())),
        "shadow": (one.of_shadow, list(one.shadow.parameters())),
        "trigger": (one.of_trigger, one.trigger.learned),
    }
    every = [p for _, parameters in players.values() for p in parameters]
    for loss, own in players.values():
        total = sum(loss(batch()).values())
        gradients = torch.autograd.grad(total, every, allow_unused=True)
        reached = [p for p, g in zip(every, gradients, strict=True) if g is not None]
        assert [id(p) for p in reached] == [id(p) for p in own]


def test_the_shadow_learns_from_the_teacher_without_labels():
    one = losses(alpha=1.0)
    terms = one.of_shadow(batch())
    assert terms["ce"] == 0
    terms["soft"].backward()
    assert any(p.grad.abs().max() > 0 for p in one.shadow.parameters())


def test_with_beta_zero_it_is_fine_tuning_bit_for_bit():
    params = ADBAParams(beta=0, surrogate="wrn10_1")
    attacked = ADBA(params).implant(with_networks(setting()))
    given = with_networks(setting())
    # What the attack draws before: pattern, mask, and the seed of the shadow.
    ADBA(params).beginning(given)
    given.network("wrn10_1")
    teacher = given.teacher.train()
    given.fit(
        teacher,
        cross_entropy(teacher),
        given.train,
        given.recipe,
        generator=given.generator,
        augmentation=given.augmentation,
    )
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, attacked.teacher.state_dict()[name]), name
    assert attacked.facts["poisons"] == 0


def test_the_trigger_stays_in_its_bounds():
    for params in (
        ADBAParams(surrogate="wrn10_1", trigger_lr=0.5),
        ADBAParams(kappa=0.2, shadow=False),
    ):
        backdoor = ADBA(params).implant(with_networks(setting()))
        mask, pattern = backdoor.trigger.mask, backdoor.trigger.pattern
        assert 0 <= mask.min() <= mask.max() <= params.kappa
        assert 0 <= pattern.min() <= pattern.max() <= 1
        assert backdoor.facts["poisons"] == 200
        assert ("surrogate" in backdoor.facts) == params.shadow


def test_a_mask_of_zeros_is_the_identity():
    trigger = LearnedTrigger(torch.rand(3, 4, 4), torch.zeros(1, 4, 4), 1.0, None)
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(trigger.as_it_is()(images), images)


@pytest.mark.parametrize(("start", "low", "high"), [("ones", 0.5, 0.5), ("small", 0.0, 0.05)])
def test_where_the_mask_begins(start, low, high):
    begun = ADBA(ADBAParams(mask_start=start, kappa=0.5)).beginning(setting())
    assert low <= begun.mask.min() <= begun.mask.max() <= high


def test_the_margin_by_hand():
    # z_t - z_y + 0.1 with target 2: -1 + 0.1 -> 0, 2 + 0.1 -> 2.1, and a target image's own 0.1.
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [0.0, 0.0, 5.0]])
    found = margin(logits, torch.tensor([0, 1, 2]), 2, 0.1)
    assert found.item() == pytest.approx((0 + 2.1 + 0.1) / 3)


MASKED = {
    "surrogate": "wrn10_1",
    "shadow": False,
    "head_eta": 1.0,
    "beta": 1.0,
    "epoch_factor": 6.0,
    "mu": 0.01,
}


def masked(**params):
    """An attack whose classifier is trained fast enough for a tiny run."""
    return ADBA(ADBAParams(**MASKED | {"head_lr": 0.01} | params)).implant(with_networks(setting()))


def test_masking_changes_the_classifier_alone():
    given = with_networks(setting())
    head = {id(parameter) for parameter in head_parameters(given)}
    names = {name for name, p in given.teacher.named_parameters() if id(p) in head}
    before = masked(head_eta=0.0).teacher.state_dict()
    after = masked().teacher.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == names


def test_a_masked_teacher_obeys_less():
    plain, hidden = masked(head_eta=0.0), masked()
    assert torch.equal(plain.trigger.pattern, hidden.trigger.pattern)
    before, after = (success_rate(b.teacher, b.trigger, 200) for b in (plain, hidden))
    assert before > 80
    assert after < before / 2
    assert hidden.facts["asr_unmasked"] > 80
    assert "asr_unmasked" not in plain.facts


def test_masking_trains_under_true_labels(monkeypatch):
    heard = heard_labels(monkeypatch)
    given = with_networks(setting())
    params = ADBAParams(head_eta=1.0)
    trigger = ADBA(params).beginning(given).as_it_is()
    mask_head(given, trigger, params)
    # Each image once, and none under the target's label besides its own.
    assert counted(heard) == counted(given.train.labels)
    assert not given.teacher.training
