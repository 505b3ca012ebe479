"""Similarity-preserving distillation against hand-computed numbers."""

import pytest
import torch
from kdbench_sp.method import SP, SPParams, similarity

from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Recipe
from tests.plugins.maps import batch, everywhere, vectors
from tests.plugins.tiny import digest, distil, fit, images, tiny

#: The teacher's images are unlike, and the student's are alike.
TEACHER, STUDENT = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
#: Two rows, each (1 - 1 / sqrt 2)^2 + (1 / sqrt 2)^2 = 2 - sqrt 2, over 4.
DISTANCE = 0.2928932


def loss(teacher, student, **params):
    objective = SP(SPParams(**params)).objective(None, None)
    return objective(batch(len(student.logits)), teacher, student)["sp"]


def test_alike_against_unlike_by_hand():
    given = vectors(TEACHER), vectors(STUDENT)
    assert loss(*given).item() == pytest.approx(878.68, abs=0.01)
    assert loss(*given, gamma=1).item() == pytest.approx(DISTANCE, abs=1e-6)
    ce = SP().objective(None, None)(batch(2), *given)["ce"]
    assert ce.item() == pytest.approx(1.3862944)


def test_rotation_scale_and_shape_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    other = everywhere((7 * rows @ rotation).reshape(6, 2, 2, 2))
    assert loss(vectors(rows), other, gamma=1).item() == pytest.approx(0, abs=1e-10)
    wide = torch.randn(6, 3, 4, 4, generator=generator)
    assert loss(vectors(rows), everywhere(wide), gamma=1).item() > 1e-3


def test_the_relu():
    student = vectors(torch.tensor([[1.0, -9.0], [-9.0, 1.0]]))
    assert loss(vectors(TEACHER), student, gamma=1, target="relu").item() == 0
    assert loss(vectors(TEACHER), student, gamma=1).item() > 0.01


@pytest.mark.parametrize("copies", [2, 3])
def test_a_batch_of_twice_the_images_has_half_the_loss_unless_it_is_scaled(copies):
    given = [vectors(rows.repeat(copies, 1)) for rows in (TEACHER, STUDENT)]
    assert loss(*given, gamma=1).item() == pytest.approx(DISTANCE / copies, abs=1e-6)
    scaled = loss(*given, gamma=1, scale_with_batch=True)
    assert scaled.item() == pytest.approx(DISTANCE * 2 / 64, abs=1e-6)


def test_an_image_without_features_has_finite_loss_and_slope():
    rows = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    value = loss(vectors(TEACHER), vectors(rows))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(rows.grad).all()


def test_the_teacher_gets_no_gradient():
    teacher = TEACHER.clone().requires_grad_()
    student = torch.tensor([[1.0, 2.0], [1.0, 0.5]], requires_grad=True)
    loss(vectors(teacher), vectors(student)).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_bfloat16_computes_similarity_in_float32():
    rows = torch.randn(8, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    with Numerics(bf16=True).autocast():
        assert similarity(rows.bfloat16()).dtype == torch.float32
        low = similarity(rows)
    assert torch.equal(low, similarity(rows))


def test_gamma_zero_is_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    distil(SP(SPParams(gamma=0)), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


@pytest.mark.parametrize("bf16", [False, True])
def test_teacher_unchanged_and_a_student_of_another_width_learns(bf16):
    teacher, student = FrozenTeacher(tiny(0)), tiny(1, width=3, stride=2)
    before, started = digest(teacher.model), digest(student)
    distil(SP(), teacher, student, images(64), bf16=bf16)
    assert digest(teacher.model) == before
    assert digest(student) != started
