"""FKD against hand-computed numbers."""

import pytest
import torch
from kdbench_fkd.method import FKD, FKDParams, margin, measured_margin, partial_l2
from torch import nn

from kdbench.data.base import Batch
from kdbench.loading.settling import Wanted, settle
from kdbench.matching import match_size, pixel_scale
from kdbench.models import create_model
from kdbench.models.base import FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from tests.plugins.tiny import digest, distil, images, tiny


@pytest.mark.parametrize(
    ("gamma", "beta", "expected"),
    [
        (1, 0, -0.797885),
        (2, 0, -1.595769),
        (-1, 0, -0.797885),
        (1, 1, -0.525135),
        (1, -1, -1.287600),
        (0.5, 0.3, -0.307513),
        (1, 3, -0.283099),
        (1, 4, -3.0),
        (0.1, 0.5, -0.3),
        (0, 0.7, 0.0),
        (0, -0.7, -0.7),
    ],
)
def test_margin(gamma, beta, expected):
    assert margin(
        torch.tensor([float(gamma)]), torch.tensor([float(beta)])
    ).item() == pytest.approx(expected, abs=1e-6)


DISTANCES = [
    (0.5, -1, 1.69),
    (-1, -1, 0),
    (-0.9, -0.5, 0),
    (-0.2, -0.5, 0.09),
    (-1, 0.3, 1.69),
    (0.1, 0.3, 0.04),
    (-0.7, -2, 0.01),
    (-1, 0, 0),
]


@pytest.mark.parametrize(("s", "t", "expected"), DISTANCES)
def test_partial_l2(s, t, expected):
    def full(v):
        return torch.full((1, 1, 1, 1), float(v))

    assert partial_l2(full(s), full(t), torch.tensor([-0.8])).item() == pytest.approx(
        expected, abs=1e-6
    )


def plain_partial_l2(s, t, m):
    target = torch.maximum(t, m.view(1, -1, 1, 1))
    return (((s > target) | (target > 0)).float() * (s - target) ** 2).sum()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_partial_l2_value_and_gradient_equal_plain_autograd(layout):
    torch.manual_seed(0)
    s, t = (torch.randn(3, 5, 4, 4).to(memory_format=layout) for _ in range(2))
    m = -torch.rand(5)
    a, b = s.clone().requires_grad_(), s.clone().requires_grad_()
    ours, plain = partial_l2(a, t, m), plain_partial_l2(b, t, m)
    torch.testing.assert_close(ours, plain)
    (0.3 * ours).backward()
    (0.3 * plain).backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_partial_l2_bfloat16_accumulates_in_float32():
    torch.manual_seed(0)
    s, t, m = torch.randn(16, 64, 16, 16), torch.randn(16, 64, 16, 16), torch.full((64,), -0.8)
    s16 = s.bfloat16().requires_grad_()
    value = partial_l2(s16, t.bfloat16(), m)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(plain_partial_l2(s, t, m).item(), rel=5e-3)
    value.backward()
    assert s16.grad.dtype == torch.bfloat16


def test_equal_taps_cost_nothing():
    t = torch.randn(2, 3, 4, 4)
    assert partial_l2(t, t, torch.full((3,), -100.0)).item() == 0
    # below the margin the student lies under T' <= 0
    assert partial_l2(t, t, torch.full((3,), -0.1)).item() == 0


BATCH = Batch(torch.zeros(2, 3, 1, 1), torch.tensor([0, 1]), torch.arange(2))


def one_channel(alpha, margin):
    """An objective for taps of one channel, with identity connectors."""
    objective = FKD(FKDParams(alpha=alpha)).objective(FrozenTeacher(tiny(0)), tiny(1))
    objective.connectors = nn.ModuleList([nn.Identity()] * 3)
    for i in range(3):
        setattr(objective, f"margin{i}", torch.tensor([margin]))
    return objective


def taps(*values):
    """Two examples whose three taps all show ``values``, one channel."""
    side = int(len(values) ** 0.5)
    return FeatureOutput(
        (),
        (torch.tensor(values).view(1, 1, side, side).expand(2, -1, -1, -1),) * 3,
        torch.zeros(2, 4),
    )


