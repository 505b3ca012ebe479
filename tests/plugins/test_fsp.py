"""Flow matrices against hand-computed numbers."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from kdbench_fsp.method import FSP, FSPParams, flow

from kdbench.errors import ConfigError
from kdbench.models import create_model
from kdbench.models.base import FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Recipe
from tests.plugins.maps import batch
from tests.plugins.tiny import Tiny, digest, distil, fit, images, tiny

A = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
B = torch.tensor([1.0, 2.0])[None, :, None, None].expand(1, 2, 2, 2)


def objective(**params):
    return FSP(FSPParams(**params)).objective(FrozenTeacher(tiny(0)), tiny(1))


def groups(*maps, count=1):
    return FeatureOutput(
        tuple(m.repeat(count, 1, 1, 1) for m in maps), (), torch.zeros(count * len(maps[0]), 4)
    )


def test_a_matrix_by_hand():
    torch.testing.assert_close(flow(A, B), torch.tensor([[[2.5, 5.0]]]))
    torch.testing.assert_close(flow(2 * A, B), torch.tensor([[[5.0, 10.0]]]))


def test_the_order_of_places_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, c, 4, 4, generator=generator) for c in (3, 5))
    order = torch.randperm(16, generator=generator)
    mixed = [maps.flatten(2)[:, :, order].view_as(maps) for maps in (a, b)]
    torch.testing.assert_close(flow(*mixed), flow(a, b))


def test_the_earlier_map_is_pooled():
    a, b = torch.full((1, 1, 4, 4), 3.0), torch.full((1, 1, 2, 2), 5.0)
    assert flow(a, b).item() == pytest.approx(15)
    a[0, 0, :2, :2] = torch.tensor([[0.0, 2.0], [4.0, 6.0]])  # of mean 3
    assert flow(a, b).item() == pytest.approx(15)


@pytest.mark.parametrize("count", [1, 3])
def test_both_pairs_by_hand(count):
    """M of the teacher is (2.5, 5) and (1, 2; 2, 4). The student's first group is zero."""
    teacher, student = groups(A, B, B, count=count), groups(0 * A, B, B, count=count)
    got = objective(stages="joint")(batch(count), teacher, student)
    assert got["fsp"].item() == pytest.approx((2.5**2 + 5**2) / 2)
    student = groups(A, B, 2 * B, count=count)
    got = objective(stages="joint")(batch(count), teacher, student)
    assert got["fsp"].item() == pytest.approx((1 + 4 + 4 + 16) / 4)
    same = objective(stages="joint")(batch(count), teacher, teacher)
    assert same["fsp"].item() == 0


class Stemmed(Tiny):
    """It gives what goes into its first group."""

    stem_channels = 3

    def stem_and_first_group(self, x):
        return x, self.first_group(x)


def test_the_pair_of_stem_and_first_group_by_hand():
    """The stems are A and 0, so the first M are (2.5, 5) and (0, 0). The others are equal."""
    torch.manual_seed(0)
    teacher, student = Stemmed().eval(), Stemmed().eval()
    teacher.stem_channels = student.stem_channels = 1
    module = FSP(FSPParams(stages="joint")).objective(FrozenTeacher(teacher), student)
    theirs, mine = (replace(groups(B, B, B), stem=stem) for stem in (A, 0 * A))
    assert module(batch(1), theirs, mine)["fsp"].item() == pytest.approx((2.5**2 + 5**2) / 2)
    assert module(batch(1), theirs, theirs)["fsp"].item() == 0


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_without_a_stem_in_one_of_both_there_are_two_pairs(whose):
    teacher, student = (Stemmed() if whose != role else Tiny() for role in ("teacher", "student"))
    module = FSP(FSPParams(stages="joint")).objective(FrozenTeacher(teacher), student)
    theirs, mine = (replace(groups(A, B, B), stem=stem) for stem in (A, 0 * A))
    assert module(batch(1), theirs, mine)["fsp"].item() == 0


