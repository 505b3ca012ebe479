"""Correlation congruence against hand-computed numbers."""

import pytest
import torch
from kdbench_cc.method import CC, CCParams, kernel
from torch import nn

from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Recipe
from tests.plugins.maps import batch, vectors
from tests.plugins.tiny import digest, distil, fit, images, tiny

ROWS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
VARIANTS = ("release", "paper")


def loss(teacher, student, **params):
    """With embeddings that change nothing."""
    module = CC(CCParams(**params)).objective(FrozenTeacher(tiny(0)), tiny(1))
    module.student_embedding = module.teacher_embedding = nn.Identity()
    return module(batch(len(student)), vectors(teacher), vectors(student))["cc"]


def test_neighbours_by_hand():
    """(1, 0) and (0, 1) have product 0; (0, 1) and (1, 1) have 1."""
    assert loss(torch.zeros(3, 2), ROWS, weight=1).item() == pytest.approx(0.5)
    assert loss(torch.zeros(3, 2), ROWS).item() == pytest.approx(0.02 * 0.5)
    # Signs do not count, and neither does what both have.
    assert loss(ROWS, torch.zeros(3, 2), weight=1).item() == pytest.approx(0.5)
    assert loss(ROWS, ROWS, weight=1).item() == 0
    assert loss(torch.zeros(3, 2), ROWS[[0, 2, 1]], weight=1).item() == pytest.approx(1)


def test_the_kernel_by_hand():
    k = kernel(torch.eye(2), 0.4, 2)
    assert k[0, 0].item() == pytest.approx(0.952577, abs=1e-6)
    assert k[0, 1].item() == pytest.approx(0.449329, abs=1e-6)
    opposite = kernel(torch.tensor([[1.0], [-1.0]]), 0.4, 2)[0, 1]
    assert opposite.item() == pytest.approx(0.449329 * (1 - 0.8 + 0.32), abs=1e-6)


def test_all_pairs_by_hand():
    unlike, alike = torch.eye(2), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    got = loss(unlike, alike, variant="paper", weight=1)
    assert got.item() == pytest.approx(0.1266295, abs=1e-6)
    assert loss(unlike, alike, variant="paper").item() == pytest.approx(0.02 * 0.1266295, abs=1e-6)


def test_all_pairs_do_not_see_a_rotation_or_the_order():
    generator = torch.Generator().manual_seed(0)
    rows, other = (torch.rand(6, 4, generator=generator) for _ in "ab")
    turned = rows[:, [1, 2, 3, 0]]
    assert loss(rows, turned, variant="paper", weight=1).item() == pytest.approx(0, abs=1e-9)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    plain, mixed = (
        loss(rows[o], other[o], variant="paper", weight=1).item() for o in (slice(None), order)
    )
    assert plain > 1e-4
    assert mixed == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_image_is_finite(variant):
    assert loss(ROWS[:1], 2 * ROWS[:1], variant=variant).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_without_features_have_finite_losses_and_slopes(variant):
    student = torch.zeros(3, 2, requires_grad=True)
    value = loss(ROWS, student, variant=variant)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_the_embeddings():
    for params, size in ((CCParams(), 128), (CCParams(**CC.variants["paper"].params), 256)):
        module = CC(params).objective(FrozenTeacher(tiny(0, width=6)), tiny(1, width=3))
        for layer, channels in ((module.student_embedding, 12), (module.teacher_embedding, 24)):
            assert (layer.in_features, layer.out_features) == (channels, size)
            assert layer.bias is not None


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_embedding_of_the_teacher_learns_and_the_teacher_does_not(variant):
    module = CC(CCParams(variant=variant)).objective(FrozenTeacher(tiny(0)), tiny(1))
    rows = torch.rand(6, 16, generator=torch.Generator().manual_seed(0))
    teacher, student = rows.clone().requires_grad_(), rows.flip(0).requires_grad_()
    module(batch(6), vectors(teacher), vectors(student))["cc"].backward()
    assert teacher.grad is None
    for tensor in (student, module.student_embedding.weight, module.teacher_embedding.weight):
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_computes_relations_in_float32(variant):
    module = CC(CCParams(variant=variant)).objective(FrozenTeacher(tiny(0)), tiny(1))
    rows = torch.rand(6, 16, generator=torch.Generator().manual_seed(0))
    given = batch(6), vectors(rows), vectors(rows.flip(0))
    with Numerics(bf16=True).autocast():
        low = module(*given)["cc"]
    assert torch.equal(low, module(*given)["cc"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_weight_zero_is_plain_training(variant):
    a, b, data = tiny(1), tiny(1), images(64)
    distil(CC(CCParams(variant=variant, weight=0)), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


@pytest.mark.parametrize("variant", VARIANTS)
def test_teacher_unchanged_and_a_student_of_another_width_learns(variant):
    teacher, student = FrozenTeacher(tiny(0)), tiny(1, width=3, stride=2)
    before, started = digest(teacher.model), digest(student)
    distil(CC(CCParams(variant=variant)), teacher, student, images(64))
    assert digest(teacher.model) == before
    assert digest(student) != started
