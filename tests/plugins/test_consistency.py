"""Consistency against hand-computed numbers."""

import copy
from functools import cache
from itertools import pairwise

import pytest
import torch
from kdbench_consistency.method import (
    Consistency,
    ConsistencyObjective,
    ConsistencyParams,
    distance,
)
from kdbench_kd.method import KD

from kdbench.models.views import FrozenTeacher, batch_statistics
from tests.plugins.tiny import digest, distil, images, setting, tiny, trained

EVERY = [
    {"perturbation": p, "family": f}
    for p in ("adversarial", "random", "universal")
    for f in ("patch", "blend")
]


@cache
def _trained():
    return trained(1)


def network():
    return copy.deepcopy(_trained())


def objective(student, teacher=None, **params):
    torch.manual_seed(5)
    frozen = FrozenTeacher(teacher or network())
    made = ConsistencyObjective(frozen, student, (3, 16, 16), ConsistencyParams(**params))
    return made.train(), frozen


def one_batch(count=32):
    return next(images().batches(count))


def lost(made, frozen, student, batch):
    (value,) = made(batch, frozen.features(batch.images), student.features(batch.images)).values()
    return value


def test_the_distance_by_hand():
    wanted = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    changed = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert distance(changed, wanted, "l1").item() == 1.0
    assert distance(changed, wanted, "kl").item() == pytest.approx(0.5523989, abs=1e-6)
    assert distance(wanted, wanted, "kl").item() == pytest.approx(0, abs=1e-7)


def test_what_is_perturbed():
    made, _ = objective(tiny(2), side=3)
    x, pattern = torch.zeros(2, 3, 16, 16), torch.full((3, 3, 3), 0.5)
    changed = made.perturbed(x, pattern, (4, 9))
    assert (changed[:, :, 4:7, 9:12] == 0.5).all()
    assert changed.sum() == 2 * 27 * 0.5
    made, _ = objective(tiny(2), family="blend", opacity=0.25)
    assert made.pattern.shape == (3, 16, 16)
    mixed = made.perturbed(torch.full((1, 3, 16, 16), 0.2), torch.ones(3, 16, 16), (0, 0))
    torch.testing.assert_close(mixed, torch.full((1, 3, 16, 16), 0.4))


def test_a_patch_is_anywhere_and_never_outside():
    made, _ = objective(tiny(2), side=15)
    torch.manual_seed(0)
    places = {made.place(torch.zeros(1, 3, 16, 16)) for _ in range(60)}
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}
    made, _ = objective(tiny(2), side=40)
    assert made.pattern.shape == (3, 16, 16), "no larger than the image"


@pytest.mark.parametrize("params", EVERY)
def test_without_a_perturbation_there_is_no_loss(params):
    student, batch = tiny(2).train(), one_batch()
    made, frozen = objective(student, **params)
    made.perturbed = lambda given, pattern, place: given + 0 * pattern.sum()
    assert lost(made, frozen, student, batch).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("params", EVERY)
def test_only_the_student_learns_and_its_statistics_move_once(params):
    student, teacher, batch = tiny(2).train(), network(), one_batch()
    once = copy.deepcopy(student)
    made, frozen = objective(student, teacher, **params)
    before = digest(frozen.model)
    loss = lost(made, frozen, student, batch)
    assert loss.dtype == torch.float32
    assert loss.item() > 0
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.fc.parameters())
    assert not list(made.parameters())
    assert digest(frozen.model) == before
    assert all(p.grad is None for p in frozen.model.parameters())
    once.features(batch.images)
    for name, value in once.named_buffers():
        assert torch.equal(value, dict(student.named_buffers())[name]), name
    assert student.training
    assert all(bn.training and bn.track_running_stats for bn in student.bns)


@pytest.mark.parametrize("kind", ["adversarial", "universal"])
def test_the_perturbation_moves_uphill_every_few_steps_and_stays_in_bounds(kind):
    student, batch = network(), one_batch(96)
    made, frozen = objective(student, perturbation=kind, family="blend", refresh=3, step=0.5)
    patterns = [made.pattern.clone()]
    for _ in range(7):
        with torch.no_grad():
            lost(made, frozen, student, batch)
        patterns.append(made.pattern.clone())
    moved = [not torch.equal(a, b) for a, b in pairwise(patterns)]
    assert moved == [True, False, False, True, False, False, True]
    for _ in range(300):
        with torch.no_grad():
            lost(made, frozen, student, batch)
    assert made.pattern.min() >= 0
    assert made.pattern.max() <= 1
    victim = frozen.model if kind == "universal" else student

    def harm(pattern):
        with torch.no_grad():
            changed = victim(made.perturbed(batch.images, pattern, (0, 0)))
            return distance(changed, victim(batch.images), "kl").item()

    assert harm(made.pattern) > harm(patterns[0])


def test_noise_is_new_in_each_step():
    student, batch = tiny(2).train(), one_batch()
    made, frozen = objective(student, perturbation="random")
    seen = set()
    for _ in range(4):
        lost(made, frozen, student, batch)
        seen.add(made.pattern.sum().item())
    assert len(seen) == 4


def test_its_state_is_in_its_buffers():
    """A training is taken up from these."""
    student, batch = network(), one_batch()
    made, frozen = objective(student, refresh=2)
    for _ in range(3):
        lost(made, frozen, student, batch)
    again, _ = objective(student, refresh=2)
    again.load_state_dict(made.state_dict())
    results = []
    for each in (made, again):
        torch.manual_seed(1)
        results.append([lost(each, frozen, student, batch).item() for _ in range(2)])
    assert results[0] == results[1]


def test_weight_zero_takes_no_step():
    assert Consistency(ConsistencyParams(weight=0)).steps() == frozenset()
    assert Consistency().steps() == {"objective"}


def test_the_student_learns_to_ignore_it():
    """After a distillation with it the perturbation moves the student less than without, on the
    statistics of a batch, which it is trained with."""
    moved = {}
    for weight in (0.0, 1.0):
        student, teacher = tiny(2), FrozenTeacher(network())

        class Both(KD):
            def objective(self, teacher, student, weight=weight):
                params = ConsistencyParams(weight=weight, perturbation="random", side=8)
                added = Consistency(params).objective(teacher, student, setting())
                return Sum(super().objective(teacher, student), added)

        made = distil(Both(), teacher, student, images(), epochs=10).second
        x = images(seed=9).read(torch.arange(96))
        with torch.no_grad(), batch_statistics(student):
            changed = student(made.perturbed(x, made.pattern, (4, 4)))
            moved[weight] = ((changed - student(x)).abs().mean() / student(x).abs().mean()).item()
    assert moved[1.0] < 0.6 * moved[0.0]


class Sum(torch.nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, *given):
        return {**self.first(*given), **self.second(*given)}
