"""Logit distillation against hand-computed numbers."""

import math

import pydantic
import pytest
import torch
import torch.nn.functional as F
from kdbench_dkd.method import standardised as standardised_in_dkd
from kdbench_kd.method import KD, KDParams

from kdbench.data.base import Batch
from kdbench.logits import soft_cross_entropy, soft_kl, standardised
from kdbench.models.base import FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.training import Recipe
from tests.plugins import logits
from tests.plugins.tiny import digest, distil, fit, images, tiny

Z_T = torch.tensor([[0.0, math.log(3.0)]])  # softmax (1/4, 3/4)
Z_S = torch.tensor([[0.0, 0.0]])  # softmax (1/2, 1/2)
KL = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)


def run(params, teacher_logits, student_logits, label=0):
    n = len(student_logits)
    batch = Batch(torch.zeros(n, 3, 1, 1), torch.full((n,), label), torch.arange(n))
    objective = KD(params).objective(None, None)
    return objective(
        batch, FeatureOutput((), (), teacher_logits), FeatureOutput((), (), student_logits)
    )


def test_soft_losses_by_hand():
    assert soft_kl(Z_S, Z_T, 1.0).item() == pytest.approx(KL, abs=1e-6)
    assert soft_kl(Z_S, 4 * Z_T, 4.0).item() == pytest.approx(KL, abs=1e-6)
    # mean over batch
    assert soft_kl(Z_S.repeat(7, 1), Z_T.repeat(7, 1), 1.0).item() == pytest.approx(KL, abs=1e-6)
    assert soft_cross_entropy(Z_S, Z_T, 1.0).item() == pytest.approx(math.log(2), abs=1e-6)


def test_kl_is_zero_up_to_a_constant():
    z = torch.randn(3, 5)
    assert soft_kl(z + 2.5, z, 4.0).item() == pytest.approx(0, abs=1e-6)
    assert soft_kl(z * 2, z, 4.0).item() > 1e-3


def test_weights_of_both_variants():
    got = run(KDParams(temperature=4, alpha=0.9), 4 * Z_T, Z_S)
    assert got["ce"].item() == pytest.approx(0.1 * math.log(2), abs=1e-6)
    assert got["kd"].item() == pytest.approx(0.9 * 16 * KL, abs=1e-5)
    got = run(KDParams(temperature=4, alpha=0.7, variant="eq4"), 4 * Z_T, Z_S)
    assert got["ce"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert got["kd"].item() == pytest.approx(0.7 * math.log(2), abs=1e-6)


def test_gradient_scale_does_not_depend_on_temperature():
    z_t, z = 0.01 * torch.randn(4, 10), 0.01 * torch.randn(4, 10)
    norms = []
    for temperature in (2.0, 8.0):
        s = z.clone().requires_grad_()
        (temperature**2 * soft_kl(s, z_t, temperature)).backward()
        norms.append(s.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_alpha_zero_is_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    distil(KD(KDParams(alpha=0)), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


def test_teacher_unchanged_and_bf16():
    teacher = FrozenTeacher(tiny(0), KD().batch_norm_mode())
    before = digest(teacher.model)
    distil(KD(), teacher, tiny(1), images(64), bf16=True)
    assert teacher.batch_norm == "running"
    assert digest(teacher.model) == before


def test_half_precision_logits_are_softened_in_float32():
    got = run(KDParams(), Z_T.bfloat16(), Z_S.bfloat16())
    assert got["kd"].dtype == got["ce"].dtype == torch.float32
    assert torch.isfinite(F.relu(got["kd"]))


def test_convex_weight_is_checked():
    with pytest.raises(pydantic.ValidationError, match="at most 1"):
        KDParams(alpha=2)
    assert KDParams(alpha=2, variant="eq4").alpha == 2
    assert KDParams(alpha=2, ce_weight=0.1).alpha == 2


def test_the_weight_of_the_task_loss():
    for variant, ce_weight, expected in (
        ("hinton", None, 0.1),
        ("eq4", None, 1.0),
        ("hinton", 0.25, 0.25),
        ("eq4", 0.0, 0.0),
    ):
        got = run(KDParams(variant=variant, ce_weight=ce_weight), Z_T, Z_S)
        assert got["ce"].item() == pytest.approx(expected * math.log(2), abs=1e-6)


def test_standardised_logits():
    """Of (2, 1, 0) the mean is 1, and the standard deviation too."""
    assert standardised(torch.tensor([[2.0, 1.0, 0.0]])).tolist() == [
        pytest.approx([1.0, 0.0, -1.0], abs=1e-6)
    ]
    assert standardised(torch.full((2, 4), 3.0)).abs().max().item() == 0
    # dkd has the same.
    z = 5 * torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(standardised(z), standardised_in_dkd(z))


def standardise(teacher=logits.Z_T, student=logits.Z_S, **params):
    return logits.terms(KD(KDParams(standardise=True, **params)), teacher, student)


def test_the_loss_of_standardised_logits_by_hand():
    got = standardise(temperature=2, alpha=1)
    assert got["kd"].item() == pytest.approx(0.6356871, abs=1e-6)
    got = logits.terms(KD(KDParams(**KD.variants["standardised"].params)))
    assert got["kd"].item() == pytest.approx(9 * 0.6356871, abs=1e-5)
    hard = F.cross_entropy(logits.Z_S, logits.LABELS).item()
    assert got["ce"].item() == pytest.approx(0.1 * hard, abs=1e-6)


def test_the_scale_and_shift_of_the_teachers_logits_do_not_matter():
    same = standardise(teacher=3 * logits.Z_T + 5, temperature=2, alpha=1)
    assert same["kd"].item() == pytest.approx(0.6356871, abs=1e-6)


def test_a_common_shift_of_the_students_logits_has_no_slope():
    student = logits.Z_S.clone().requires_grad_()
    standardise(student=student)["kd"].backward()
    assert student.grad.abs().sum() > 0.1
    torch.testing.assert_close(student.grad.sum(1), torch.zeros(2), atol=1e-6, rtol=0)


def test_equal_logits_have_finite_losses_and_slopes():
    student = torch.zeros(2, 3, requires_grad=True)
    for teacher in (torch.ones(2, 3), logits.Z_T):
        got = standardise(teacher=teacher, student=student)
        got["kd"].backward()
        assert torch.isfinite(got["kd"])
        assert torch.isfinite(student.grad).all()
