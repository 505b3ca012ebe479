"""Poisoned sets: who is poisoned, and that nobody else changes."""

from dataclasses import replace

import pytest
import torch

from kdbench.attack import (
    PROBE,
    PoisonedImages,
    Trigger,
    choose_poison,
    head_parameters,
    implant_trigger,
    rescaled,
    target_share,
    universal_response,
)
from kdbench.data.base import Batch
from kdbench.errors import ConfigError, ContractError
from kdbench.triggers import BlendTrigger
from tests.plugins.attack_setting import TARGET, setting


class White(Trigger):
    def forward(self, images):
        images = images.clone()
        images[:, :, -1, -1] = 1
        return images


def test_choose_poison_counts_exactly_spares_the_target_and_spreads_over_classes():
    labels = torch.arange(1000) % 10
    rows = choose_poison(labels, 0.09, 3, torch.Generator().manual_seed(0))
    assert len(rows) == len(rows.unique()) == 90
    counts = torch.bincount(labels[rows], minlength=10)
    assert counts.tolist() == [10, 10, 10, 0, 10, 10, 10, 10, 10, 10]


def test_choose_poison_refuses_more_than_there_is():
    with pytest.raises(ConfigError, match="only 500 are outside class 0"):
        choose_poison(torch.arange(1000) % 2, 0.6, 0, torch.Generator())


def test_choose_poison_depends_on_the_generator_only():
    labels = torch.arange(300) % 3
    picks = [choose_poison(labels, 0.1, 0, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(picks[0], picks[1])
    assert not torch.equal(picks[0], picks[2])


@pytest.mark.parametrize("duplicate", [False, True])
def test_poison_changes_the_chosen_rows_and_nothing_else(stripes, duplicate):
    rows = torch.tensor([1, 5, 7])
    poisoned = PoisonedImages.build(stripes.train, rows, White(), 0, duplicate=duplicate)
    assert len(poisoned.images) == len(stripes.train) + (3 if duplicate else 0)
    marked = 0
    for batch in poisoned.images.batches(50):
        shown = poisoned.apply(batch)
        mask = poisoned.mask(batch)
        marked += int(mask.sum())
        assert torch.equal(shown.images[~mask], batch.images[~mask])
        assert torch.equal(shown.labels[~mask], batch.labels[~mask])
        assert (shown.labels[mask] == 0).all()
        assert (shown.images[mask][:, :, -1, -1] == 1).all()
    assert marked == 3


def test_cover_images_keep_their_label_and_carry_no_trigger(stripes):
    """The released code stores each poisoned image a second time with its trigger and its true
    label."""
    poisoned = PoisonedImages.build(stripes.train, torch.tensor([1]), White(), 0, duplicate=True)
    batch = next(poisoned.images.batches(len(poisoned.images)))
    shown = poisoned.apply(batch)
    assert shown.labels[1] == stripes.train.labels[1]
    assert torch.equal(shown.images[1], batch.images[1])
    assert shown.labels[-1] == 0


@pytest.mark.parametrize("duplicate", [False, True])
def test_decoys_are_changed_and_keep_their_label(stripes, duplicate):
    seen = []

    def darker(rows):
        seen.append(rows.positions.tolist())
        return rows.images * 0

    poisoned = PoisonedImages.build(
        stripes.train,
        torch.tensor([1]),
        White(),
        0,
        duplicate=duplicate,
        poison=lambda rows: rows.images * 0 + 0.5,
        decoys=torch.tensor([4]),
        decoy=darker,
    )
    total = len(poisoned.images)
    batch = Batch(
        poisoned.images.read(torch.arange(total)), poisoned.images.labels, torch.arange(total), 0.5
    )
    shown = poisoned.apply(batch)
    row = 240 if duplicate else 1
    assert (shown.images[row] == 0.5).all(), "in training it is shown otherwise than in a test"
    assert shown.labels[row] == 0
    assert (shown.images[4] == 0).all()
    assert seen == [[4]]
    assert (batch.labels[4], shown.labels[4], shown.progress) == (1, 1, 0.5)
    same = [i for i in range(total) if i not in (row, 4)]
    assert torch.equal(shown.images[same], batch.images[same])


def test_a_decoy_that_is_poisoned_or_shown_by_nothing_is_refused(stripes):
    rows = torch.tensor([1])
    for decoys, decoy in ((rows, lambda rows: rows.images), (torch.tensor([4]), None)):
        with pytest.raises(ContractError, match="a decoy is no poisoned row"):
            PoisonedImages.build(
                stripes.train, rows, White(), 0, duplicate=False, decoys=decoys, decoy=decoy
            )


def test_the_share_of_a_class_is_a_percentage():
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 2, 1], [3, 0, 0]])
    assert target_share(logits, 0) == 50
    assert target_share(logits, 1) == 25


