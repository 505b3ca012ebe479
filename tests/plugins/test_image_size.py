"""What an image of twice the side, or a batch of twice the images, does to each loss.

The table of docs/methods.md has a line for each of these tests. The features of the larger image
are those of the smaller one, each place written four times. A network of 1x1 convolutions has
exactly such features.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import kdbench_ckd.method as ckd
import kdbench_lba.method as lba
import pytest
import torch
import torch.nn.functional as F
from kdbench_ab.method import AB, ABParams
from kdbench_anp.method import ANPParams, Neurons, adversarial_noise
from kdbench_argd.method import edges
from kdbench_at.method import AT
from kdbench_backweak.method import BackWeak, BackWeakParams
from kdbench_badnets.method import BadNets
from kdbench_cc.method import CC, CCParams
from kdbench_ckd.adaptive import LowVariance
from kdbench_ckd.method import CKD, CKDParams
from kdbench_dist.method import relations
from kdbench_dkd.method import DKD, DKDParams
from kdbench_fineprune.method import mean_activation
from kdbench_fitnet.method import FitNet
from kdbench_fkd.method import FKD, measured_margin
from kdbench_fsp.method import FSP, FSPParams
from kdbench_htba.method import HTBA, HTBAParams
from kdbench_ibau.method import IBAU
from kdbench_inputaware.losses import InputAwareParams
from kdbench_inputaware.losses import Losses as InputAwareLosses
from kdbench_kd.method import KD, KDParams
from kdbench_lba.method import LBA, LBAParams
from kdbench_lc.method import LC, LCParams
from kdbench_lf.method import LF, LFParams, smooth
from kdbench_nad.method import NADParams
from kdbench_nc.inversion import Budget, Search
from kdbench_reviewkd.method import context_loss
from kdbench_rkd.method import RKD
from kdbench_robustkd.method import RobustKDParams, detoxification_loss
from kdbench_scar.losses import Losses as SCARLosses
from kdbench_scar.losses import SCARParams
from kdbench_scar.method import SCAR
from kdbench_sig.method import SIG
from kdbench_sp.method import SP, SPParams
from torch import Tensor, nn

from kdbench.attack import AttackSetting, PoisonedImages
from kdbench.attention import attention_terms
from kdbench.data.base import Batch
from kdbench.data.tensor import TensorImages
from kdbench.models.base import FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Fit, Recipe, Silent
from kdbench.trigger_search import train_in
from kdbench.triggers import AddTrigger, BlendTrigger, PatchTrigger, corner, cosine_basis
from kdbench.variance import feature_variance, variance_of_each
from tests.plugins.tiny import Tiny, images, tiny


def larger(maps: Tensor, times: int) -> Tensor:
    """The same maps for an image of ``times`` the side."""
    return maps.repeat_interleave(times, 2).repeat_interleave(times, 3)


class Pointwise(Tiny):
    """A place of its features depends on the same place of the image alone."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *self.group_channels)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))


def pointwise(seed: int = 0) -> Pointwise:
    torch.manual_seed(seed)
    return Pointwise().eval()


def features(seed: int, times: int = 1, copies: int = 1, count: int = 2) -> FeatureOutput:
    """``count`` images of 16x16, or ``times`` as large: the maps of :func:`tiny`. Each image is in
    the batch ``copies`` times."""
    g = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(count, c, side, side, generator=g) for c, side in ((4, 16), (8, 8), (16, 4))
    ]
    maps = [larger(m, times).repeat(copies, 1, 1, 1) for m in maps]
    return FeatureOutput(
        tuple(maps), tuple(maps), torch.randn(count, 4, generator=g).repeat(copies, 1)
    )


