"""What repairs share: which network, whose recipe, which images; and the equality of NAD without
attention and fine-tuning."""

import torch
from kdbench_finetune.method import FineTuning
from kdbench_nad.method import NAD, NADParams

from kdbench.models.views import FrozenTeacher, batch_statistics
from kdbench.repair import TuningParams, held_out
from kdbench.training import Recipe
from tests.plugins.tiny import accuracy, digest, images, setting, tiny, trained


def test_nad_without_attention_is_fine_tuning_bit_for_bit():
    nad = NAD(NADParams(beta=(0, 0, 0))).repair(trained(0), setting())
    tuned = FineTuning().repair(trained(0), setting())
    assert digest(nad) == digest(tuned) != digest(trained(0))


def test_fine_tuning_for_no_epoch_changes_nothing():
    assert digest(FineTuning(TuningParams(epochs=0)).repair(trained(0), setting())) == digest(
        trained(0)
    )


def test_fine_tuning_learns():
    model = tiny(0)
    before = accuracy(model, images())
    assert (
        accuracy(FineTuning(TuningParams(epochs=10, lr=0.05)).repair(model, setting()), images())
        > before + 0.2
    )
    assert not model.training


def test_when_says_which_network():
    assert FineTuning().steps() == {"repair_student"}
    assert FineTuning(TuningParams(when="before")).steps() == {"cleanse_teacher"}
    student = FineTuning().repair_student(trained(0), FrozenTeacher(tiny(1)), setting())
    teacher = FineTuning(TuningParams(when="before")).cleanse_teacher(trained(0), setting())
    assert digest(student) == digest(teacher)


def test_a_recipe_of_ones_own_leaves_the_rest_to_the_preset():
    base = Recipe(epochs=2, min_steps=50, batch_size=32, lr=0.1, schedule="onecycle")
    assert TuningParams().recipe(base) == base
    own = TuningParams(epochs=5, lr=0.01, milestones=(0.5,)).recipe(base)
    assert (own.epochs, own.min_steps, own.batch_size, own.lr, own.schedule) == (
        5,
        0,
        32,
        0.01,
        "steps",
    )


def test_held_out_images_are_a_share_of_every_class_and_disjoint():
    data = images(103)
    repair, chosen = held_out(data, 0.2, torch.Generator().manual_seed(0))
    assert len(repair) + len(chosen) == 103
    assert torch.bincount(chosen.labels).tolist() == [5, 5, 5, 5]
    rows = {tuple(x.flatten()[:40].tolist()) for x in chosen.read(torch.arange(len(chosen)))}
    assert not rows & {
        tuple(x.flatten()[:40].tolist()) for x in repair.read(torch.arange(len(repair)))
    }


def test_held_out_leaves_a_single_image_to_the_repair():
    data = images(5).subset(torch.tensor([0, 1, 4]))  # classes 0, 1, 0
    repair, chosen = held_out(data, 0.5, torch.Generator().manual_seed(0))
    assert sorted(repair.labels.tolist()) == [0, 1]
    assert chosen.labels.tolist() == [0]


def test_batch_statistics_are_those_of_the_batch_and_nothing_moves():
    model, x = trained(0), images(16).read(torch.arange(16))
    before = digest(model)
    with batch_statistics(model):
        tap = model.features(x).taps[0]
    torch.testing.assert_close(tap.mean((0, 2, 3)), model.bns[0].bias, rtol=0, atol=1e-4)
    assert digest(model) == before
    assert not any(module.training for module in model.modules())
    with batch_statistics(model, wanted=False):
        assert torch.equal(model.features(x).taps[0], trained(0).features(x).taps[0])


def test_a_teacher_may_insist_on_its_statistics():
    model, x = trained(0), images(16).read(torch.arange(16))
    stored = FrozenTeacher(model, "running").features(x).logits
    assert not torch.equal(FrozenTeacher(model, "batch").features(x).logits, stored)
    model.batch_norm = "running"
    assert torch.equal(FrozenTeacher(model, "batch").features(x).logits, stored)
