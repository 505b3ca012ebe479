"""``kdbench doctor``."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest

from kdbench.bench.run.calibration import Calibration, Pace, Trial, Untimed
from kdbench.bench.session import health as health_module
from kdbench.bench.session.health import (
    Computing,
    Estimate,
    Health,
    Plugins,
    Storage,
    Timed,
    examine,
)
from kdbench.bench.session.processes import Processes
from kdbench.bench.session.remedies import findings
from kdbench.bench.store.artefacts import Store
from kdbench.cli import doctor
from kdbench.cli.doctor import show
from kdbench.loading.choice import PluginChoice
from tests.cli.calls import call
from tests.cli.widths import WIDE, WIDTHS, assert_whole, of_width

#: A machine on which nothing is slow or missing.
FAST = Health(
    versions={"kdbench": "0.2.0", "python": "3.13.1", "torch": "2.15.0", "system": "Linux"},
    computing=Computing("Some CPU", 16, 0.5, 64.0, "AVX512", True, ("Some GPU",), "cuda, bf16"),
    wall="namespaces, landlock 7, seccomp",
    storage=Storage("/data/store", 500.0, 900.0, "", 8000.0),
    plugins=Plugins(13, {"attack": 4, "distiller": 3, "defense": 6}, {}, {}),
    timed=(Timed("wrn10_1", 16, 16, 119.2), Timed("wrn16_2", 32, 64, 3.4)),
    estimates=(Estimate("a small pair (wrn16_2-wrn16_1)", 82.0, 2, 1),),
)


def changed(**parts):
    """That machine with some facts changed, by the name of their part."""
    values = {name: replace(getattr(FAST, name), **facts) for name, facts in parts.items()}
    return replace(FAST, **values)


def texts(health):
    return " | ".join(finding.text for finding in findings(health))


def test_a_fast_machine_has_no_findings():
    assert findings(FAST) == []


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"computing": {"gpus": ()}}, "No GPU"),
        ({"computing": {"gpus": (), "bf16": False}}, "does not multiply bfloat16"),
        ({"computing": {"gpus": (), "cores": 2}}, "--threads 1 --jobs 2"),
        ({"computing": {"load": 17.0}}, "Other work is running (load 17.0 on 16 cores)"),
        ({"computing": {"memory_gib": 2.0}}, "Little memory (2.0 GiB)"),
        ({"storage": {"free_gib": 1.0}}, "Little space for the store (1.0 GiB free)"),
        ({"storage": {"write_mib_s": 12.0}}, "disk is slow (12 MiB/s)"),
        ({"storage": {"shared_mib": 16.0}}, "/dev/shm has only 16 MiB"),
        ({"plugins": {"broken": {"sig": "ValueError: boom"}}}, "Plugin sig is broken: ValueError"),
        ({"plugins": {"slow": {"sig": 4.0}}}, "Plugin sig takes 4.0 s to import"),
    ],
)
def test_what_is_slow_or_missing_is_said(parts, says):
    advice = findings(changed(**parts))
    assert says in " | ".join(finding.text for finding in advice)
    assert not any(finding.stops for finding in advice)


def test_what_the_wall_does_not_keep_out_is_said():
    assert "has no wall" in texts(replace(FAST, wall="none (macOS)"))
    gaps = replace(FAST, wall="landlock 2, seccomp (reached: processes)")
    assert "a plugin can reach processes" in texts(gaps)
    assert "No plugin's process has said" in texts(replace(FAST, wall=None))


def test_a_machine_where_nothing_could_be_timed_says_so():
    assert "No training could be timed" in texts(replace(FAST, timed=(), estimates=()))
    slow = Estimate("a deep pair", 7200.0, 1, 0)
    assert "a deep pair takes long here" in texts(replace(FAST, estimates=(slow,)))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"storage": {"trouble": "the store /x cannot be written to"}}, "cannot be written to"),
        ({"plugins": {"methods": {"attack": 0, "defense": 6}}}, "There is no attack"),
    ],
)
def test_where_kdbench_cannot_work_the_exit_code_says_so(monkeypatch, parts, says):
    health = changed(**parts)
    monkeypatch.setattr(health_module, "examine", lambda *arguments: health)
    ran = call("doctor")
    assert ran.exit_code == 1
    assert "kdbench cannot work here:" in ran.stdout
    assert says in ran.stdout
    monkeypatch.setattr(health_module, "examine", lambda *arguments: FAST)
    assert call("doctor").exit_code == 0


def test_the_same_as_json(monkeypatch):
    slow = changed(computing={"gpus": ()})
    monkeypatch.setattr(health_module, "examine", lambda *arguments: slow)
    ran = call("doctor", "--json")
    assert ran.exit_code == 0
    value = json.loads(ran.stdout)
    assert value["computing"]["cores"] == 16
    assert value["wall"] == FAST.wall
    assert value["timed"][0] == {
        "network": "wrn10_1",
        "image_size": 16,
        "batch_size": 16,
        "steps_per_s": 119.2,
        "why": "",
    }
    assert [finding["stops"] for finding in value["findings"]] == [False]
    assert ran.stderr == ""


@WIDTHS
def test_what_it_shows_fits(monkeypatch, capsys, width):
    health = changed(
        computing={"gpus": (), "bf16": False, "cores": 2, "load": 9.0},
        storage={"root": "/data/experiments/of-many-people/and-many-years/kdbench/store"},
        plugins={"broken": {"sig": "ModuleNotFoundError: No module named 'elsewhere'"}},
    )
    shown = []
    for columns in (width, WIDE):
        of_width(monkeypatch, columns)
        show(health, findings(health))
        shown.append(capsys.readouterr().out)
    assert_whole(shown[0], shown[1], width)
    assert "more than 82 s with --threads 1 --jobs 2, one seed" in shown[1]
    assert "nothing is slow" not in shown[1]
    show(FAST, [])
    assert "nothing is slow or missing here" in capsys.readouterr().out


def test_a_machine_is_examined(monkeypatch, tmp_path):
    """All but the trial, which takes seconds."""
    trial = Trial("wrn10_1", 10, 16, 16)
    asked = []

    def calibrate(stages, *arguments, **options):
        asked.extend(stages)
        return Calibration((Pace(trial, 0.01),), start_s=0.5)

    monkeypatch.setattr("kdbench.bench.run.calibration.calibrate", calibrate)
    store = Store(tmp_path / "store")
    with Processes(PluginChoice(), pytest.fail, shows_broken=True) as processes:
        health = examine(processes, store, doctor._requests())
    assert health.timed == (Timed("wrn10_1", 16, 16, 100.0),)
    small, deep = health.estimates
    assert 0 < small.seconds < deep.seconds
    assert small.unknown == deep.unknown == 1  # a step of robustkd, which is no training by recipe
    assert {stage.networks[0] for stage in asked} >= {"wrn16_1", "pyramid200"}
    assert health.computing.cores >= 1
    assert health.storage.write_mib_s > 0
    assert health.storage.trouble == ""
    assert health.plugins.methods["attack"] > 0
    assert health.plugins.broken == {}
    assert health.wall
    assert not [finding for finding in findings(health) if finding.stops]


def test_speed_needs_no_request(monkeypatch, zygote):
    """As without the plugins of the usual requests."""
    known = Calibration((Pace(Trial("wrn10_1", 10, 16, 16), 0.01),), start_s=0.5)
    monkeypatch.setattr(
        "kdbench.bench.run.calibration.calibrate", lambda *arguments, **options: known
    )
    with Processes(PluginChoice(), pytest.fail) as processes:
        timed, estimates = health_module._speed(processes, {})
    assert (len(timed), estimates) == (1, ())


def test_what_could_not_be_timed_or_estimated_keeps_its_row(monkeypatch, capsys, zygote):
    """It has a reason in place of a number."""
    small, deep = Trial("wrn10_1", 10, 16, 16), Trial("pyramid200", 10, 16, 16)
    why = "no time was left: a step takes about 9.0 s"
    known = Calibration((Pace(small, 0.01),), 0.5, (Untimed(deep, why),))
    monkeypatch.setattr(
        "kdbench.bench.run.calibration.calibrate", lambda *arguments, **options: known
    )
    requests = doctor._requests()
    (name, *_) = requests
    spec, jobs = requests[name]
    requests[name] = spec.model_copy(update={"attacks": ("gone",)}), jobs
    with Processes(PluginChoice(), pytest.fail) as processes:
        timed, estimates = health_module._speed(processes, requests)
        monkeypatch.setattr(
            "kdbench.bench.run.calibration.calibrate", lambda *arguments, **options: None
        )
        nothing = health_module._speed(processes, requests)
    assert timed[1] == Timed("pyramid200", 16, 16, None, why)
    assert [estimate.name for estimate in estimates] == list(requests)
    assert estimates[0].seconds is None
    assert "unknown attack 'gone'" in estimates[0].why
    assert estimates[1].seconds > 0
    assert all(each.steps_per_s is None and each.why for each in nothing[0])
    assert [(each.seconds, bool(each.why)) for each in nothing[1]] == [(None, True)] * 2
    show(replace(FAST, timed=timed, estimates=estimates), [])
    shown = capsys.readouterr().out
    assert re.search(f"pyramid200 +16x16 +16 +- +{why}", shown)
    assert re.search(f"{re.escape(name)} +not known: unknown attack 'gone'", shown)
    assert "No training could be timed" not in texts(replace(FAST, timed=timed))
    assert "No training could be timed" in texts(replace(FAST, timed=nothing[0]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_found(tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be written to" in health_module._storage(Store(tmp_path / "store")).trouble


def test_a_store_that_is_a_file_is_found(tmp_path):
    (tmp_path / "store").write_text("")
    storage = health_module._storage(Store(tmp_path / "store"))
    assert storage.trouble
    assert storage.write_mib_s is None
    assert storage.free_gib is not None
