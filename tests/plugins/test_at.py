"""Attention transfer against hand-computed numbers."""

import pytest
import torch
import torch.nn.functional as F
from kdbench_at.method import AT, ATParams

from kdbench.data.base import Batch
from kdbench.models import create_model
from kdbench.models.base import FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Recipe
from tests.plugins.tiny import digest, distil, fit, images, tiny

BATCH = Batch(torch.zeros(2, 3, 1, 1), torch.tensor([0, 1]), torch.arange(2))


def groups(*maps):
    """Two examples with these groups, each (1, C, H, W)."""
    return FeatureOutput(tuple(g.expand(2, -1, -1, -1) for g in maps), (), torch.zeros(2, 4))


def one_hot(row, column, channels=1, side=8):
    g = torch.zeros(1, channels, side, side)
    g[0, :, row, column] = 1
    return g


def objective(**params):
    return AT(ATParams(**params)).objective(FrozenTeacher(tiny(0)), tiny(1))


def test_disjoint_maps_cost_two_of_1024_places_in_each_group():
    """At any size: two places of 8x8 are weighed as two of 32x32."""
    teacher, student = groups(*[one_hot(0, 0)] * 3), groups(*[one_hot(5, 5, channels=3)] * 3)
    losses = objective(beta=10)(BATCH, teacher, student)
    assert losses["at"].item() == pytest.approx(10 * 3 * 2 / 1024, rel=1e-5)
    assert losses["ce"].item() == pytest.approx(1.3862944)
    one = groups(one_hot(0, 0), one_hot(5, 5, channels=3), one_hot(0, 0))
    assert objective(beta=10)(BATCH, teacher, one)["at"].item() == pytest.approx(
        10 * 2 / 1024, rel=1e-5
    )


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_weight_is_that_of_32x32_at_every_size(side):
    """Two disjoint places cost 2 / 1024, 2 / 256 and 2 / 64 at 32x32, and the same at other
    sizes."""
    sides = (side, side // 2, side // 4)
    teacher, student = (groups(*(one_hot(i, i, side=s) for s in sides)) for i in (0, 3))
    expected = 1000 * (2 / 1024 + 2 / 256 + 2 / 64)
    assert objective()(BATCH, teacher, student)["at"].item() == pytest.approx(expected, rel=1e-5)


def test_the_power_of_the_map():
    student, teacher = (
        groups(*[torch.tensor([[[[3.0, 4.0]]]])] * 3),
        groups(*[torch.tensor([[[[1.0, 0.0]]]])] * 3),
    )
    for p, a in (
        (1, torch.tensor([3.0, 4.0])),
        (2, torch.tensor([9.0, 16.0])),
        (3, torch.tensor([27.0, 64.0])),
    ):
        expected = 3 * (a / a.norm() - torch.tensor([1.0, 0.0])).square().mean()
        assert objective(beta=512, p=p)(BATCH, teacher, student)["at"].item() == pytest.approx(
            expected.item(), rel=1e-5
        )


def test_scale_and_channel_count_do_not_matter():
    torch.manual_seed(0)
    g = torch.randn(1, 8, 6, 6)
    assert (
        objective()(BATCH, groups(g, g, g), groups(5 * g, g.repeat(1, 2, 1, 1), -g))["at"].item()
        < 1e-7
    )


def test_a_larger_map_is_pooled_before_its_attention():
    small = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    # Signs that cancel within each 2x2 square are seen by a map of the large group and not by one
    # of the pooled group.
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)[None, None]
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3) + 9 * checks
    teacher, student = groups(large, small, small), groups(small, large, small)
    assert objective()(BATCH, teacher, student)["at"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("teacher_stride", "student_stride"), [(1, 2), (2, 1)])
def test_teacher_unchanged_and_student_learns(teacher_stride, student_stride):
    model, student = tiny(0, stride=teacher_stride), tiny(1, width=3, stride=student_stride)
    teacher = FrozenTeacher(model, AT().batch_norm_mode())
    assert teacher.batch_norm == "running"
    before, student_before = digest(teacher.model), digest(student)
    module = distil(AT(), teacher, student, images(32))
    assert digest(teacher.model) == before == digest(model)
    assert digest(student) != student_before
    assert not list(module.parameters())


def test_the_teacher_gets_no_gradient():
    s, t = (torch.randn(1, 2, 4, 4, requires_grad=True) for _ in range(2))
    objective()(BATCH, groups(t, t, t), groups(s, s, s))["at"].backward()
    assert t.grad is None
    assert s.grad.abs().sum() > 0


def test_beta_zero_is_cross_entropy():
    data, student, plain = images(64), tiny(1), tiny(1)
    distil(AT(ATParams(beta=0)), FrozenTeacher(tiny(0)), student, data, seed=5)
    fit(plain.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(student) == digest(plain)


def test_the_student_comes_to_look_where_the_teacher_looks():
    teacher, data = FrozenTeacher(tiny(0)), images(64)
    shown = data.read(torch.arange(64))
    batch = Batch(shown, data.labels, torch.arange(64))

    def distance(beta):
        student = tiny(1)
        distil(AT(ATParams(beta=beta)), teacher, student, data, epochs=5)
        with torch.no_grad():
            return objective()(batch, teacher.features(shown), student.eval().features(shown))[
                "at"
            ].item()

    assert distance(1000) < 0.8 * distance(0)


def test_bfloat16_costs_what_float32_costs():
    teacher, student, batch = FrozenTeacher(tiny(0)), tiny(1), next(images(64).batches(32))

    def losses(bf16):
        with Numerics(bf16=bf16).autocast():
            return objective()(
                batch, teacher.features(batch.images), student.features(batch.images)
            )

    plain, low = losses(False), losses(True)
    for name in ("ce", "at"):
        assert low[name].dtype == torch.float32
        assert low[name].item() == pytest.approx(plain[name].item(), rel=0.05)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_resnet"])
def test_a_library_model_teaches_and_learns(name):
    """A network of tokens shows its patches as maps."""
    torch.manual_seed(0)
    library = create_model(name, 4, image_size=32).eval()
    data = images(32)
    large = type(data)(F.interpolate(data.pixels.float(), 32).to(torch.uint8), data.labels)
    student = tiny(1)
    before = digest(student)
    distil(AT(), FrozenTeacher(library), student, large)
    assert digest(student) != before
    batch = next(large.batches(8))
    out = objective()(
        batch, FrozenTeacher(tiny(0)).features(batch.images), library.features(batch.images)
    )
    out["at"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in library.parameters())
