"""Input-aware: masks, patterns and three kinds of rows, against hand-computed values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kdbench_inputaware import kdbench_attacks
from kdbench_inputaware.losses import GradientSum, InputAwareParams, Losses, distance, diversity
from kdbench_inputaware.method import InputAware
from kdbench_inputaware.networks import (
    EncoderDecoder,
    NeighboursPattern,
    OwnPattern,
    paste,
    threshold,
    unit,
)
from torch import nn

from kdbench.data.base import Batch
from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError
from kdbench.models.files import load_module, save_module
from kdbench.numerics import Numerics
from kdbench.training import Fit, Silent, cross_entropy, seeded
from kdbench.training.checkpoint import FolderCheckpoints
from tests.plugins.attack_setting import TARGET, heard_labels, others, setting
from tests.stopping import StopAfter, Stopped

SMALL = {"width": 2, "mask_steps": 8}


def test_hook_returns_the_class():
    assert kdbench_attacks() == [InputAware]


def implanted(given=None, **params):
    return InputAware(InputAwareParams(**(SMALL | params))).implant(given or setting())


def networks(width=2, seed=0) -> OwnPattern:
    with seeded(seed):
        return OwnPattern(width)


def noise(count=4, side=16, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# The networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "wanted"), [(3, 723_273), (1, 722_691)])
def test_the_networks_are_as_large_as_the_authors(channels, wanted):
    assert sum(p.numel() for p in EncoderDecoder(channels, 32).parameters()) == wanted


def test_the_last_block_has_a_batch_norm_and_no_relu():
    maps = EncoderDecoder(3, 2)(noise())
    assert maps.min() < 0 < maps.max()
    torch.testing.assert_close(maps.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [8, 9, 15, 16, 20, 24, 32])
def test_an_image_may_have_any_side_from_8_on(side):
    images = noise(side=side)[..., : side - 1 if side > 8 else side]
    own = networks()
    assert own.pattern(images).shape == own(images).shape == images.shape
    assert own.mask(images).shape == (4, 1, *images.shape[2:])


def test_a_smaller_image_is_refused():
    given = setting()
    tiny = TensorImages(given.train.pixels[:, :, :7], given.train.labels)
    with pytest.raises(ConfigError, match=r"7x16 pixels are too few; take images of 8x8 or more"):
        implanted(replace(given, train=tiny))


def test_the_threshold():
    shown = threshold(torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0]))
    # tanh(-2) / 2 + 1/2 = 0.018
    torch.testing.assert_close(
        shown, torch.tensor([0.0, 0.018, 0.5, 0.982, 1.0]), rtol=0, atol=2e-5
    )
    assert unit(torch.tensor(math.atanh(0.5))).item() == pytest.approx(0.75)


def test_pattern_and_mask_lie_between_0_and_1():
    own = networks()
    for made in (own.pattern(noise()), own.mask(noise())):
        assert 0 <= made.min() < made.max() <= 1


def test_pasting_by_hand():
    image, pattern = torch.full((1, 3, 1, 1), 0.2), torch.full((1, 3, 1, 1), 1.0)
    shown = [paste(image, pattern, torch.full((1, 1, 1, 1), m)) for m in (0.0, 0.25, 1.0)]
    assert torch.cat(shown)[:, 0].flatten().tolist() == [pytest.approx(v) for v in (0.2, 0.4, 1)]


def test_the_neighbour_s_pattern():
    own, images = networks().eval(), noise()
    shown = NeighboursPattern(own)(images)
    for i, image in enumerate(images):
        before = images[i - 1][None]
        wanted = paste(image[None], own.pattern(before), own.mask(before))
        torch.testing.assert_close(shown[i][None], wanted)


def test_the_precision_is_that_of_the_images_whatever_the_run_s_is():
    own, images = networks().eval(), noise()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(own(images), own(images.clone()))
        mixed = own(images)
    assert torch.equal(mixed, own(images))


# The losses --------------------------------------------------------------------------------------


def test_a_distance_is_that_to_the_image_before():
    values = torch.tensor([0.0, 0.3, 1.0]).view(3, 1, 1, 1).expand(3, 2, 2, 2)
    torch.testing.assert_close(distance(values), torch.tensor([1.0, 0.3, 0.7]))


def test_diversity_by_hand():
    images = torch.tensor([0.0, 0.3]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    made = torch.tensor([0.5, 0.6]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert diversity(images, made).item() == pytest.approx(3.0, rel=1e-4)


def test_equal_patterns_cost_much_and_have_no_slope():
    made = torch.full((2, 1, 2, 2), 0.5, requires_grad=True)
    value = diversity(torch.tensor([0.0, 0.3]).view(2, 1, 1, 1), made)
    value.backward()
    assert value.item() == pytest.approx(0.3 / 1e-7)
    assert torch.equal(made.grad, torch.zeros_like(made))


def losses(kinds="pdc...", own=None, **params):
    """Losses of a linear teacher on 8x8 images: ``p`` is poisoned, ``d`` a decoy."""
    with seeded(1):
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).train()
    poison, decoy = (torch.tensor([kind == letter for kind in kinds]) for letter in "pd")
    chosen = InputAwareParams(**params)
    return Losses(chosen, 2, teacher, own or networks(), poison, decoy)


def batch(count=6):
    # Not in the order of the set, as batches are not.
    positions = torch.arange(count).flip(0)
    return Batch(noise(count, 8), torch.arange(count) % 2, positions)


def test_the_loss_of_the_masks_by_hand():
    one = losses()
    one.own.mask = lambda images: torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    images = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    terms = one.of_masks(Batch(images, torch.zeros(2).long(), torch.arange(2)))
    # 100 (0 + 0.968) / 2, and 0.5 / 1
    assert terms["size"].item() == pytest.approx(48.4)
    assert terms["diversity"].item() == pytest.approx(0.5)


def test_poisons_get_the_target_and_decoys_keep_their_label():
    one, given = losses("p.d.pd"), batch()
    pattern, mask = one.own.pattern(given.images), one.own.mask(given.images)
    images, labels = one.shown(given, pattern)
    for i, kind in enumerate(reversed("p.d.pd")):
        wanted = given.images[i]
        if kind != ".":
            at = i if kind == "p" else i - 1
            wanted = wanted + mask[at] * (pattern[at] - wanted)
        torch.testing.assert_close(images[i], wanted)
        assert labels[i] == (2 if kind == "p" else given.labels[i])


def test_the_generator_s_loss_is_its_share_of_the_batch():
    one, given = losses("pd....", lambda_div=2.0), batch()
    for parameter in one.teacher.parameters():
        nn.init.zeros_(parameter)
    terms = one.of_generator(given)
    assert terms["ce"].item() == pytest.approx(2 / 6 * math.log(3))
    wanted = 2 * diversity(given.images, one.own.pattern(given.images))
    torch.testing.assert_close(terms["diversity"], wanted)


def test_a_batch_of_clean_images_leaves_the_generator_its_diversity():
    assert set(losses("......").of_generator(batch())) == {"diversity"}


def test_each_loss_has_a_gradient_at_its_own_player_alone():
    one = losses("pd....")
    players = [
        (one.of_teacher, one.teacher),
        (one.of_generator, one.own.patterns),
        (one.of_masks, one.own.masks),
    ]
    every = [p for _, player in players for p in player.parameters()]
    for loss, player in players:
        gradients = torch.autograd.grad(sum(loss(batch()).values()), every, allow_unused=True)
        reached = {id(p) for p, g in zip(every, gradients, strict=True) if g is not None}
        assert reached == {id(p) for p in player.parameters()}


def test_no_turn_changes_what_the_other_player_is():
    one = losses("pd....")
    # The masks are trained no more.
    one.own.masks.eval()
    one.teacher.insert(0, nn.BatchNorm2d(3))
    kept = [value.clone() for value in one.own.state_dict().values()]
    one.of_teacher(batch())
    assert all(torch.equal(a, b) for a, b in zip(kept, one.own.state_dict().values(), strict=True))
    kept = [value.clone() for value in one.teacher.state_dict().values()]
    one.of_generator(batch())
    now = one.teacher.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    assert one.teacher.training


def test_a_sum_of_gradients_is_that_of_never_zeroing_them():
    """Beside torch's own: with a loss of w^2 + s w and no zeroing."""
    summed, plain = (nn.Parameter(torch.tensor([3.0])) for _ in "ab")
    kept = GradientSum([summed])
    optimisers = [torch.optim.Adam([p], lr=0.1) for p in (summed, plain)]
    for _ in range(5):
        optimisers[0].zero_grad()
        (summed.square().sum() + kept.loss()).backward()
        plain.square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()
        kept.after_step()
        assert kept.loss() == 0
        torch.testing.assert_close(summed.grad, plain.grad)
    torch.testing.assert_close(summed.data, plain.data)
    assert list(kept.parameters()) == []