def test_kdbench_own_networks_are_compared_from_the_stem_on():
    teacher, student = (create_model(name, 4, image_size=16) for name in ("wrn16_1", "resnet20"))
    module = FSP(FSPParams(stages="joint")).objective(FrozenTeacher(teacher), student)
    data = batch(2)
    shown = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs, mine = FrozenTeacher(teacher).features(shown), student.features(shown)
    pairs = [[flow(a, b) for a, b in pairwise([out.stem, *out.groups])] for out in (theirs, mine)]
    wanted = sum(((m - t) ** 2).mean() for t, m in zip(*pairs, strict=True))
    torch.testing.assert_close(module(data, theirs, mine)["fsp"], wanted)


def test_a_stem_of_other_channels_is_refused_without_a_connector():
    teacher, student = FrozenTeacher(Stemmed()), Stemmed()
    student.stem_channels = 5
    with pytest.raises(
        ConfigError, match=r"the stem and groups have \(5, 4, 8, 16\) in the student"
    ):
        FSP().objective(teacher, student)
    module = FSP(FSPParams(connector=True)).objective(teacher, student)
    assert (module.connectors[0][0].in_channels, module.connectors[0][0].out_channels) == (5, 3)
    assert len(module.connectors) == 4


def test_the_stages_and_the_weight():
    early, late = (replace(batch(1), progress=progress) for progress in (0.05, 0.2))
    given, distance = (groups(A, B, B), groups(0 * A, B, B)), (2.5**2 + 5**2) / 2
    got = objective()(early, *given)
    assert got["ce"].item() == 0
    assert got["fsp"].item() == pytest.approx(distance)
    got = objective()(late, *given)
    assert set(got) == {"ce"}
    assert got["ce"].item() == pytest.approx(1.3862944)
    for moment in (early, late):
        got = objective(stages="joint", weight=3)(moment, *given)
        assert got["ce"].item() == pytest.approx(1.3862944)
        assert got["fsp"].item() == pytest.approx(3 * distance)


def test_other_channels_are_refused_without_a_connector():
    teacher, student = FrozenTeacher(tiny(0)), tiny(1, width=3)
    with pytest.raises(ConfigError, match=r"\(3, 6, 12\) in the student and \(4, 8, 16\)"):
        FSP().objective(teacher, student)
    module = FSP(FSPParams(connector=True)).objective(teacher, student)
    assert [c[0].out_channels for c in module.connectors] == [4, 8, 16]


def test_the_teacher_gets_no_gradient():
    teacher, student = (
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)).requires_grad_()
        for i in (0, 1)
    )
    theirs, mine = (groups(g, g, g) for g in (teacher, student))
    objective()(batch(2), theirs, mine)["fsp"].backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_bfloat16_computes_matrices_in_float32():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, c, 4, 4, generator=generator) for c in (3, 5))
    with Numerics(bf16=True).autocast():
        low = flow(a, b)
    assert torch.equal(low, flow(a, b))


def test_weight_zero_all_the_time_is_plain_training():
    a, b, data = tiny(1), tiny(1), images(64)
    distil(FSP(FSPParams(weight=0, stages="joint")), FrozenTeacher(tiny(0)), a, data, seed=5)
    fit(b.train(), data, Recipe(epochs=1, batch_size=32, lr=0.02), seed=5)
    assert digest(a) == digest(b)


@pytest.mark.parametrize("stages", ["init", "joint"])
def test_teacher_unchanged_and_a_student_of_another_width_and_size_learns(stages):
    teacher, student = FrozenTeacher(tiny(0)), tiny(1, width=3, stride=2)
    before, started = digest(teacher.model), digest(student)
    params = FSPParams(stages=stages, connector=True)
    distil(FSP(params), teacher, student, images(64), epochs=4)
    assert digest(teacher.model) == before
    assert digest(student) != started
