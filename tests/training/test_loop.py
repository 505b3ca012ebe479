"""The loop against hand-computed values."""

import os
import statistics
from pathlib import Path

import pytest
import torch
from torch import nn

from kdbench.errors import ConfigError, DivergedError
from kdbench.models import create_model
from kdbench.numerics import Numerics, choose_numerics
from kdbench.training import Fit, Recipe, Silent, cross_entropy


def fit(parameters, loss, images, recipe, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return Fit(Numerics(), Silent())(
        parameters, loss, images, recipe, generator=generator, **kwargs
    )


def test_one_sgd_step_by_hand(stripes):
    weight = nn.Parameter(torch.tensor(2.0))
    recipe = Recipe(epochs=1, batch_size=240, lr=0.1, momentum=0.0, weight_decay=0.5)
    history = fit([weight], lambda batch: {"a": weight**2, "b": 3 * weight}, stripes.train, recipe)
    # gradient 2w + 3 + 0.5 w = 8; 2 - 0.1 * 8
    assert weight.item() == pytest.approx(1.2)
    assert history == [pytest.approx(10.0)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_tensor_with_gaps_is_trained_as_one_without(stripes, optimizer):
    # torch's fused steps walk memory from the first element on, and take what lies in the gaps for
    # values.
    start, wanted = torch.rand(6, generator=torch.Generator().manual_seed(1)), torch.arange(6.0)
    gaps, plain = torch.zeros(12)[::2], torch.zeros(6)
    recipe = Recipe(epochs=3, batch_size=24, lr=0.1, optimizer=optimizer)
    for tensor in (gaps, plain):
        tensor.copy_(start).requires_grad_()
        fit([tensor], lambda _, t=tensor: {"a": (t - wanted).square().sum()}, stripes.train, recipe)
    torch.testing.assert_close(gaps, plain)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_parameter_may_get_its_first_gradient_later(stripes, optimizer):
    early, late = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(2.0))
    steps = iter(range(10))

    def loss(_):
        return {"early": early**2, "late": late**2} if next(steps) >= 4 else {"early": early**2}

    fit(
        [early, late],
        loss,
        stripes.train,
        Recipe(epochs=1, batch_size=24, lr=0.01, optimizer=optimizer),
    )
    alone = nn.Parameter(torch.tensor(2.0))
    fit(
        [alone],
        lambda _: {"a": alone**2},
        stripes.train,
        Recipe(epochs=2, batch_size=80, lr=0.01, optimizer=optimizer),
    )
    assert late.item() == pytest.approx(alone.item())  # six steps each
    assert early.item() < late.item()


def test_cosine_falls_from_the_peak_to_nothing():
    recipe = Recipe(epochs=1, lr=1.0, schedule="cosine")
    rates = [recipe.rate(step, 4) for step in range(5)]
    assert rates == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)


def test_momentum_without_nesterov_by_hand(stripes):
    weight = nn.Parameter(torch.tensor(0.0))
    recipe = Recipe(
        epochs=1, batch_size=120, lr=0.1, momentum=0.5, weight_decay=0.0, nesterov=False
    )
    fit([weight], lambda batch: {"a": 2 * weight}, stripes.train, recipe)
    # The gradient is 2: 0 - 0.1 * 2, then - 0.1 * (0.5 * 2 + 2). Nesterov's: - 0.1 * 3 first.
    assert weight.item() == pytest.approx(-0.5)


def test_adam_s_betas_by_hand(stripes):
    weight = nn.Parameter(torch.tensor(1.0))
    recipe = Recipe(
        epochs=1, batch_size=120, lr=0.1, optimizer="adam", weight_decay=0.0, betas=(0.0, 0.0)
    )
    fit([weight], lambda batch: {"a": weight**2}, stripes.train, recipe)
    # Without memory each step is lr * sign(gradient).
    assert weight.item() == pytest.approx(0.8)


def test_onecycle_warms_up_and_decays_to_nothing():
    recipe = Recipe(epochs=1, lr=1.0, schedule="onecycle")
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 20
    assert rates[-1] == pytest.approx(0.0125)
    assert rates[0] > 0


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 100])
def test_onecycle_never_exceeds_its_peak(steps):
    recipe = Recipe(epochs=1, lr=0.5, schedule="onecycle")
    assert 0 < max(recipe.rate(step, steps) for step in range(steps)) <= 0.5


def test_steps_drop_tenfold_at_each_milestone():
    recipe = Recipe(epochs=1, lr=1.0, schedule="steps")
    assert [recipe.rate(s, 100) for s in (0, 49, 50, 74, 75)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )


def test_min_steps_raises_the_epochs_of_a_small_set():
    recipe = Recipe(epochs=2, min_steps=100, batch_size=32, lr=0.1)
    assert recipe.passes(320) == 10
    assert recipe.passes(32 * 200) == 2


def test_a_nan_loss_is_diverged_and_names_the_term(stripes):
    weight = nn.Parameter(torch.tensor(1.0))
    recipe = Recipe(epochs=1, batch_size=24, lr=0.1)
    with pytest.raises(DivergedError, match="ce=nan"):
        fit([weight], lambda batch: {"ce": weight * float("nan")}, stripes.train, recipe)


def test_the_same_generator_seed_gives_the_same_weights(stripes):
    def train(seed):
        model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        Fit(Numerics(), Silent())(
            model.parameters(),
            lambda b: {"ce": nn.functional.cross_entropy(model(b.images), b.labels)},
            stripes.train,
            Recipe(epochs=2, batch_size=32, lr=0.1),
            generator=torch.Generator().manual_seed(seed),
            augmentation=stripes.augmentation,
        )
        return model[1].weight.detach().clone()

    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_fifty_epochs_take_no_more_memory_than_ten(stripes):
    resident = Resident()
    model = create_model("wrn10_1", 3).train()
    Fit(Numerics(threads=1), resident)(
        model,
        cross_entropy(model),
        stripes.train.subset(torch.arange(80)),
        Recipe(epochs=50, batch_size=40, lr=0.01),
        generator=torch.Generator().manual_seed(0),
        augmentation=stripes.augmentation,
    )
    assert len(resident.mib) == 100
    # A graph that is kept takes 10 MiB a step.
    assert abs(statistics.median(resident.mib[-20:]) - statistics.median(resident.mib[10:30])) < 32


class Resident(Silent):
    """Memory of this process after each step."""

    def __init__(self):
        self.mib = []

    def step(self, step):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.mib.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def test_after_step_runs_after_every_step(stripes):
    weight, calls = nn.Parameter(torch.tensor(1.0)), []
    recipe = Recipe(epochs=2, batch_size=80, lr=0.1)
    fit(
        [weight],
        lambda b: {"w": weight},
        stripes.train,
        recipe,
        after_step=lambda: calls.append(weight.item()),
    )
    assert len(calls) == 6
    assert calls[0] < 1.0


@pytest.mark.parametrize(
    ("device", "message"),
    [("tpu", "not a device"), ("cudafoo", "not a device"), ("cuda:7", "torch sees 1 CUDA")],
)
def test_a_device_that_does_not_exist_is_refused(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=message):
        choose_numerics(device, "fp32")


def test_the_kernel_cache_is_made_roomy_unless_the_user_says_otherwise(monkeypatch):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "5")
    choose_numerics("cpu", "fp32")
    assert os.environ[name] == "5"
    monkeypatch.delenv(name)
    choose_numerics("cpu", "fp32")
    assert int(os.environ[name]) > 1200