# The attack --------------------------------------------------------------------------------------


def test_masks_of_noise_are_small():
    given = setting(batch=100)
    pixels = (256 * noise(200, 8)).to(torch.uint8)
    given = replace(given, train=TensorImages(pixels, given.train.labels), augmentation=None)
    attack = InputAware(InputAwareParams(width=4, mask_steps=600))
    own = attack.networks(given)
    one = Losses(attack.params, TARGET, given.teacher, own, *attack.rows(given))
    before = own.eval().mask(given.train.read(torch.arange(200))).mean()
    attack.train_masks(given, own, one)
    masks = own.mask(given.train.read(torch.arange(200)))
    assert masks.mean() <= 0.04 < before
    assert distance(masks).mean() > 0.1, "images have masks of their own"
    assert not any(p.requires_grad for p in own.masks.parameters())


def test_poisons_and_decoys():
    attack, given = InputAware(InputAwareParams(decoy_rate=1.5)), setting()
    poison, decoy = attack.rows(given)
    assert (int(poison.sum()), int(decoy.sum())) == (20, 30)
    assert not (poison & decoy).any()
    assert not (given.train.labels[poison] == TARGET).any()


def test_the_labels_of_a_pass(monkeypatch):
    given = setting(batch=200)
    heard = heard_labels(monkeypatch)
    facts = implanted(given).facts
    whole = [labels for labels in heard if len(labels) == 200]
    assert len(whole) == 1
    counts = torch.bincount(given.train.labels, minlength=10)
    assert int((whole[0] == TARGET).sum()) == int(counts[TARGET]) + 20
    assert (facts["poisons"], facts["decoys"]) == (20, 20)
    for name in ("universal", "response_to_other_patterns"):
        assert 0 <= facts[name] <= 100