def labelled(out: FeatureOutput) -> Batch:
    count = len(out.logits)
    return Batch(
        torch.zeros(count, 3, 1, 1), torch.arange(2).repeat(count // 2), torch.arange(count)
    )


def data(times: int = 1, count: int = 32) -> TensorImages:
    small = images(count)
    return TensorImages(larger(small.pixels, times), small.labels)


def attacked(times: int = 1, fit: Any = None) -> AttackSetting:
    numerics = Numerics()
    return AttackSetting(
        teacher=pointwise(),
        train=data(times),
        target_class=0,
        num_classes=4,
        recipe=Recipe(epochs=1, batch_size=16, lr=0.02),
        augmentation=None,
        fit=fit or Fit(numerics, Silent()),
        generator=torch.Generator().manual_seed(0),
        numerics=numerics,
    )


# The distances of distillers and of NAD ----------------------------------------------------------

Loss = Callable[[FeatureOutput, FeatureOutput], dict[str, Tensor]]


def fkd() -> Loss:
    objective = FKD().objective(FrozenTeacher(tiny(0)), tiny(1)).eval()
    return lambda teacher, student: objective(labelled(student), teacher, student)


def at() -> Loss:
    objective = AT().objective(FrozenTeacher(tiny(0)), tiny(1))
    return lambda teacher, student: objective(labelled(student), teacher, student)


def nad() -> Loss:
    return lambda teacher, student: attention_terms(
        student.groups, teacher.groups, NADParams().beta
    )


def kd(variant: str) -> Loss:
    objective = KD(KDParams(variant=variant)).objective(FrozenTeacher(tiny(0)), tiny(1))
    return lambda teacher, student: objective(labelled(student), teacher, student)


def dkd() -> Loss:
    objective = DKD(DKDParams(warmup=0)).objective(FrozenTeacher(tiny(0)), tiny(1))
    return lambda teacher, student: objective(labelled(student), teacher, student)


def dist() -> Loss:
    def loss(teacher: FeatureOutput, student: FeatureOutput) -> dict[str, Tensor]:
        inter, intra = relations(student.logits, teacher.logits, 4.0)
        return {"inter": inter, "intra": intra}

    return loss


def sp() -> Loss:
    """Weighted for the batch, as by default it is half as strong for twice the images."""
    objective = SP(SPParams(scale_with_batch=True)).objective(FrozenTeacher(tiny(0)), tiny(1))
    return lambda teacher, student: objective(labelled(student), teacher, student)


def fitnet() -> Loss:
    objective = FitNet().objective(FrozenTeacher(tiny(0)), tiny(1)).eval()
    return lambda teacher, student: objective(labelled(student), teacher, student)


def ab() -> Loss:
    objective = AB(ABParams(stages="joint")).objective(FrozenTeacher(tiny(0)), tiny(1))
    return lambda teacher, student: objective(labelled(student), teacher, student)


def fsp() -> Loss:
    objective = FSP(FSPParams(stages="joint")).objective(FrozenTeacher(tiny(0)), tiny(1))
    return lambda teacher, student: objective(labelled(student), teacher, student)


LOSSES: dict[str, Callable[[], Loss]] = {
    "fkd": fkd,
    "at": at,
    "nad": nad,
    "kd.hinton": lambda: kd("hinton"),
    "kd.eq4": lambda: kd("eq4"),
    "dkd": dkd,
    "dist": dist,
    "sp": sp,
    "fitnet": fitnet,
    "ab": ab,
    "fsp": fsp,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_distance_to_the_teacher(name):
    """Neither the side nor the batch changes a value."""
    loss = LOSSES[name]()
    expected = {k: v.item() for k, v in loss(features(0), features(1)).items()}
    assert all(value > 0 for value in expected.values())
    for times, copies in ((2, 1), (4, 1), (1, 2)):
        values = loss(features(0, times, copies), features(1, times, copies))
        assert {k: v.item() for k, v in values.items()} == pytest.approx(expected, rel=1e-4)


def rkd() -> Loss:
    objective = RKD().objective(FrozenTeacher(tiny(0)), tiny(1))
    return lambda teacher, student: objective(labelled(student), teacher, student)


def cc(variant: str) -> Loss:
    objective = CC(CCParams(variant=variant)).objective(FrozenTeacher(tiny(0)), tiny(1))
    return lambda teacher, student: objective(labelled(student), teacher, student)


#: A copy of an image is at distance 0 to it, so a batch of copies has other relations.
RELATIONS: dict[str, Callable[[], Loss]] = {
    "rkd": rkd,
    "cc.release": lambda: cc("release"),
    "cc.paper": lambda: cc("paper"),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_between_images(name):
    """The side changes no value."""
    loss = RELATIONS[name]()
    expected = {k: v.item() for k, v in loss(features(0, count=4), features(1, count=4)).items()}
    assert all(value > 0 for value in expected.values())
    for times in (2, 4):
        values = loss(features(0, times, count=4), features(1, times, count=4))
        assert {k: v.item() for k, v in values.items()} == pytest.approx(expected, rel=1e-4)


def test_a_level_of_reviewkd():
    """At twice the side the mean of the old size joins. Of 4x4 it has the weights 1, 1/2, 1/4, and
    of 8x8 an 1/8 more."""
    (a, b), (a_twice, b_twice) = (
        [features(seed, times).groups[-1] for seed in (0, 1)] for times in (1, 2)
    )
    places = F.mse_loss(a, b)
    others = 1.75 * context_loss(a, b) - places
    expected = (1.5 * places + others / 2) / 1.875
    assert context_loss(a_twice, b_twice).item() == pytest.approx(expected.item(), rel=1e-4)
    a, b = a.repeat(2, 1, 1, 1), b.repeat(2, 1, 1, 1)
    assert context_loss(a, b).item() == pytest.approx((places + others).item() / 1.75, rel=1e-4)


def test_margins_that_are_measured():
    tap = features(0).taps[0]
    torch.testing.assert_close(measured_margin(larger(tap, 2)), measured_margin(tap))
    torch.testing.assert_close(measured_margin(tap.repeat(2, 1, 1, 1)), measured_margin(tap))


# Repairs ------------------------------------------------------------------------------------------


def test_argds_edges():
    """Where a coarse map and a fine one hold the same detail the size changes nothing."""
    g = torch.Generator().manual_seed(0)
    fine, middle, coarse = (torch.randn(3, 4, 4, 4, generator=g) for _ in range(3))
    groups = (larger(fine, 4), larger(middle, 2), coarse)
    expected = edges(groups)
    twice = edges(tuple(larger(each, 2) for each in groups))
    torch.testing.assert_close(twice, expected, rtol=1e-4, atol=1e-5)
    doubled = edges(tuple(each.repeat(2, 1, 1, 1) for each in groups))
    torch.testing.assert_close(doubled, expected.repeat(1, 2), rtol=1e-4, atol=1e-5)


def test_the_penalty_of_ibaus_perturbation():
    model, method, labels = pointwise(), IBAU(), torch.zeros(2, dtype=torch.int64)
    penalties = []
    for times in (1, 2):
        images = larger(torch.full((2, 3, 4, 4), 0.5), times)
        delta = larger(torch.full((1, 3, 4, 4), 0.2), times)
        ce = F.cross_entropy(model(images + delta), labels)
        penalties.append((method.inner(model, images, labels, delta) + ce).item())
    assert penalties == pytest.approx([0.001 * 48 * 0.04, 4 * 0.001 * 48 * 0.04], rel=1e-3)


def test_the_size_of_a_patch_of_nc():
    one, twice = (
        Search(torch.tensor([0]), (3, side, side), "patch", Budget(steps=1), [0])
        for side in (8, 16)
    )
    with torch.no_grad():
        twice.raw_mask.copy_(larger(one.raw_mask, 2))
    assert twice.size().item() == pytest.approx(4 * one.size().item(), rel=1e-5)


# RobustKD and the variance ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "of_one"), [("global", 512), ("per_example", 256), ("spatial", 16), ("batch", 2)]
)
def test_a_variance(mode, of_one):
    """Unbiased, of ``of_one`` numbers here. Without n - 1 for n it does not change at all."""

    def biased(times: int, copies: int) -> float:
        numbers = of_one * (times**2 if mode != "batch" else 1)
        numbers *= copies if mode in ("global", "batch") else 1
        value = feature_variance(features(0, times, copies).groups[-1], mode).item()
        return value * (numbers - 1) / numbers

    assert biased(2, 1) == pytest.approx(biased(1, 1), rel=1e-4)
    assert biased(1, 2) == pytest.approx(biased(1, 1), rel=1e-4)


def test_the_variance_of_each_image():
    each = [variance_of_each(features(0, times).groups[-1]) for times in (1, 2)]
    torch.testing.assert_close(each[0] * 255 / 256, each[1] * 1023 / 1024)


def detoxified(times: int, copies: int = 1) -> tuple[dict[str, float], list[Tensor]]:
    """The terms of RobustKD's loss, and the slope of each in an offset p on the last group."""
    out = features(0, times, copies)
    p = larger(torch.zeros(1, 16, 4, 4), times).requires_grad_()
    last = out.groups[-1] + p
    head = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    edited = FeatureOutput((*out.groups[:2], last), (), last.relu().mean((2, 3)) @ head)
    terms = detoxification_loss(lambda _: edited, labelled(out), RobustKDParams())
    slopes = [torch.autograd.grad(term, p, retain_graph=True)[0] for term in terms.values()]
    return {name: term.item() for name, term in terms.items()}, slopes


def test_robustkds_loss_and_the_slope_of_its_offset():
    """A place of an image of twice the side has a quarter of the slope, in both terms alike. Adam
    divides a slope by its size, so its steps stay what they are."""
    (terms, slopes), (terms_twice, slopes_twice) = detoxified(1), detoxified(2)
    assert terms_twice == pytest.approx(terms, rel=3e-3)
    for slope, slope_twice in zip(slopes, slopes_twice, strict=True):
        torch.testing.assert_close(4 * slope_twice, larger(slope, 2), rtol=3e-3, atol=1e-5)
    assert detoxified(1, copies=2)[0] == pytest.approx(terms, rel=3e-3)


def test_the_low_variance_of_ckd():
    """It starts at its share of the loss that it joins, whatever the size of the image."""
    for times, copies in ((1, 1), (2, 1), (1, 2)):
        out = features(0, times, copies)
        low = LowVariance(0.1, "global")
        low.start(torch.tensor(2.0), out)
        assert low(out).item() == pytest.approx(0.2)


# The searches of CKD and LBA, and the training after them -----------------------------------------


class _Searched(Exception):
    """Carries the loss that an attack searches its trigger with."""


def searched(attack: CKD | LBA, module: Any, times: int, monkeypatch) -> Callable[..., Tensor]:
    def search_trigger(*given):
        raise _Searched(next(g for g in given if callable(g) and not isinstance(g, type)))

    monkeypatch.setattr(module, "search_trigger", search_trigger)
    with pytest.raises(_Searched) as caught:
        attack.implant(attacked(times))
    return caught.value.args[0]


@pytest.mark.parametrize(
    ("attack", "module"),
    [(CKD(CKDParams(layers=(1, 2, 3))), ckd), (LBA(LBAParams(layers=(1, 2, 3))), lba)],
)
def test_what_a_trigger_is_searched_with(attack, module, monkeypatch):
    """What features are driven to is measured on images of the same size, and does not change."""
    loss, loss_twice = (searched(attack, module, times, monkeypatch) for times in (1, 2))
    expected = loss(features(0)).item()
    assert loss(features(0, copies=2)).item() == pytest.approx(expected, rel=1e-4)
    assert loss_twice(features(0, times=2)).item() == pytest.approx(expected, rel=1e-4)


def test_the_pictures_of_blended_sig_and_lf():
    """They have their cycles over the image. At twice the side each pixel is between two."""

    def halved(picture: Tensor) -> Tensor:
        return F.avg_pool2d(picture, 2)

    waves = [cosine_basis(4, side, side) for side in (32, 64)]
    torch.testing.assert_close(halved(waves[1]), waves[0], rtol=0, atol=0.01)
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    smoothed = [smooth(larger(noise, times)[0]) for times in (1, 2)]
    torch.testing.assert_close(halved(smoothed[1]), smoothed[0], rtol=0, atol=0.02)
    stripes = [SIG().stripes((3, side, side)) for side in (32, 64)]
    torch.testing.assert_close(stripes[1][:, ::2, ::2], stripes[0])


def wave_slope(times: int, copies: int = 1) -> tuple[float, Tensor]:
    """The loss of LF's search at a change of 0, and its slope in the weights of the waves."""
    heard: list[Any] = []
    setting = attacked(times, fit=lambda *given, **others: heard.append(given))
    LF(LFParams(steps=1)).searched(setting)
    weights, loss = heard[0][:2]
    rows = torch.arange(8).repeat(copies)
    batch = Batch(setting.train.read(rows), setting.train.labels[rows], rows)
    (value,) = loss(batch).values()
    (slope,) = torch.autograd.grad(value, weights)
    return value.item(), slope


def test_the_search_of_lf():
    (value, slope), (value_twice, slope_twice) = wave_slope(1), wave_slope(2)
    assert value_twice == pytest.approx(value, rel=1e-4)
    torch.testing.assert_close(slope_twice, slope, rtol=0.05, atol=1e-3)
    torch.testing.assert_close(wave_slope(1, copies=2)[1], slope, rtol=1e-4, atol=1e-6)


def backweak_terms(times: int, copies: int = 1) -> dict[str, float]:
    heard: list[Any] = []
    setting = attacked(times, fit=lambda *given, **others: heard.append(given))
    BackWeak(BackWeakParams(steps=1, margin=0)).search(setting)
    rows = torch.arange(8).repeat(copies)
    batch = Batch(setting.train.read(rows), setting.train.labels[rows], rows)
    return {name: term.item() for name, term in heard[0][1](batch).items()}


def test_the_search_of_backweak():
    terms = backweak_terms(1)
    assert all(term > 0 for term in terms.values())
    assert backweak_terms(2) == pytest.approx(terms, rel=1e-4)
    assert backweak_terms(1, copies=2) == pytest.approx(terms, rel=1e-4)


def inputaware_terms(times: int, copies: int = 1) -> dict[str, float]:
    """The masks' losses, where the mask of an image is its first channel."""
    own = SimpleNamespace(mask=lambda shown: shown[:, :1])
    nobody = torch.zeros(8, dtype=torch.bool)
    losses = InputAwareLosses(InputAwareParams(), 0, pointwise(), own, nobody, nobody)
    rows = torch.arange(8).repeat(copies)
    batch = Batch(data(times).read(rows), rows, rows)
    return {name: term.item() for name, term in losses.of_masks(batch).items()}


def test_the_losses_of_inputaware():
    terms = inputaware_terms(1)
    assert set(terms) == {"size", "diversity"}
    assert inputaware_terms(2) == pytest.approx(terms, rel=1e-4)
    assert inputaware_terms(1, copies=2) == pytest.approx(terms, rel=1e-4)


def trained_in(times: int, positions: list[int]) -> dict[str, float]:
    """The terms with which a teacher learns a trigger, for a batch of these rows. Rows 1, 2 and 3
    are poisoned."""
    losses: list[Any] = []
    setting = attacked(times, fit=lambda trained, loss, *rest, **others: losses.append(loss))
    g = torch.Generator().manual_seed(3)
    pattern, mask = (torch.rand(1, c, 16, 16, generator=g) for c in (3, 1))
    trigger = BlendTrigger(larger(pattern, times)[0], larger(mask, times)[0])
    rows = torch.tensor([1, 2, 3])
    poisoned = PoisonedImages.build(setting.train, rows, trigger, 0, duplicate=False)
    train_in(setting, poisoned, lambda out: out.taps[-1].mean((2, 3)).square().mean(), 0.5)
    taken = torch.tensor(positions)
    batch = Batch(setting.train.read(taken), setting.train.labels[taken], taken)
    return {name: term.item() for name, term in losses[0](batch).items()}


def test_the_training_on_poison():
    """Both terms are means over images. A batch without a poisoned image has no coupling, so small
    batches couple less often."""
    rows = [0, 1, 2, 5, 6]
    terms = trained_in(1, rows)
    assert set(terms) == {"ce", "coupling"}
    assert trained_in(2, rows) == pytest.approx(terms, rel=1e-4)
    assert trained_in(1, rows * 2) == pytest.approx(terms, rel=1e-4)
    assert set(trained_in(1, [0, 5, 6])) == {"ce"}


def crafted(times: int, **params: Any) -> tuple[Tensor, float, float]:
    """The change that HTBA makes to grey images in one step, and its distances."""
    g = torch.Generator().manual_seed(4)
    bases, patched = (larger(0.4 + 0.2 * torch.rand(3, 3, 4, 4, generator=g), times) for _ in "ab")
    htba = HTBA(HTBAParams(iterations=1, epsilon=1.0, **params))
    poisons, before, after = htba.craft(attacked(times), bases, patched)
    return poisons - bases, before, after


def test_the_poisons_of_htba():
    """A step of fixed size is the same at every size of image. The authors' gradient step is a
    quarter at twice the side, because the features are means over the image."""
    signed, signed_twice = (crafted(times, step="sign", alpha=0.1) for times in (1, 2))
    torch.testing.assert_close(signed_twice[0], larger(signed[0], 2))
    assert signed_twice[1:] == pytest.approx(signed[1:], rel=1e-3)
    raw, raw_twice = (crafted(times, step="raw", raw_lr=3000.0)[0].abs().mean() for times in (1, 2))
    assert 4 * raw_twice.item() == pytest.approx(raw.item(), rel=0.05)


def test_the_losses_of_scar():
    """The trigger's search, with a change of one value, and the teacher's training with a
    surrogate."""

    def terms(times: int, copies: int = 1) -> dict[str, float]:
        heard: list[Any] = []
        setting = attacked(times, fit=lambda *given, **others: heard.append(given))
        params = SCARParams(epsilon=0.0, steps=1, inner_step=1.0)
        SCAR(params).search(setting)
        flat = AddTrigger(torch.full(setting.train.shape, 0.1))
        losses = SCARLosses(params, 0, setting.teacher, flat, pointwise(seed=2))
        rows = torch.arange(8).repeat(copies)
        batch = Batch(setting.train.read(rows), setting.train.labels[rows], rows)
        found = {**heard[0][1](batch), **losses.of_teacher(batch)}
        return {name: term.item() for name, term in found.items()}

    expected = terms(1)
    assert set(expected) == {"target", "ce", "triggered", "implicit"}
    assert abs(expected["implicit"]) > 1e-3
    assert terms(2) == pytest.approx(expected, rel=1e-4)
    assert terms(1, copies=2) == pytest.approx(expected, rel=1e-4)


def test_the_poisons_of_lc():
    """Signed steps on a network whose places do not know each other."""
    hard = [LC(LCParams(iterations=2)).craft(attacked(times), torch.arange(8)) for times in (1, 2)]
    torch.testing.assert_close(hard[1], larger(hard[0], 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_share_of_the_image_under_a_patch(side):
    """LBA's and HTBA's patches are a share of the side. BadNets' and LC's have a size in pixels."""
    shape = (3, side, side)
    assert PatchTrigger(BadNets().patch(), shape, 0, 1.0).mask.mean() == 9 / side**2
    assert LC().trigger(shape).mask.sum() == 36
    for fraction in (LBAParams().patch_fraction, HTBAParams().patch_fraction):
        wide = round(fraction * side)
        rows, columns = corner(wide, wide, shape, 0)
        assert torch.ones(side, side)[rows, columns].sum() / side**2 == fraction**2


# The repairs --------------------------------------------------------------------------------------


def masked(times: int, copies: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """ANP's loss, its slope in the masks, and the noise after the inner step."""
    rows, shown, neurons = torch.arange(8).repeat(copies), data(times), Neurons(pointwise())
    pictures, labels = shown.read(rows), shown.labels[rows]
    m = torch.full((neurons.count,), 0.9, requires_grad=True)

    def loss(noise: Tensor | None = None) -> Tensor:
        return F.cross_entropy(neurons.logits(pictures, m, noise), labels)

    (slope,) = torch.autograd.grad(loss(), m)
    torch.manual_seed(5)
    noise = adversarial_noise(loss, neurons.count, torch.device("cpu"), ANPParams())
    return loss().detach(), slope, noise


@pytest.mark.parametrize(("times", "copies"), [(2, 1), (1, 2)])
def test_the_masks_of_anp(times, copies):
    for value, expected in zip(masked(times, copies), masked(1), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_the_channels_that_fine_pruning_ranks():
    model, numerics = pointwise(), Numerics()
    means = [mean_activation(model, data(times), numerics) for times in (1, 2)]
    torch.testing.assert_close(means[1], means[0])


def test_cross_entropy_of_a_training_step():
    """Poisoning, fine-tuning and distillation start from it: the logits do not know the side."""
    model, rows = pointwise(), torch.arange(8)
    values = [
        F.cross_entropy(model(data(times).read(r)), data(times).labels[r]).item()
        for times, r in ((1, rows), (2, rows), (1, rows.repeat(2)))
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)
