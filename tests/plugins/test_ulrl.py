"""ULRL against hand-computed numbers."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from kdbench_ulrl.method import ULRL, Tally, ULRLParams, classifier
from torch import nn

from kdbench.errors import ConfigError
from kdbench.models import create_model
from kdbench.repair import fine_tune
from kdbench.training import Fit, Recipe, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from tests.plugins.tiny import accuracy, digest, images, setting, tiny, trained

SHORT = {"unlearn_epochs": 3, "unlearn_batch": 32}


@cache
def _trained():
    return trained(1)


def network():
    return copy.deepcopy(_trained())


def method(**params):
    return ULRL(ULRLParams(**(SHORT | params)))


def with_changes(monkeypatch, *c):
    """The numbers of the first phase are given."""
    monkeypatch.setattr(ULRL, "changes", lambda self, model, s: torch.tensor(c))


def run(found=None, **params):
    reported = [] if found is None else found
    model = method(**params).repair(network(), replace(setting(), report=reported.append))
    return model, reported


def test_where_nothing_is_flagged_it_is_fine_tuning_bit_for_bit():
    s = setting(nesterov=False)
    tuned = network()
    fine_tune(tuned, s, s.recipe)
    model, (finding,) = run(threshold=1e9)
    assert finding.flagged == ()
    assert digest(model) == digest(tuned)


def test_flagged_rows_are_drawn_anew(monkeypatch):
    with_changes(monkeypatch, 1.0, 1.1, 9.0, 0.9)
    model, (finding,) = run(epochs=0)
    assert finding.flagged == (2,)
    before = network()
    rows = torch.arange(4) != 2
    assert torch.equal(model.fc.weight[rows], before.fc.weight[rows])
    assert torch.equal(model.fc.bias[rows], before.fc.bias[rows])
    bound = (2 / 16) ** 0.5
    assert (model.fc.weight[2].abs() <= bound).all()
    assert model.fc.weight[2].abs().max() > 0.8 * bound
    assert not (model.fc.weight[2] == before.fc.weight[2]).any()
    assert model.fc.bias[2] == 0
    assert torch.equal(model.convs[0].weight, before.convs[0].weight)


def test_of_three_outliers_the_two_largest_are_kept(monkeypatch):
    monkeypatch.setattr(
        ULRL, "changes", lambda *_: torch.tensor([8.0, 1, 1.1, 0.9, 1, 9.0, 1.05, 10.0])
    )
    model = tiny(1, num_classes=8)
    data = images()
    for keep, expected in (("largest", (5, 7)), ("first", (0, 5))):
        found = []
        s = replace(setting(data), num_classes=8, report=found.append)
        method(epochs=0, keep=keep).repair(copy.deepcopy(model), s)
        assert found[0].flagged == expected
        assert found[0].score == max(found[0].per_class)
        assert found[0].per_class[1] == pytest.approx((1 - 1.075) / (1.4826 * 0.125), rel=1e-4), (
            "median 1.075, and half of the numbers are within 0.125 of it"
        )


def test_equal_changes_flag_nothing(monkeypatch):
    with_changes(monkeypatch, 1.0, 1.0, 1.0, 1.0)
    _, (finding,) = run(epochs=0)
    assert (finding.flagged, finding.score, finding.per_class) == ((), 0, (0, 0, 0, 0))


def test_the_cosine_pushes_from_the_old_rows(monkeypatch):
    with_changes(monkeypatch, 1.0, 1.1, 9.0, 0.9)
    old = network().fc.weight[2]
    without, pushed = (run(epochs=8, alpha=a)[0].fc.weight[2] for a in (0.0, 5.0))
    cosines = [F.cosine_similarity(row, old, dim=0).item() for row in (without, pushed)]
    assert cosines[1] < cosines[0]
    assert F.cosine_similarity(old, old, dim=0).item() == pytest.approx(1)


def test_the_changes_are_those_of_the_rows():
    model = network()
    before = digest(model)
    c = method().changes(model, setting())
    assert c.shape == (4,)
    assert (c > 0).all()
    assert digest(model) == before
    assert torch.equal(method(unlearn_epochs=0).changes(model, setting()), torch.zeros(4))


class Recorded(Fit):
    """Counts the steps of each call."""

    def __init__(self, calls):
        super().__init__(setting().numerics, Silent())
        object.__setattr__(self, "calls", calls)

    def __call__(self, trained, loss, images, recipe, **kwargs):
        self.calls.append(0)

        def counted(batch):
            terms = loss(batch)
            self.calls[-1] += 1
            return terms

        return super().__call__(trained, counted, images, recipe, **kwargs)


@pytest.mark.parametrize(("floor", "epochs"), [(1.0, 1), (0.0, 20)])
def test_unlearning_ends_when_the_accuracy_is_low(floor, epochs):
    """With a floor of 1 after the first epoch. The least floor is chance and more, 2 / 4."""
    calls = []
    s = replace(setting(), fit=Recorded(calls))
    method(unlearn_epochs=20, unlearn_lr=1e-6, floor=floor).changes(network(), s)
    assert calls == [epochs * 3]
    calls.clear()
    method(unlearn_epochs=20, unlearn_lr=0.1, floor=0).changes(network(), s)
    assert 3 < calls[0] < 60


def test_long_gradients_are_clipped():
    """A step of a rate of 1 is as long as the gradient may be."""
    model, s = tiny(1), setting()
    moved = {}
    for clip in (0.01, 1e9):
        c = method(unlearn_epochs=1, unlearn_batch=96, unlearn_lr=1.0, clip=clip).changes(model, s)
        moved[clip] = c.sum().item()
    decay = 5e-4 * model.fc.weight.detach().abs().sum().item()
    assert moved[0.01] <= 0.01 * 64**0.5 + decay
    assert moved[1e9] > 2 * moved[0.01]


def test_a_tally_by_hand():
    tally = Tally()
    tally.count(torch.eye(4)[:3], torch.tensor([0, 1, 1]))
    tally.count(torch.eye(4)[:1], torch.tensor([0]))
    assert (tally.hits.item(), tally.seen.item()) == (3, 4)
    tally.restart()
    assert (tally.hits.item(), tally.seen.item()) == (0, 0)


def test_where_the_classifier_is():
    assert classifier(tiny(1)) is not None
    for name in ("wrn10_1", "resnet20", "timm/test_efficientnet"):
        assert classifier(create_model(name, 7, image_size=32)).out_features == 7
    model = tiny(1)
    model.fc = nn.Identity()
    with pytest.raises(ConfigError, match="tiny has none with 4 outputs; choose another network"):
        method().repair(model, setting())


def test_a_killed_run_resumes(tmp_path):
    def result(fit):
        found = []
        s = replace(setting(), fit=fit, report=found.append)
        return digest(method(threshold=0.5).repair(network(), s)), found

    numerics = setting().numerics
    plain = result(Fit(numerics, Silent()))
    for _ in range(2):
        again = result(Fit(numerics, Silent(), checkpoints=FolderCheckpoints(tmp_path, 0)))
        assert plain == again
    assert (tmp_path / "fit-1.safetensors").exists()


def test_bfloat16_and_accuracy():
    found = []
    s = replace(setting(bf16=True, epochs=6), report=found.append)
    model = method(threshold=0.0).repair(network(), s)
    assert found[0].flagged
    assert accuracy(model, images(seed=9)) > 0.9


def test_the_authors_numbers():
    base = Recipe(epochs=2, min_steps=50, batch_size=64, lr=0.1, schedule="onecycle")
    p = ULRLParams(**ULRL.presets["paper"])
    assert p.recipe(base) == Recipe(
        epochs=20, batch_size=128, lr=0.001, nesterov=False, schedule="cosine", weight_decay=5e-4
    )
    assert (p.alpha, p.unlearn_epochs, p.unlearn_lr, p.unlearn_batch) == (0.001, 20, 0.01, 128)
    assert (p.clip, p.floor, p.threshold, p.max_classes) == (20, 0.2, 3.5, 2)