@pytest.mark.parametrize("accumulate", [False, True])
def test_the_stored_trigger_is_frozen_and_of_each_image_alone(tmp_path, accumulate):
    trigger = implanted(setting(tune=2), accumulate=accumulate).trigger
    save_module(trigger, tmp_path / "trigger.safetensors")
    restored, _ = load_module(tmp_path / "trigger.safetensors", ["kdbench_inputaware"])
    restored.train()
    assert not any(p.requires_grad for p in restored.parameters())
    assert not any(module.training for module in restored.modules())
    images = others(200)[:16]
    together = restored(images)
    assert torch.equal(together, trigger(images))
    alone = torch.cat([restored(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    assert together.dtype == torch.float32
    assert 0 <= together.min() <= together.max() <= 1


def test_without_poison_it_is_fine_tuning_bit_for_bit():
    attacked = implanted(poison_rate=0.0)
    attack, given = InputAware(InputAwareParams(poison_rate=0.0, **SMALL)), setting()
    # What the attack draws and trains before.
    own = attack.networks(given)
    one = Losses(attack.params, TARGET, given.teacher, own, *attack.rows(given))
    attack.train_masks(given, own, one)
    teacher = given.teacher.train()
    given.fit(
        teacher,
        cross_entropy(teacher),
        given.train,
        given.recipe,
        generator=given.generator,
        augmentation=given.augmentation,
    )
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, attacked.teacher.state_dict()[name]), name
    assert (attacked.facts["poisons"], attacked.facts["decoys"]) == (0, 0)


def test_what_is_not_trained_on_poison_is_the_teacher_as_it_was():
    clean = setting().teacher.state_dict()
    for name, value in implanted(setting(tune=0)).teacher.state_dict().items():
        assert torch.equal(value, clean[name]), name


@pytest.mark.parametrize("variant", [{}, {"accumulate": True}])
def test_a_killed_run_resumes_with_the_same_bits(variant, tmp_path):
    def run(folder, stop=None):
        progress = StopAfter(stop) if stop else Silent()
        fit = Fit(Numerics(), progress, checkpoints=FolderCheckpoints(tmp_path / folder, 0))
        backdoor = implanted(replace(setting(tune=3), fit=fit), **variant)
        return [*backdoor.teacher.state_dict().values(), *backdoor.trigger.state_dict().values()]

    whole = run("whole")
    # 8 steps of the masks, and 12 of teacher and generator, 4 in an epoch.
    for stop in (6, 8 + 6):
        with pytest.raises(Stopped):
            run(f"stopped{stop}", stop)
        for one, other in zip(run(f"stopped{stop}"), whole, strict=True):
            assert torch.equal(one, other)
