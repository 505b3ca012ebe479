"""Decoupled distillation against hand-computed numbers."""

import pytest
import torch
import torch.nn.functional as F
from kdbench_dkd.method import DKD, DKDParams, decoupled, standardised
from kdbench_kd.method import soft_kl

from kdbench.models.views import FrozenTeacher
from kdbench.training import Recipe
from tests.plugins.logits import LABELS, Z_S, Z_T, terms
from tests.plugins.tiny import digest, distil, fit, images, tiny

CE = F.cross_entropy(Z_S, LABELS).item()


def test_both_terms_by_hand():
    target, rest = decoupled(Z_S, Z_T, LABELS, 4.0)
    assert target.item() == pytest.approx(0.6039134, abs=1e-6)
    assert rest.item() == pytest.approx(0.2487060, abs=1e-6)


def test_the_weights():
    got = terms(DKD())
    assert got["ce"].item() == pytest.approx(CE)
    assert got["tckd"].item() == pytest.approx(0.6039134, abs=1e-6)
    assert got["nckd"].item() == pytest.approx(8 * 0.2487060, abs=1e-5)
    got = terms(DKD(DKDParams(alpha=3, beta=2, ce_weight=0.5)))
    assert got["ce"].item() == pytest.approx(0.5 * CE)
    assert got["tckd"].item() == pytest.approx(3 * 0.6039134, abs=1e-5)
    assert got["nckd"].item() == pytest.approx(2 * 0.2487060, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_with_the_teachers_doubt_as_a_weight_they_are_kd(temperature):
    """KL(p_t || p_s) = TCKD + (1 - p_y of the teacher) * NCKD, image by image."""
    for z_t, z_s, y in zip(Z_T.split(1), Z_S.split(1), LABELS.split(1), strict=True):
        target, rest = decoupled(z_s, z_t, y, temperature)
        doubt = 1 - F.softmax(z_t / temperature, 1)[0, y.item()]
        apart = (target + doubt * rest).item() / temperature**2
        assert apart == pytest.approx(soft_kl(z_s, z_t, temperature).item(), abs=1e-6)
    assert 16 * soft_kl(Z_S, Z_T, 4.0).item() == pytest.approx(0.7329858, abs=1e-6)


def test_a_constant_changes_nothing_and_equal_logits_cost_nothing():
    for name, value in terms(DKD(), Z_T + 2.5, Z_S - 1).items():
        assert value.item() == pytest.approx(terms(DKD())[name].item(), abs=1e-5)
    same = terms(DKD(), Z_S + 3, Z_S)
    assert same["tckd"].item() == pytest.approx(0, abs=1e-6)
    assert same["nckd"].item() == pytest.approx(0, abs=1e-6)


def test_two_classes_have_no_other_classes():
    target, rest = decoupled(Z_S[:, :2], Z_T[:, :2], LABELS, 4.0)
    assert rest.item() == 0
    assert target.item() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("standardise", [False, True])
def test_extreme_logits_in_half_precision_are_finite(dtype, standardise):
    student = (80 * (2 * torch.eye(3) - 1)).to(dtype).requires_grad_()
    teacher = student.detach().roll(1, 0)
    params = DKDParams(temperature=1, standardise=standardise)
    got = terms(DKD(params), teacher, student, torch.arange(3))
    assert all(value.dtype == torch.float32 for value in got.values())
    torch.stack(list(got.values())).sum().backward()
    assert all(torch.isfinite(value) for value in got.values())
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0


def test_the_teacher_gets_no_gradient():
    student, teacher = Z_S.clone().requires_grad_(), Z_T.clone().requires_grad_()
    for standardise in (False, True):
        got = terms(DKD(DKDParams(standardise=standardise)), teacher, student)
        (got["tckd"] + got["nckd"]).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_the_weight_grows_over_the_warm_up():
    distiller = DKD(DKDParams(warmup=0.2))
    for progress, share in ((0.0, 0.0), (0.05, 0.25), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)):
        got = terms(distiller, progress=progress)
        assert got["ce"].item() == pytest.approx(CE)
        assert got["tckd"].item() == pytest.approx(share * 0.6039134, abs=1e-6)
        assert got["nckd"].item() == pytest.approx(share * 8 * 0.2487060, abs=1e-5)
    assert terms(DKD(DKDParams(warmup=0)), progress=0.0)["tckd"].item() > 0.6
    assert DKDParams().warmup == pytest.approx(20 / 240, abs=1e-3)


def test_standardised_logits():
    assert standardised(torch.tensor([[2.0, 1.0, 0.0]])).tolist() == [
        pytest.approx([1.0, 0.0, -1.0], abs=1e-6)
    ]
    assert standardised(torch.full((1, 4), 3.0)).tolist() == [[0, 0, 0, 0]]
    torch.testing.assert_close(standardised(3 * Z_T + 5), standardised(Z_T))


def test_the_scale_of_standardised_logits_does_not_matter():
    distiller = DKD(DKDParams(standardise=True))
    for name, value in terms(distiller, 3 * Z_T + 5, 2 * Z_S - 1).items():
        if name != "ce":
            assert value.item() == pytest.approx(terms(distiller)[name].item(), abs=1e-5)
    assert terms(distiller)["tckd"].item() != pytest.approx(0.6039134, abs=1e-2)


def test_without_both_terms_it_is_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    distil(DKD(DKDParams(alpha=0, beta=0)), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


def test_teacher_unchanged_and_bf16():
    teacher = FrozenTeacher(tiny(0), DKD().batch_norm_mode())
    before = digest(teacher.model)
    distil(DKD(), teacher, tiny(1), images(64), bf16=True)
    assert teacher.batch_norm == "running"
    assert digest(teacher.model) == before
