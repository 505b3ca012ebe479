"""Knowledge review against hand-computed numbers."""

from dataclasses import replace

import pytest
import torch
from kdbench_reviewkd.method import Fusion, ReviewKD, ReviewKDParams, context_loss

from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Recipe
from tests.plugins.tiny import digest, distil, fit, images, tiny


def test_the_context_loss_by_hand():
    """One place of 64 is 8: 1, then 1/4, 1/16 and 1/64 at the smaller sizes."""
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 2, 5] = 8
    assert context_loss(maps, torch.zeros_like(maps)).item() == pytest.approx(0.609375)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16])
def test_a_constant_difference_costs_its_square_at_every_size(size):
    maps = torch.rand(2, 3, size, size)
    assert context_loss(maps + 0.5, maps).item() == pytest.approx(0.25, rel=1e-5)


def test_a_map_of_one_place_has_plain_squares():
    a, b = (torch.rand(4, 3, 1, 1, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert context_loss(a, b).item() == pytest.approx((a - b).square().mean().item())


def test_only_smaller_sizes_count():
    """Of 4x4: the places, weight 1; 2x2, weight 1/2; 1x1, weight 1/4."""
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 0, 0] = 4
    expected = (1 + 1 / 4 * 1 / 2 + 1 / 16 * 1 / 4) / 1.75
    assert context_loss(maps, torch.zeros_like(maps)).item() == pytest.approx(expected)


@pytest.mark.parametrize(("bias", "sees"), [((50.0, -50.0), False), ((-50.0, 50.0), True)])
def test_the_attention_chooses_between_a_level_and_the_deeper_one(bias, sees):
    fusion = Fusion(3, 4, 5, deepest=False).eval()
    torch.nn.init.zeros_(fusion.attention.weight)
    fusion.attention.bias.data = torch.tensor(bias)
    own, deeper = torch.rand(2, 3, 4, 4), torch.rand(2, 4, 2, 2)
    _, x = fusion(own, deeper)
    alone = fusion.narrow(own)
    enlarged = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(x, enlarged if sees else alone)


def test_shapes_from_deep_to_shallow():
    teacher, student = FrozenTeacher(tiny(0, width=6)), tiny(1, width=3)
    module = ReviewKD().objective(teacher, student).eval()
    out = student.features(torch.rand(2, 3, 32, 32))
    maps = (*out.groups, student.pooled(out)[:, :, None, None])
    assert [tuple(m.shape[1:]) for m in maps] == [(3, 32, 32), (6, 16, 16), (12, 8, 8), (12, 1, 1)]
    deeper, shapes = None, []
    for level, own in zip(module.levels, maps[::-1], strict=True):
        y, deeper = level(own, deeper)
        assert deeper.shape[1:] == (12, *own.shape[2:])
        shapes.append(tuple(y.shape[1:]))
    assert shapes == [(24, 1, 1), (24, 8, 8), (12, 16, 16), (6, 32, 32)]
    assert module.levels[0].attention is None
    assert all(level.attention is not None for level in module.levels[1:])


def given(bf16=False):
    teacher, student, batch = FrozenTeacher(tiny(0)), tiny(1), next(images(16).batches(16))
    return teacher, student, batch


def loss(module, teacher, student, batch):
    return module(batch, teacher.features(batch.images), student.features(batch.images))["review"]


def test_a_batch_of_twice_the_images_costs_the_same():
    teacher, student, batch = given()
    module = ReviewKD(ReviewKDParams(warmup=0)).objective(teacher, student).eval()
    twice = replace(
        batch,
        images=batch.images.repeat(2, 1, 1, 1),
        labels=batch.labels.repeat(2),
        positions=batch.positions.repeat(2),
    )
    plain = loss(module, teacher, student, batch).item()
    assert plain > 0.01
    assert loss(module, teacher, student, twice).item() == pytest.approx(plain, rel=1e-4)


def test_the_weight_grows_over_the_warm_up():
    teacher, student, batch = given()
    module = ReviewKD(ReviewKDParams(warmup=0.2, weight=3)).objective(teacher, student).eval()
    values = [
        loss(module, teacher, student, replace(batch, progress=progress)).item()
        for progress in (0.0, 0.05, 0.1, 0.2, 0.9)
    ]
    assert values == pytest.approx([values[-1] * share for share in (0, 0.25, 0.5, 1, 1)])
    assert ReviewKD().objective(teacher, student).params.warmup == pytest.approx(20 / 240, abs=1e-3)


def test_the_teacher_gets_no_gradient_and_is_no_part():
    teacher, student, batch = given()
    module = ReviewKD(ReviewKDParams(warmup=0)).objective(teacher, student)
    for parameter in teacher.model.parameters():
        parameter.requires_grad_(True)
    out = teacher.model.features(batch.images)
    module(batch, out, student.features(batch.images))["review"].backward()
    assert all(p.grad is None for p in teacher.model.parameters())
    assert all(p.grad is not None for p in module.parameters())
    assert not {id(p) for p in module.parameters()} & {id(p) for p in student.parameters()}


def test_bfloat16_costs_what_float32_costs():
    teacher, student, batch = given()
    module = ReviewKD(ReviewKDParams(warmup=0)).objective(teacher, student).eval()
    plain = loss(module, teacher, student, batch)
    with Numerics(bf16=True).autocast():
        low = loss(module, teacher, student, batch)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(plain.item(), rel=0.05)


def test_weight_zero_is_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    distil(ReviewKD(ReviewKDParams(weight=0)), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


@pytest.mark.parametrize(("teacher_stride", "student_stride"), [(1, 2), (2, 1)])
def test_teacher_unchanged_and_a_student_of_another_width_and_size_learns(
    teacher_stride, student_stride
):
    teacher = FrozenTeacher(tiny(0, stride=teacher_stride))
    student = tiny(1, width=3, stride=student_stride)
    before, started = digest(teacher.model), digest(student)
    distil(ReviewKD(), teacher, student, images(64))
    assert digest(teacher.model) == before
    assert digest(student) != started
