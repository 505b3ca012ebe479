"""CKD's variants: what is off is CKD bit for bit, low variance is low, the simulated defender moves
its offset alone."""

import copy

import pytest
import torch
from kdbench_ckd.adaptive import LowVariance, SimulatedDetoxification
from kdbench_ckd.method import CKD, CKDParams

from kdbench.data.base import Batch
from kdbench.trigger_search import SearchParams
from kdbench.variance import feature_variance
from tests.plugins.attack_setting import others, setting
from tests.plugins.tiny import digest, images, tiny


def implant(tune=1, model="wrn10_1", count=200, epochs=1, **changes):
    return CKD(CKDParams(**{"steps": 10, "lr": 0.05, "search_batch": 16, **changes})).implant(
        setting(model, count, epochs, tune=tune)
    )


@pytest.mark.parametrize(
    "off", [{"lowvar": 0.0, "lowvar_stage": "both"}, {"simulate": 0.0, "simulate_steps": 3}]
)
def test_weight_zero_is_ckd_bit_for_bit(off):
    plain, adaptive = implant(), implant(**off)
    assert digest(plain.teacher) == digest(adaptive.teacher)
    assert torch.equal(plain.trigger.pattern, adaptive.trigger.pattern)


def test_low_variance_starts_at_its_share_by_hand():
    with torch.no_grad():
        out = tiny(0).features(images(8).read(torch.arange(8)))
    low = LowVariance(0.1, "global")
    low.start(torch.tensor(2.0), out)
    assert float(low(out)) == pytest.approx(0.1 * 2.0, rel=1e-5)


def test_the_adaptive_teacher_has_a_lower_variance_on_images_it_never_saw():
    plain, low = (
        implant(tune=3, model="wrn16_1", count=1000, epochs=3, lowvar=w) for w in (0.0, 1.0)
    )
    assert torch.equal(plain.trigger.pattern, low.trigger.pattern)
    with torch.no_grad():
        found = [
            float(feature_variance(b.teacher.features(others(1000)).groups[-1]))
            for b in (plain, low)
        ]
    assert found[1] < 0.8 * found[0]


def test_a_trigger_searched_for_low_variance_is_another_one():
    plain, low = implant(tune=0), implant(tune=0, lowvar=1.0, lowvar_stage="trigger")
    assert not torch.equal(plain.trigger.pattern, low.trigger.pattern)
    assert digest(plain.teacher) == digest(low.teacher)


def test_the_simulated_defender_lowers_its_objective_and_leaves_the_teacher_alone():
    teacher, data = tiny(0), images(32)
    batch = Batch(data.read(torch.arange(32)), data.labels, torch.arange(32))
    with torch.no_grad():
        simulated = SimulatedDetoxification(teacher.features(batch.images), 1, 0.01, 1.0)
    before = copy.deepcopy(teacher.state_dict())

    def objective():
        with torch.no_grad():
            out = teacher.features(batch.images, edit=simulated.edit)
            return float(
                torch.nn.functional.cross_entropy(out.logits, batch.labels)
                + feature_variance(out.groups[-1])
            )

    start = objective()
    simulated.defend(teacher, batch)
    step = torch.tensor(0.01)
    assert all(bool(((q == 0) | (q.abs() == step)).all()) for q in simulated.buffers())
    assert not any(q.requires_grad for q in simulated.buffers())
    for _ in range(20):
        simulated.defend(teacher, batch)
    assert objective() < start
    simulated.loss(teacher, batch).backward()
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_training_against_the_simulated_defender_is_another_teacher():
    assert digest(implant().teacher) != digest(implant(simulate=1.0).teacher)


def test_normalised_space_is_the_same_blend_in_pixels():
    """x' = ((1 - m) z + m tau) in the teacher's normalised space z, brought back to pixels
    (methods: both releases)."""
    given = setting(tune=0)
    backdoor = CKD(CKDParams(steps=0, space="normalised", kappa=0.2)).implant(given)
    plain = CKD(CKDParams(steps=0, kappa=0.2)).implant(setting(tune=0))
    x = others(200)[:8]
    mean, std = given.teacher.pixel_mean, given.teacher.pixel_std
    mask, tau = plain.trigger.mask, plain.trigger.pattern
    by_hand = ((1 - mask) * (x - mean) / std + mask * tau) * std + mean
    torch.testing.assert_close(backdoor.trigger(x), by_hand, rtol=0, atol=1e-6)
    assert float(backdoor.trigger.pattern.max()) < 1
    assert torch.equal(backdoor.trigger.mask, mask)


def test_space_is_a_parameter_of_every_searched_trigger():
    assert SearchParams().space == "pixel"
