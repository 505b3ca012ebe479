"""How fast the machine is, tried where nothing was computed here yet."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from kdbench.bench.kinds import Kind
from kdbench.bench.plan.build import build_plan
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.bench.run import calibration as calibration_module
from kdbench.bench.run.calibration import Calibration, Pace, Trial, calibrate, choose, trials_of
from kdbench.bench.run.forecast import forecast
from kdbench.bench.run.timings import Timings
from kdbench.bench.run.work import network_bytes, work
from kdbench.bench.store.artefacts import Store
from kdbench.models import create_model
from kdbench.numerics import Numerics
from tests.runs import part_of

SMALL = Trial("wrn10_1", 10, 16, 16)
ONE_THREAD = Numerics(torch.device("cpu"), threads=1)
#: Operations a second of the machine of these tests.
SPEED = 1e9


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """A machine that is busy with other work is waited for."""
    monkeypatch.setattr(calibration_module, "_PATIENCE_S", 600.0)
    monkeypatch.setattr(calibration_module, "_LAST_S", 600.0)


@pytest.fixture
def plan(registry):
    common = {"attacks": ("badnets",), "defenses": ("none",), "pairs": (("wrn16_2", "wrn10_1"),)}
    part = part_of(resolve(RunSpec(**common), registry), image_size=16)
    return build_plan([part])


def pace(trial=SMALL, speed=SPEED):
    """Of a machine that does so many operations a second in this network."""
    return Pace(trial, trial.work * trial.batch_size / speed)


def training(plan, title):
    return next(stage for stage in plan.stages.values() if stage.title == title)


def test_a_stage_takes_a_start_and_its_arithmetic(plan):
    known = Calibration((pace(),), start_s=0.5)
    distill = training(plan, "distill wrn10_1 from clean wrn16_2 by fkd")
    operations = distill.images * work("recipe", ("wrn10_1", "wrn16_2"), 10, 16)
    assert known.seconds(distill) == pytest.approx(0.5 + operations / SPEED)
    measure = training(plan, "measure: train clean wrn16_2")
    assert known.seconds(measure) == 0.5


def test_the_network_that_is_most_like_it_counts(plan):
    deep = Trial("wrn16_2", 10, 16, 16)
    known = Calibration((pace(), pace(deep, 10 * SPEED)), start_s=0)
    for title, speed in (("train clean wrn16_2", 10 * SPEED), ("train wrn10_1 alone", SPEED)):
        stage = training(plan, title)
        operations = stage.images * work("recipe", stage.networks, 10, 16)
        assert known.seconds(stage) == pytest.approx(operations / speed), title


def test_what_nobody_can_count_is_not_estimated(plan):
    known = Calibration((pace(),))
    clean = training(plan, "train clean wrn16_2")
    for unknown in (
        replace(clean, networks=("a_plugins_net",)),
        replace(clean, shape=None),
        replace(clean, kind=Kind.CLEANSE, images=0),
    ):
        assert known.seconds(unknown) is None


def test_a_network_takes_its_numbers_in_the_store(plan):
    network = create_model("wrn10_1", 10, image_size=16)
    size = sum(number.numel() * number.element_size() for number in network.state_dict().values())
    assert network_bytes("wrn10_1", 10, 16) == size
    assert Calibration().bytes(training(plan, "train wrn10_1 alone")) == size
    assert Calibration().bytes(training(plan, "measure: train wrn10_1 alone")) == 0


def test_each_network_is_tried_once_the_smallest_first(plan):
    trials = choose(trials_of(plan.stages.values()))
    assert {trial.network for trial in trials} == {"wrn10_1", "wrn16_2"}
    assert len(set(trials)) == len(trials)
    steps = [trial.work * trial.batch_size for trial in trials]
    assert steps == sorted(steps)
    many = [Trial("wrn10_1", 10, 16, size) for size in range(2, 22)]
    few = choose(many)
    assert few == sorted(few, key=lambda trial: trial.batch_size)
    assert (few[0], few[-1]) == (many[0], many[-1])
    assert len(few) < len(many)


class Nobody:
    def start(self, *arguments, **options):
        pytest.fail("a process was started")


def test_a_trifle_is_not_worth_a_process(plan):
    clean = training(plan, "train clean wrn16_2")
    known = calibrate([replace(clean, images=2)], ONE_THREAD, Nobody())
    assert known.paces == ()
    assert known.seconds(clean) > 0
    measure = training(plan, "measure: train clean wrn16_2")
    assert calibrate([measure], ONE_THREAD, Nobody()) is None


def test_steps_are_timed_in_another_process(zygote):
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    said = []
    known = calibrate(
        [], ONE_THREAD, zygote, [Trial("wrn10_1", 3, 8, 4)], 0.05, lambda: said.append("now")
    )
    assert [pace.trial.network for pace in known.paces] == ["wrn10_1"]
    assert known.paces[0].seconds > 0
    assert known.start_s > 0
    assert said == ["now"]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


def test_a_process_that_fails_tells_nothing(zygote):
    assert calibrate([], ONE_THREAD, zygote, [Trial("no_such_network", 3, 8, 4)], 0.05) is None


def test_a_network_for_which_no_time_is_left_is_named(zygote):
    """The budget ends with the first network, however fast the machine is."""
    small, large = Trial("wrn10_1", 3, 8, 4), Trial("wrn16_2", 3, 32, 64)
    known = calibrate([], ONE_THREAD, zygote, [large, small], 1e-6)
    assert [pace.trial for pace in known.paces] == [small]
    assert [untimed.trial for untimed in known.untimed] == [large]
    assert known.untimed[0].why.startswith("no time was left: a step takes about ")


def test_a_network_whose_process_ended_is_named(monkeypatch):
    """What it said before stays."""
    trials = [SMALL, replace(SMALL, network="wrn16_2")]

    class Ended:
        exit = None

        def look(self):
            self.exit = "killed"

        def hear(self):
            return [b'{"ready": true}', b'{"trial": 0, "seconds": 0.5}']

    monkeypatch.setattr(calibration_module, "wait", lambda processes, seconds: None)
    known = calibration_module._answer(Ended(), trials, 0.0)
    assert known.paces == (Pace(SMALL, 0.5),)
    assert known.untimed == (calibration_module.Untimed(trials[1], "its process failed"),)


def test_the_first_step_does_not_count(monkeypatch):
    """It takes ten seconds, the others two."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = calibration_module._Watch(budget_s=5.0)
    for seconds in (10.0, 2.0, 2.0):
        now[0] += seconds
        watch.step(None)
    now[0] += 2.0
    with pytest.raises(calibration_module._Enough):
        watch.step(None)
    assert watch.seconds(now[0]) == pytest.approx(2.0)


def test_a_forecast_tries_what_has_no_cost(plan, tmp_path):
    store = Store(tmp_path)
    known = training(plan, "train clean wrn16_2")
    store.make_vault()

    class Manifest:
        seconds, size = 7.0, 100

    Timings(store.vault).add(known, Manifest())
    tried = []

    def trial(stages):
        tried.extend(stages)
        return Calibration((pace(),), start_s=1.0)

    forecasts, _ = forecast(plan, store, trial)
    costs = {f.stage.title: f.cost for f in forecasts}
    assert costs["train clean wrn16_2"].seconds == 7.0
    assert not costs["train clean wrn16_2"].tried
    assert known not in tried
    assert {stage.title for stage in tried} == {t for t, cost in costs.items() if cost.tried}
    assert costs["train wrn10_1 alone"].tried
    plain, _ = forecast(plan, store)
    assert {f.stage.title for f in plain if f.cost is None} >= {"train wrn10_1 alone"}
    again, _ = forecast(plan, store, lambda stages: None)
    assert again == plain