def test_weights_alpha_and_batch_mean():
    """One pixel, one channel, identity connectors: S = .5, T = -1, m = -.8 at each tap costs 1.69 *
    1.75. One pixel stands for the 1024 of a 32x32 tap."""
    objective = one_channel(alpha=0.01, margin=-0.8)
    losses = objective(BATCH, taps(-1.0), taps(0.5))
    assert objective.weights == (0.25, 0.5, 1.0)
    assert losses["fkd"].item() == pytest.approx(1024 * 0.01 * 1.75 * 1.69, rel=1e-6)
    assert losses["ce"].item() == pytest.approx(1.3862944)


def test_connectors():
    objective = FKD().objective(FrozenTeacher(tiny(0, width=64)), tiny(1, width=32))
    conv = objective.connectors[2][0]
    assert conv.weight.shape == (256, 128, 1, 1)
    assert conv.bias is None
    assert conv.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.03)


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_teacher_unchanged_and_student_and_connectors_learn(mode):
    distiller = FKD(FKDParams(teacher_bn=mode))
    model, student = tiny(0), tiny(1, width=3)
    teacher = FrozenTeacher(model, distiller.batch_norm_mode())
    assert teacher.batch_norm == mode
    before, student_before = digest(teacher.model), digest(student)
    objective = distil(distiller, teacher, student, images(32))
    assert digest(teacher.model) == before == digest(model)
    assert digest(student) != student_before
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in objective.connectors.parameters()
    )
    assert all(p.grad is None for p in teacher.model.parameters())
    assert not any("connector" in key for key in student.state_dict())


def test_sizes_that_differ_are_pooled():
    a, b = match_size(torch.arange(16.0).view(1, 1, 4, 4), torch.zeros(1, 1, 2, 2))
    assert a.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert b.shape == (1, 1, 2, 2)
    # (1, 2, 3, 4) is pooled to 2.5, whichever side it is on: (2.5 - .5)^2 at each tap, weights
    # 1.75. The sum is over one pixel either way, so it counts as 1024.
    objective = one_channel(alpha=1 / 1024, margin=-0.8)
    assert objective(BATCH, taps(1.0, 2.0, 3.0, 4.0), taps(0.5))["fkd"].item() == pytest.approx(7)
    assert objective(BATCH, taps(0.5), taps(1.0, 2.0, 3.0, 4.0))["fkd"].item() == pytest.approx(7)


@pytest.mark.parametrize(("teacher_stride", "student_stride"), [(1, 2), (2, 1)])
def test_networks_of_other_strides_distil(teacher_stride, student_stride):
    student = tiny(1, stride=student_stride)
    before = digest(student)
    objective = distil(FKD(), FrozenTeacher(tiny(0, stride=teacher_stride)), student, images(32))
    assert digest(student) != before
    assert all(p.grad.abs().sum() > 0 for p in objective.connectors.parameters())


def test_without_batch_norm_margins_are_measured_once():
    tap = torch.tensor([[-1.0, -3.0, 2.0], [1.0, 2.0, 3.0]]).view(1, 2, 1, 3)
    assert measured_margin(tap).tolist() == [-2.0, 0.0]
    teacher, data = FrozenTeacher(tiny(0, norms=False)), images(64)
    objective = distil(FKD(), teacher, tiny(1), data)
    kept = objective.margin2.clone()
    assert (kept <= 0).all()
    assert (kept < 0).any()
    batch = next(data.batches(8))
    objective(batch, teacher.features(batch.images), tiny(1).features(batch.images))
    assert torch.equal(objective.margin2, kept)


def test_bfloat16_costs_what_float32_costs():
    teacher, student, batch = FrozenTeacher(tiny(0), "batch"), tiny(1), next(images(64).batches(32))
    objective = FKD().objective(teacher, student)

    def losses(bf16):
        with Numerics(bf16=bf16).autocast():
            return objective(batch, teacher.features(batch.images), student.features(batch.images))

    plain, low = losses(False), losses(True)
    for name in ("ce", "fkd"):
        assert low[name].dtype == torch.float32
        assert low[name].item() != plain[name].item()
        assert low[name].item() == pytest.approx(plain[name].item(), rel=0.02)


