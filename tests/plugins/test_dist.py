"""DIST against hand-computed numbers."""

import pytest
import torch
import torch.nn.functional as F
from kdbench_dist.method import DIST, DISTParams, correlation, relations

from kdbench.errors import ConfigError
from kdbench.models.views import FrozenTeacher
from kdbench.training import Recipe
from tests.plugins.logits import LABELS, Z_S, Z_T, terms
from tests.plugins.tiny import digest, distil, fit, images, tiny

#: 16 images: rows of both classes' logits, eight times.
MANY = (Z_T.repeat(8, 1), Z_S.repeat(8, 1), LABELS.repeat(8))


def test_a_correlation():
    a, b = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0]])
    assert correlation(a, b, 1).item() == pytest.approx(0.5)
    assert correlation(a, -2 * a + 7, 1).item() == pytest.approx(-1)
    assert correlation(a.T, b.T, 0).item() == pytest.approx(0.5)
    assert correlation(a, torch.ones(1, 3), 1).item() == 0


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1.0, (0.9304754, 1.3333381)), (4.0, (14.949279, 21.333420))]
)
def test_both_relations_by_hand(temperature, expected):
    got = [value.item() for value in relations(Z_S, Z_T, temperature)]
    assert got == pytest.approx(expected, rel=1e-5)


def test_the_weights():
    """An image that is there eight times changes no correlation."""
    got = terms(DIST(), *MANY)
    assert got["ce"].item() == pytest.approx(F.cross_entropy(Z_S, LABELS).item())
    assert got["inter"].item() == pytest.approx(2 * 14.949279, rel=1e-5)
    assert got["intra"].item() == pytest.approx(2 * 21.333420, rel=1e-5)
    got = terms(DIST(DISTParams(weight=1, beta=3, gamma=0.5, temperature=1)), *MANY)
    assert got["inter"].item() == pytest.approx(3 * 0.9304754, rel=1e-5)
    assert got["intra"].item() == pytest.approx(0.5 * 1.3333381, rel=1e-5)


def test_equal_logits_cost_nothing():
    z = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    for value in relations(z + 3, z, 4.0):
        assert value.item() == pytest.approx(0, abs=1e-4)


def test_affine_maps_of_predictions_cost_nothing_and_of_logits_they_do():
    p = F.softmax(Z_T, 1)
    torch.testing.assert_close(correlation(0.5 * p + 0.1, p, 1), torch.ones(2))
    assert relations(3 * Z_T, Z_T, 1.0)[0].item() > 1e-3


def test_a_constant_column_and_extreme_logits_are_finite():
    student = torch.zeros(16, 3, requires_grad=True)
    extreme = 80 * F.one_hot(torch.arange(16) % 3, 3).half()
    for teacher in (extreme, torch.zeros(16, 3)):
        got = terms(DIST(), teacher, student, torch.zeros(16, dtype=torch.int64))
        torch.stack(list(got.values())).sum().backward()
        assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in got.values())
        assert torch.isfinite(student.grad).all()


def test_a_small_batch_is_refused():
    for count in (2, 15):
        given = [x[:count] for x in MANY]
        with pytest.raises(ConfigError, match=f"this one has {count} images; it needs 16"):
            terms(DIST(), *given)


def test_the_teacher_gets_no_gradient():
    teacher, student = (x.clone().requires_grad_() for x in MANY[:2])
    got = terms(DIST(), teacher, student, MANY[2])
    (got["inter"] + got["intra"]).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_without_weight_it_is_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    distil(DIST(DISTParams(weight=0)), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


def test_teacher_unchanged_and_bf16():
    teacher = FrozenTeacher(tiny(0), DIST().batch_norm_mode())
    before = digest(teacher.model)
    distil(DIST(), teacher, tiny(1), images(64), bf16=True)
    assert teacher.batch_norm == "running"
    assert digest(teacher.model) == before
