"""FitNet's hints against hand-computed numbers."""

import pytest
import torch
from kdbench_fitnet.method import FitNet, FitNetParams
from torch import nn

from kdbench.models.base import FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.training import Recipe
from tests.plugins.maps import batch, everywhere
from tests.plugins.tiny import digest, distil, fit, images, tiny

#: One channel, half of it -1 and half 1.
SIGNS = torch.tensor([-1.0, 1.0]).repeat(8).reshape(1, 1, 4, 4).repeat(3, 1, 1, 1)


class Known(nn.Module):
    """In the place of a regressor: the input times a number."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, maps):
        return self.times * maps


def objective(times=None, **params):
    module = FitNet(FitNetParams(**params)).objective(FrozenTeacher(tiny(0)), tiny(1))
    if times is not None:
        module.regressor = Known(times)
    return module


def hint(teacher, student, times=1.0, **params):
    given = batch(len(student)), everywhere(teacher), everywhere(student)
    return objective(times, **params)(*given)["hint"].item()


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (5, 3, 8, 8)])
def test_a_constant_difference_by_hand(shape):
    """Neither the batch nor the size of the map changes it: mean of .25, times 100."""
    half = torch.full(shape, 0.5)
    assert hint(half, half, times=0) == pytest.approx(25)
    assert hint(half, half, times=0, weight=2) == pytest.approx(0.5)


def test_where_a_relu_is():
    assert hint(SIGNS, SIGNS) == 0
    # The half that is -1 cannot be reached: a mean of .5, times 100.
    assert hint(SIGNS, SIGNS, target="release") == pytest.approx(50)
    assert hint(SIGNS, SIGNS, target="relu") == 0
    # Without a ReLU: (-1 - -2)^2 and (1 - 2)^2. After one on both sides: 0 and 1.
    assert hint(SIGNS, SIGNS, times=2) == pytest.approx(100)
    assert hint(SIGNS, SIGNS, times=2, target="relu") == pytest.approx(50)


def test_the_task_loss_is_there():
    given = batch(3), everywhere(SIGNS), everywhere(SIGNS)
    assert objective(1.0)(*given)["ce"].item() == pytest.approx(1.3862944)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_group_of_the_hint(number):
    teacher, student = (
        FeatureOutput(
            tuple(torch.full((2, 1, 4, 4), float(value)) for value in values), (), torch.zeros(2, 4)
        )
        for values in ((1, 2, 4), (0, 0, 0))
    )
    got = objective(1.0, hint=number, weight=1)(batch(2), teacher, student)["hint"].item()
    assert got == (1, 4, 16)[number - 1]


@pytest.mark.parametrize(("mine", "theirs"), [(16, 16), (16, 8), (8, 16), (7, 4)])
def test_maps_of_any_two_sizes_are_compared(mine, theirs):
    """A constant map is the same at every size, so nothing but its difference costs."""
    teacher, student = torch.full((2, 1, theirs, theirs), 0.5), torch.ones(2, 1, mine, mine)
    assert hint(teacher, student) == pytest.approx(25)


def test_the_regressor_has_the_teachers_channels():
    module = FitNet().objective(FrozenTeacher(tiny(0, width=6)), tiny(1, width=3))
    conv, norm = module.regressor
    assert (conv.in_channels, conv.out_channels, norm.num_features) == (6, 12, 12)
    assert conv.bias is not None


def test_the_teacher_gets_no_gradient():
    teacher, student = (torch.randn(2, 8, 4, 4, requires_grad=True) for _ in "ab")
    objective()(batch(2), everywhere(teacher), everywhere(student))["hint"].backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_weight_zero_is_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    distil(FitNet(FitNetParams(weight=0)), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


@pytest.mark.parametrize(("target", "bf16"), [("group", False), ("relu", True), ("release", False)])
def test_teacher_unchanged_and_a_student_of_another_width_and_size_learns(target, bf16):
    teacher, student = FrozenTeacher(tiny(0)), tiny(1, width=3, stride=2)
    before, started = digest(teacher.model), digest(student)
    distil(FitNet(FitNetParams(target=target)), teacher, student, images(64), bf16=bf16)
    assert digest(teacher.model) == before
    assert digest(student) != started