def test_alpha_is_the_authors_for_32x32():
    assert FKD(FKDParams()).objective(FrozenTeacher(tiny(0)), tiny(1)).alpha == 1e-3


def constant(side, value, count=2):
    """Taps of one channel at the sizes that a network has for images of ``side``."""
    maps = tuple(torch.full((count, 1, side // by, side // by), value) for by in (1, 2, 4))
    return FeatureOutput((), maps, torch.zeros(count, 4))


@pytest.mark.parametrize(("side", "scale"), [(16, 4.0), (32, 1.0), (64, 0.25)])
def test_the_guidance_of_a_pixel_does_not_depend_on_the_size_of_the_image(side, scale):
    """S = .5, T = -1, m = -.8: 1.69 a pixel. Taps of a 32x32 image have 1024, 256 and 64 pixels,
    with weights .25, .5 and 1: 448 weighted pixels, whatever the size of the image."""
    teacher, student = constant(side, -1.0), constant(side, 0.5)
    assert pixel_scale(teacher.taps[0]) == scale
    loss = one_channel(alpha=1e-3, margin=-0.8)(BATCH, teacher, student)["fkd"].item()
    assert loss == pytest.approx(1e-3 * 1.69 * 448, rel=1e-5)


def test_at_32x32_the_loss_is_the_authors_bit_for_bit():
    torch.manual_seed(0)
    teacher, student = FrozenTeacher(tiny(0), "batch"), tiny(1)
    pictures = torch.rand(2, 3, 32, 32)
    objective = FKD().objective(teacher, student)
    t, s = teacher.features(pictures), student.features(pictures)
    distance = torch.zeros(())
    for i, (tap, own, link) in enumerate(zip(t.taps, s.taps, objective.connectors, strict=True)):
        bound = getattr(objective, f"margin{i}")
        distance = distance + (0.25, 0.5, 1.0)[i] * partial_l2(link(own), tap, bound)
    assert torch.equal(objective(BATCH, t, s)["fkd"], 1e-3 / 2 * distance)


@pytest.mark.parametrize("side", [32, 64])
def test_a_library_teacher_is_weighed_by_its_own_first_tap(side):
    """timm's networks shrink the image before their first tap. The student is pooled to it."""
    torch.manual_seed(0)
    network = create_model("timm/test_efficientnet", 4, image_size=side).eval()
    teacher, student = FrozenTeacher(network, "batch"), tiny(1)
    objective = FKD().objective(teacher, student)
    pictures = torch.rand(2, 3, side, side)
    t, s = teacher.features(pictures), student.features(pictures)
    first = t.taps[0].shape[2]
    assert first < side
    loss = objective(BATCH, t, s)["fkd"]  # it measures the margins, which are used again below
    distance = torch.zeros(())
    for i, (tap, own) in enumerate(zip(t.taps, s.taps, strict=True)):
        tap, own = match_size(tap, own)
        bound = getattr(objective, f"margin{i}")
        distance += objective.weights[i] * partial_l2(objective.connectors[i](own), tap, bound)
    assert loss.item() == pytest.approx(1e-3 * (32 / first) ** 2 / 2 * distance.item(), rel=1e-5)


@pytest.mark.parametrize("preset", ["quick", "standard", "paper"])
def test_weak_is_a_tenth_of_the_guidance_at_every_size(preset):
    """C6 keeps its meaning: the scale of the pixels acts on both alike."""
    settled = (
        settle(FKD, Wanted(kind="distiller", name="fkd", variant=variant, preset=preset))
        for variant in ("", "weak")
    )
    full, weak = (one_channel(s.params["alpha"], margin=-0.8) for s in settled)
    for side in (16, 64):
        given = (BATCH, constant(side, -1.0), constant(side, 0.5))
        assert weak(*given)["fkd"].item() == pytest.approx(full(*given)["fkd"].item() / 10)
