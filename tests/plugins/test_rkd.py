"""Relational distillation against hand-computed numbers."""

import pytest
import torch
from kdbench_rkd.method import RKD, RKDParams, relations

from kdbench.errors import ConfigError
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Recipe
from tests.plugins.maps import batch, vectors
from tests.plugins.tiny import digest, distil, fit, images, tiny

#: Sides of 3, 4 and 5, of which the mean is 4; and sides of 1, 1 and sqrt 2.
TEACHER = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
STUDENT = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def losses(teacher, student, **params):
    objective = RKD(RKDParams(**params)).objective(FrozenTeacher(tiny(0)), tiny(1))
    return objective(batch(len(student)), vectors(teacher), vectors(student))


def test_the_distances_of_a_triangle():
    distance, _ = relations(TEACHER)
    expected = torch.tensor([[0, 0.75, 1], [0.75, 0, 1.25], [1, 1.25, 0]])
    torch.testing.assert_close(distance, expected)


def test_the_angles_of_a_triangle():
    _, angle = relations(TEACHER)
    for vertex, cosine in ((0, 0.0), (1, 3 / 5), (2, 4 / 5)):
        one, other = (i for i in range(3) if i != vertex)
        assert angle[vertex, one, other].item() == pytest.approx(cosine, abs=1e-6)
        assert angle[vertex, one, one].item() == pytest.approx(1)
        assert angle[vertex, vertex, one].item() == 0


def test_both_losses_by_hand():
    got = losses(TEACHER, STUDENT, distance_weight=1, angle_weight=1)
    assert got["distance"].item() == pytest.approx(0.00348125, abs=1e-8)
    assert got["angle"].item() == pytest.approx(0.00074448, abs=1e-8)
    got = losses(TEACHER, STUDENT)
    assert got["ce"].item() == pytest.approx(1.3862944)
    assert got["distance"].item() == pytest.approx(25 * 0.00348125, abs=1e-6)
    assert got["angle"].item() == pytest.approx(50 * 0.00074448, abs=1e-6)


def test_a_large_difference_costs_its_size():
    """The teacher's first two images are one, and the student's are far apart: the Huber loss."""
    teacher = torch.tensor([[0.0], [0.0], [1.0]])
    student = torch.tensor([[0.0], [9.0], [9.5]])
    distances = [relations(rows)[0] for rows in (student, teacher)]
    difference = (distances[0] - distances[1]).abs()
    assert difference.max().item() > 1
    huber = torch.where(difference < 1, difference.square() / 2, difference - 0.5).mean()
    got = losses(teacher, student, distance_weight=1)["distance"]
    assert got.item() == pytest.approx(huber.item(), rel=1e-5)


def test_scale_shift_width_and_the_order_of_images_do_not_matter():
    rows = torch.rand(8, 5, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([2.7 * rows + 0.5, torch.full((8, 2), 0.5)], 1)
    got = losses(rows, wide)
    assert got["distance"].item() == pytest.approx(0, abs=1e-6)
    assert got["angle"].item() == pytest.approx(0, abs=1e-6)
    other = torch.rand(8, 5, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    mixed, plain = losses(rows[order], other[order]), losses(rows, other)
    for name in ("distance", "angle"):
        assert plain[name].item() > 1e-3
        assert mixed[name].item() == pytest.approx(plain[name].item(), rel=1e-4)


@pytest.mark.parametrize("same", [2, 3])
def test_equal_images_have_finite_losses_and_small_slopes(same):
    """Two of three images, or all of them, where the teacher's are not equal."""
    student = STUDENT.clone()
    student[:same] = 0.5
    student.requires_grad_()
    got = losses(TEACHER, student)
    (got["distance"] + got["angle"]).backward()
    assert all(torch.isfinite(value) for value in got.values())
    assert student.grad.abs().max().item() < 1000


def test_a_batch_of_one_image_has_no_relations():
    got = losses(TEACHER[:1], STUDENT[:1])
    assert got["distance"].item() == got["angle"].item() == 0


def test_a_large_batch_is_refused():
    with pytest.raises(ConfigError, match="this one has 257 images; it takes 256 at most"):
        losses(torch.zeros(257, 2), torch.zeros(257, 2))


def test_the_pooled_features_are_those_after_the_relu():
    """What a ReLU cuts off is not seen."""
    got = losses(TEACHER, torch.cat([TEACHER, -torch.eye(3)], 1))
    assert got["distance"].item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_gets_no_gradient():
    teacher, student = TEACHER.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    got = losses(teacher, student)
    (got["distance"] + got["angle"]).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_bfloat16_computes_relations_in_float32():
    rows = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    with Numerics(bf16=True).autocast():
        low = relations(rows)
    for mine, plain in zip(low, relations(rows), strict=True):
        assert torch.equal(mine, plain)


def test_weights_of_zero_are_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    nothing = RKD(RKDParams(distance_weight=0, angle_weight=0))
    distil(nothing, FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


@pytest.mark.parametrize("bf16", [False, True])
def test_teacher_unchanged_and_a_student_of_another_width_learns(bf16):
    teacher, student = FrozenTeacher(tiny(0)), tiny(1, width=3, stride=2)
    before, started = digest(teacher.model), digest(student)
    distil(RKD(), teacher, student, images(64), bf16=bf16)
    assert digest(teacher.model) == before
    assert digest(student) != started
