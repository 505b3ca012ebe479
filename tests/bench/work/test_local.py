"""What the coordinator makes of what a job's process leaves behind: it is not believed more than it
has to be."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.bench.work.executors import local
from kdbench.bench.work.executors.local import _NONSENSE, JobLimits, LocalExecutor, _ends, _Running
from kdbench.bench.work.job import OUTCOME, Job, Progressed
from kdbench.training import Step

GOOD = {"status": "ok", "reason": "", "seconds": 1.5, "peak_mb": 2.0, "facts": {"loss": 1.0}}


def left(tmp_path, text, code=0):
    (tmp_path / OUTCOME).write_text(text)
    (outcome,) = LocalExecutor()._outcomes(
        _Running(Job("key", "distill", "title", tmp_path, {}), 0, 0.0), code
    )
    return outcome


def test_an_outcome_is_taken_as_it_is(tmp_path):
    outcome = left(tmp_path, json.dumps([GOOD]))
    assert (outcome.status, outcome.seconds, outcome.facts) == ("ok", 1.5, {"loss": 1.0})


@pytest.mark.parametrize(
    "change", [{"status": "timeout"}, {"status": "fine"}, {"facts": []}, {"seconds": "long"}]
)
def test_nonsense_is_a_crash(tmp_path, change):
    outcome = left(tmp_path, json.dumps([GOOD | change]))
    assert outcome.status == "crashed"


def test_what_is_no_json_or_not_there_is_a_crash(tmp_path):
    assert left(tmp_path, "[" * 100_000).status == "crashed"
    assert (
        left(tmp_path, json.dumps([GOOD]), code=-11).reason == "the process was killed by SIGSEGV"
    )
    for told in (GOOD, [], [GOOD, GOOD]):
        assert left(tmp_path, json.dumps(told)).status == "crashed"


def test_each_of_several_jobs_gets_its_own_outcome(tmp_path):
    jobs = [Job(key, "distill", "title", tmp_path, {}) for key in "abc"]
    running = _Running(replace(jobs[0], beside=tuple(jobs[1:])), 0, 0.0)
    failed = GOOD | {"status": "failed", "reason": "no"}
    (tmp_path / OUTCOME).write_text(json.dumps([GOOD, failed, GOOD]))
    found = _ends(running.job, LocalExecutor()._outcomes(running, 0))
    assert [(done.key, done.outcome.status) for done in found] == [
        ("a", "ok"),
        ("b", "failed"),
        ("c", "ok"),
    ]
    found = _ends(running.job, LocalExecutor()._outcomes(running, -9))
    assert [(done.key, done.outcome.status) for done in found] == [
        (key, "crashed") for key in "abc"
    ]


def heard(message):
    executor = LocalExecutor()
    executor._running["token"] = running = _Running(
        Job("key", "distill", "title", Path(), {}), 0, 0.0
    )
    executor._heard({"job": "token", "pid": 100})
    try:
        return executor._heard({"job": "token", **message}), running.pid
    except _NONSENSE:  # as wait() does
        return [], running.pid


def test_a_job_cannot_name_another_process():
    assert heard({"pid": 1}) == ([], 100)


def test_steps_are_numbers():
    values = {"epoch": 1, "epochs": 2, "done": 3, "total": 4, "images": 5, "loss": 0.5}
    assert heard({"step": values, "place": 0}) == ([Progressed("key", Step(**values))], 100)
    for place in (1, -2, "0x", None, {}):
        assert heard({"step": values, "place": place}) == ([], 100)
    for nonsense in (
        {"loss": "\x1b"},
        {"epoch": "one"},
        {"total": None},
        {"done": float("inf")},
        {"done": -1},
        {"done": 3.5},
        {"epochs": True},
        {"total": 10**400},
    ):
        assert heard({"step": values | nonsense, "place": 0}) == ([], 100)
    assert heard({"step": [], "place": 0}) == heard({"step": {"epoch": 1}, "place": 0}) == ([], 100)


def test_memory_is_looked_up_once_for_all_jobs(tmp_path, monkeypatch):
    executor = LocalExecutor(limits=JobLimits(memory_mb=100))
    for pid in (11, 12, 13):
        job = Job(str(pid), "distill", "title", tmp_path, {})
        executor._running[str(pid)] = _Running(job, 0, 0.0, pid)
    looks, killed = [], []
    monkeypatch.setattr(local, "_groups_mb", lambda: looks.append(1) or {11: 50.0, 12: 150.0})
    monkeypatch.setattr(local, "_kill", killed.append)
    executor._enforce()
    assert looks == [1]
    assert killed == [12]
    assert executor._running["12"].verdict.status == "out of memory"
    assert executor._running["11"].peak_mb == 50


def test_this_process_and_its_group_use_memory():
    assert local._groups_mb()[os.getpgid(0)] > 10
