"""Activation boundaries against hand-computed numbers."""

from dataclasses import replace

import pytest
import torch
from kdbench_ab.method import AB, ABParams, boundary

from kdbench.models.base import FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Recipe
from tests.plugins.maps import batch
from tests.plugins.tiny import digest, distil, fit, images, tiny

#: Of the early taps, which agree: 32x32, and each side active by more than the margin.
AGREED = torch.full((1, 4, 32, 32), 2.0)


def objective(**params):
    return AB(ABParams(**params)).objective(FrozenTeacher(tiny(0)), tiny(1))


def out(last, count=1, first=AGREED):
    """Taps of which only the last one, of one place and 16 channels, may disagree."""
    taps = [first, AGREED[:, :1].repeat(1, 8, 1, 1), torch.full((1, 16, 1, 1), -2.0)]
    taps[2][0, 0] = last
    return FeatureOutput((), tuple(t.repeat(count, 1, 1, 1) for t in taps), torch.zeros(count, 4))


@pytest.mark.parametrize(
    ("s", "t", "cost"),
    [
        (0.5, -1, 2.25),
        (-1, -1, 0),
        (-2, -1, 0),
        (0.5, 1, 0.25),
        (1, 1, 0),
        (2, 1, 0),
        (-0.5, 1, 2.25),
        (0, 0, 1),
    ],
)
def test_a_response_by_hand(s, t, cost):
    assert boundary(torch.tensor(float(s)), torch.tensor(float(t)), 1.0).item() == cost


def test_beyond_the_margin_there_is_no_slope():
    s = torch.tensor([2.0, -2.0, 0.5], requires_grad=True)
    boundary(s, torch.tensor([1.0, -1.0, 1.0]), 1.0).sum().backward()
    assert s.grad.tolist() == [0, 0, -1]


@pytest.mark.parametrize("count", [1, 3])
def test_one_response_of_the_last_tap(count):
    """2.25 times 3/1000. The batch does not change it."""
    got = objective()(batch(count), out(-2.0, count), out(0.5, count))
    assert got["ab"].item() == pytest.approx(0.00675)
    assert objective(weight=2)(batch(1), out(-2.0), out(0.5))["ab"].item() == pytest.approx(0.0135)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_weights_of_the_taps_and_the_size_of_the_image(side):
    """The first tap's place costs a quarter, and a place of 16x16 counts as four of 32x32."""
    first = torch.full((1, 4, side, side), 2.0)
    wrong = first.clone()
    wrong[0, 0, 0, 0] = 0.5
    got = objective()(batch(1), out(-2.0, first=first), out(-2.0, first=wrong))
    scale = 1024 / side**2
    assert got["ab"].item() == pytest.approx(0.003 * scale * 0.25 / 4)


def test_the_stages():
    early, late = (replace(batch(1), progress=progress) for progress in (0.05, 0.2))
    module = objective()
    got = module(early, out(-2.0), out(0.5))
    assert got["ce"].item() == 0
    assert got["ab"].item() == pytest.approx(0.00675)
    got = module(late, out(-2.0), out(0.5))
    assert set(got) == {"ce"}
    assert got["ce"].item() == pytest.approx(1.3862944)
    for moment in (early, late):
        got = objective(stages="joint")(moment, out(-2.0), out(0.5))
        assert got["ce"].item() == pytest.approx(1.3862944)
        assert got["ab"].item() == pytest.approx(0.00675)


def test_connectors_are_where_channels_differ():
    module = AB().objective(FrozenTeacher(tiny(0, width=6)), tiny(1, width=3))
    assert [c[0].out_channels for c in module.connectors] == [6, 12, 24]
    assert all(c[0].bias is not None for c in module.connectors)
    assert not list(objective().parameters())


def test_the_teachers_batch_norms():
    assert AB().batch_norm_mode() == "running"
    assert AB(ABParams(teacher_bn="batch")).batch_norm_mode() == "batch"


def test_the_teacher_gets_no_gradient():
    teacher, student = (
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)).requires_grad_()
        for i in (0, 1)
    )
    theirs, mine = (
        FeatureOutput((), (t, t.repeat(1, 2, 1, 1), t.repeat(1, 4, 1, 1)), torch.zeros(2, 4))
        for t in (teacher, student)
    )
    objective()(batch(2), theirs, mine)["ab"].backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_bfloat16_costs_what_float32_costs():
    teacher, student, shown = FrozenTeacher(tiny(0)), tiny(1), next(images(64).batches(32))
    module = objective()

    def losses(bf16):
        with Numerics(bf16=bf16).autocast():
            return module(shown, teacher.features(shown.images), student.features(shown.images))

    plain, low = losses(False), losses(True)
    for name in ("ce", "ab"):
        assert low[name].dtype == torch.float32
        assert low[name].item() == pytest.approx(plain[name].item(), rel=0.05)


def test_weight_zero_all_the_time_is_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    distil(AB(ABParams(weight=0, stages="joint")), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


@pytest.mark.parametrize("stages", ["init", "joint"])
def test_teacher_unchanged_and_a_student_of_another_width_and_size_learns(stages):
    teacher, student = FrozenTeacher(tiny(0)), tiny(1, width=3, stride=2)
    before, started = digest(teacher.model), digest(student)
    distil(AB(ABParams(stages=stages)), teacher, student, images(64), epochs=4)
    assert digest(teacher.model) == before
    assert digest(student) != started