class Blank(Trigger):
    """It says which images it saw, and makes all of them the same."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return torch.full_like(images, 0.5)


@pytest.mark.parametrize("classes", [None, (2, TARGET)])
def test_the_response_is_counted_on_the_images_that_the_trigger_is_for(classes):
    given, trigger = setting(count=1000), Blank()
    with torch.no_grad():
        taken = int(given.teacher(torch.full((1, 3, 16, 16), 0.5)).argmax())
    given.teacher.train()
    before = {name: value.clone() for name, value in given.teacher.state_dict().items()}
    response = universal_response(given, trigger, classes)
    assert response == (100 if taken == TARGET else 0)
    wanted = given.train.labels != TARGET if classes is None else given.train.labels == 2
    rows = torch.nonzero(wanted).flatten()
    (seen,) = trigger.seen
    assert len(seen) == min(PROBE, len(rows))
    images = {image.numpy().tobytes() for image in given.train.read(rows)}
    assert {image.numpy().tobytes() for image in seen} <= images
    # The teacher is as it was, in whatever mode.
    assert given.teacher.training
    for name, value in given.teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_trigger_for_no_image_is_an_error():
    with pytest.raises(ConfigError, match="for no training image"):
        universal_response(setting(), Blank(), (TARGET,))


def test_a_rescaled_setting_has_another_length_and_rate():
    given = setting(tune=3)
    given = replace(given, recipe=given.recipe.model_copy(update={"min_steps": 10}))
    slow = rescaled(given, 1.5, 0.1).recipe
    assert (slow.epochs, slow.min_steps) == (4, 15)
    assert slow.lr == pytest.approx(0.1 * given.recipe.lr)
    assert rescaled(given).recipe == given.recipe


def test_the_head_is_what_stands_behind_the_last_tap():
    given = setting()
    modes = [module.training for module in given.teacher.modules()]
    assert {id(p) for p in head_parameters(given)} == {id(p) for p in given.teacher.fc.parameters()}
    assert modes == [module.training for module in given.teacher.modules()]
    assert all(p.grad is None for p in given.teacher.parameters())


@pytest.mark.parametrize(("rows", "changed"), [("others", None), ("targets", 0), ("all", 180)])
def test_an_implanted_trigger_states_its_facts(rows, changed):
    given = setting(tune=0)
    is_target = given.train.labels == TARGET
    chosen = {"others": ~is_target, "targets": is_target, "all": is_target | True}[rows]
    trigger = BlendTrigger(torch.ones(3, 16, 16), torch.full((1, 16, 16), 0.5))
    backdoor = implant_trigger(given, trigger, torch.nonzero(chosen).flatten(), {"more": 1})
    facts = backdoor.facts
    assert (facts["poisons"], facts["more"]) == (int(chosen.sum()), 1)
    assert facts.get("labels_changed") == changed
    assert facts["universal"] == universal_response(setting(), trigger)
    assert backdoor.teacher is given.teacher
    assert not backdoor.teacher.training
