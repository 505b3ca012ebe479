"""Fine-Pruning: which channels go, how many, and that they stay gone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from kdbench_fineprune.method import FinePruneParams, FinePruning, Pruned, mean_activation, site_of

from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError
from kdbench.metrics import accuracy as counted
from kdbench.models import create_model
from kdbench.models.files import load_module, save_module
from kdbench.models.views import Edited, FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.repair import fine_tune, held_out
from kdbench.training import Recipe
from tests.plugins.tiny import digest, images, setting, tiny, trained

LIBRARY = "timm/test_resnet"


def noisy(count=96):
    """Images whose classes overlap, so that accuracy falls bit by bit."""
    data = images(count)
    noise = torch.randint(-120, 121, data.pixels.shape, generator=torch.Generator().manual_seed(7))
    return TensorImages((data.pixels + noise).clamp(0, 255).to(torch.uint8), data.labels)


def external(name=LIBRARY):
    torch.manual_seed(0)
    return create_model(name, 4, image_size=16).eval()


def all_images(data):
    return data.read(torch.arange(len(data)))


def method(**params):
    return FinePruning(FinePruneParams(**params))


def splits(data, fraction=0.2, seed=3):
    return held_out(data, fraction, torch.Generator().manual_seed(seed))


def test_rank_by_hand(good):
    data = images(40)
    with torch.no_grad():
        expected = good.features(all_images(data)).taps[2].relu().mean((0, 2, 3))
    found = mean_activation(good, data, Numerics())
    torch.testing.assert_close(found, expected)
    model = external("timm/test_efficientnet")  # signed features that no ReLU follows
    with torch.no_grad():
        tap = model.features(all_images(data)).taps[2]
    assert (tap < 0).any()
    torch.testing.assert_close(mean_activation(model, data, Numerics()), tap.abs().mean((0, 2, 3)))


@pytest.mark.parametrize(
    "build", [lambda: trained(1), lambda: create_model("resnet20", 4).eval(), external]
)
def test_the_least_active_channels_go_first(build):
    torch.manual_seed(0)
    model, data = build(), images()
    images_, choosing = splits(data)
    order = mean_activation(model, images_, Numerics()).argsort(stable=True)
    pruned = method(max_drop=1, max_pruned=0.4).prune(model, images_, choosing, Numerics())
    count = int(0.4 * len(order))
    gone = torch.nonzero(pruned.kept.flatten() == 0).flatten()
    assert sorted(gone.tolist()) == sorted(order[:count].tolist())


def test_more_drop_prunes_more_and_no_drop_is_exceeded(good):
    data, drops = noisy(200), (0.0, 0.04, 0.1, 0.3, 1.0)
    images_, choosing = splits(data)
    found = []
    before, total = counted(good, choosing, Numerics())
    for drop in drops:
        pruned = method(max_drop=drop).prune(good, images_, choosing, Numerics())
        found.append(int((pruned.kept == 0).sum()))
        assert counted(pruned, choosing, Numerics())[0] >= before - drop * total
    assert found == sorted(found)
    assert found[0] < found[-2] < found[-1] == 15, "one channel always stays"


def test_one_more_step_would_have_been_too_many(good):
    images_, choosing = splits(noisy(200))
    pruned = method(max_drop=0.1).prune(good, images_, choosing, Numerics())
    order = mean_activation(good, images_, Numerics()).argsort(stable=True)
    pruned.kept[:, order[int((pruned.kept == 0).sum())]] = 0
    before, total = counted(good, choosing, Numerics())
    assert counted(pruned, choosing, Numerics())[0] < before - 0.1 * total


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({"step": 0.25, "max_pruned": 0.7}, 11),  # 4, 8, then what is left of 0.7 * 16
        ({"step": 1.0}, 15),
        ({"max_pruned": 0.05}, 0),
        ({"max_pruned": 0.0}, 0),
    ],
)
def test_steps_and_the_largest_share(good, params, count):
    pruned = method(max_drop=1, **params).prune(good, *splits(images()), Numerics())
    assert int((pruned.kept == 0).sum()) == count


@pytest.mark.parametrize(
    "build", [lambda: trained(1), lambda: create_model("resnet20", 4).eval(), external]
)
def test_pruned_channels_are_zero_after_fine_tuning(build):
    torch.manual_seed(0)
    model = build()
    before = digest(model)
    repaired = method(max_drop=1, max_pruned=0.5, epochs=1).repair_student(model, None, setting())
    assert isinstance(repaired, Pruned)
    assert not repaired.training
    gone = repaired.kept.flatten() == 0
    assert int(gone.sum()) == len(gone) // 2
    assert digest(repaired.model) != before, "it was fine-tuned"
    with torch.no_grad():
        out = repaired.features(all_images(images(8)))
    assert (out.taps[2][:, gone] == 0).all()
    assert (out.taps[2][:, ~gone] != 0).any()
    torch.testing.assert_close(repaired.head(out.groups[2]), out.logits)


def test_the_classifier_does_not_see_a_pruned_channel(good):
    """As if the columns of the last layer were zero."""
    kept = (torch.arange(16) % 3 != 0).float()
    zeroed = copy.deepcopy(good)
    with torch.no_grad():
        zeroed.fc.weight *= kept
    shown = all_images(images(8))
    torch.testing.assert_close(Pruned(good, kept, "tap")(shown), zeroed(shown))


def test_a_library_model_is_pruned_in_its_last_group():
    model, shown = external(), all_images(images(4))
    kept = (torch.arange(model.group_channels[2]) % 2).float()
    expected = model.features(shown, edit=lambda i, g: g * kept.view(1, -1, 1, 1) if i == 2 else g)
    pruned = Pruned(model, kept, "group")
    out = pruned.features(shown)
    torch.testing.assert_close(out.logits, expected.logits)
    assert not torch.equal(out.logits, model(shown))
    assert torch.equal(out.groups[2], expected.groups[2])


@pytest.mark.parametrize(
    ("build", "site"),
    [
        (lambda: tiny(1), "tap"),
        (lambda: create_model("wrn10_1", 4).eval(), "tap"),
        (lambda: create_model("pyramid110", 4).eval(), "tap"),
        (lambda: create_model("resnet20", 4).eval(), "group"),
        (external, "group"),
    ],
)
def test_where_it_is_pruned_and_steps_equal_the_pass(build, site):
    model, shown = build(), all_images(images(2))
    assert site_of(model, shown) == site
    kept = (torch.arange(model.tap_channels[2]) % 2).float()
    pruned = Pruned(model, kept, site).eval()
    with torch.no_grad():
        out = pruned.features(shown)
        g = pruned.first_group((shown - pruned.pixel_mean) / pruned.pixel_std)
        for i in range(3):
            tap = pruned.tap(i, g)
            torch.testing.assert_close(g, out.groups[i])
            torch.testing.assert_close(tap, out.taps[i])
            if i < 2:
                g = pruned.next_group(i, g, tap)
        torch.testing.assert_close(pruned.classify(g, tap), out.logits)
        # An edit cannot bring a channel back.
        edited = pruned.features(shown, edit=lambda i, g: g + 1)
        assert (edited.taps[2][:, kept == 0] == 0).all()
        torch.testing.assert_close(pruned.head(edited.groups[2]), edited.logits)
    assert pruned.tap_norms() == model.tap_norms()


def test_an_edited_teacher_can_be_pruned():
    class Plus(torch.nn.Module):
        def forward(self, i, g):
            return g + 0.1 * (i + 1)

    edited = Edited(tiny(1), Plus()).eval()
    edited.batch_norm = "batch"
    pruned = Pruned(edited, torch.ones(16), site_of(edited, all_images(images(2))))
    shown = all_images(images(4))
    torch.testing.assert_close(pruned(shown), edited(shown))
    assert FrozenTeacher(pruned).batch_norm == "batch"


def test_nothing_pruned_is_fine_tuning_alone(good):
    plain, s = copy.deepcopy(good), setting(seed=3)
    images_, _ = held_out(s.clean, 0.2, s.generator)
    fine_tune(plain, s, s.recipe, images=images_)
    repaired = method(max_pruned=0.0).repair_student(good, None, setting(seed=3))
    assert digest(repaired) == digest(plain)


def test_nothing_pruned_and_no_epochs_is_identity(good):
    before = digest(good)
    repaired = method(max_pruned=0.0, epochs=0).repair_student(good, None, setting())
    assert repaired is good
    assert digest(repaired) == before


def test_the_setting_alone_decides_what_is_drawn(good):
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(
            digest(
                method(max_drop=0.3).repair_student(
                    copy.deepcopy(good), None, setting(noisy(), seed=3)
                )
            )
        )
        assert torch.equal(torch.get_rng_state(), state)
    other = digest(
        method(max_drop=0.3).repair_student(copy.deepcopy(good), None, setting(noisy(), seed=4))
    )
    assert results[0] == results[1] != other


@pytest.mark.parametrize("build", [lambda: create_model("wrn10_1", 4).eval(), external])
def test_a_pruned_network_comes_back_from_its_file(tmp_path, build):
    torch.manual_seed(0)
    model = build()
    model.set_normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    repaired = method(max_drop=1, max_pruned=0.5, epochs=0).repair_student(
        model, None, setting(images(16))
    )
    save_module(repaired.eval(), tmp_path / "a")
    back, _ = load_module(tmp_path / "a", ("kdbench_fineprune",))
    shown = all_images(images(4))
    assert torch.equal(back(shown), repaired(shown))
    assert back.site == repaired.site
    assert torch.equal(back.kept, repaired.kept)
    assert torch.equal(back.pixel_mean, back.model.pixel_mean)


def test_bfloat16(good):
    s = setting(bf16=True)
    repaired = method(max_drop=1, max_pruned=0.5, epochs=1).repair_student(good, None, s)
    with s.numerics.autocast(), torch.no_grad():
        out = repaired.features(all_images(images(4)))
    assert (out.taps[2][:, repaired.kept.flatten() == 0] == 0).all()


def test_without_an_image_to_hold_out_it_says_so(good):
    with pytest.raises(ConfigError, match="no class has two; raise --clean-fraction"):
        method().repair_student(good, None, setting(images(4)))


def test_a_pruned_network_learns_again(good):
    """What fine-tuning is for."""
    data, losses = images(), []
    for epochs in (0, 6):
        pruned = method(max_drop=1, max_pruned=0.9, epochs=epochs, lr=0.05)
        repaired = pruned.repair_student(copy.deepcopy(good), None, setting(data))
        with torch.no_grad():
            losses.append(F.cross_entropy(repaired(all_images(data)), data.labels).item())
    assert losses[1] < 0.9 * losses[0]


def test_paper_preset_is_backdoorbenchs_fine_tuning():
    params = FinePruneParams(**FinePruning.presets["paper"])
    recipe = params.recipe(Recipe(epochs=3, lr=0.1, min_steps=50))
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay, recipe.min_steps) == (
        100,
        256,
        0.01,
        5e-4,
        0,
    )
