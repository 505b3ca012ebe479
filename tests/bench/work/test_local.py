"""What the coordinator makes of what a job's process says and leaves behind: it is not believed
more than it has to be."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbench.bench.kinds import Kind
from kdbench.bench.work.executors import running
from kdbench.bench.work.executors.local import JobLimits, LocalExecutor
from kdbench.bench.work.executors.running import MOST_LINES, RunningJob
from kdbench.bench.work.job import Done, Job, Progressed
from kdbench.training import Step
from kdbench.untrusted.processes import tree
from tests.bench.work.said import HELLO, Played, events_of
from tests.bench.work.test_report import JSON

GOOD = {"status": "ok", "facts": {"loss": 1.0}}
STEP = {"place": 0, "epoch": 1, "epochs": 2, "done": 3, "total": 4, "images": 5, "loss": 0.5}
JOB = Job("key", Kind.DISTILL, "title", Path(), {"device": "cpu"})


def line(value):
    return json.dumps(value).encode()


def outcome_of(*said, code=0):
    *_, done = events_of(JOB, [HELLO, *map(line, said)], code)
    return done.outcome


def test_an_outcome_is_taken_as_it_is():
    outcome = outcome_of({"outcomes": [GOOD]})
    assert (outcome.status, outcome.peak_mb) == ("ok", 1.0)
    assert outcome.facts == {"loss": 1.0, "device": "cpu", "confinement": "a wall"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-11, "the process was killed by SIGSEGV"),
        (-9, "the process was killed by SIGKILL (by the kernel, if memory ran out)"),
        (-99, "the process was killed by signal 99"),
        (3, "the process exited with code 3"),
        (None, "its processes were ended from outside"),
    ],
)
def test_an_outcome_does_not_outweigh_how_the_process_ended(code, reason):
    outcome = outcome_of({"outcomes": [GOOD]}, code=code)
    assert (outcome.status, outcome.reason) == ("crashed", reason)
    assert outcome.facts == {"confinement": "a wall"}


def test_a_process_that_was_never_confined_has_no_outcome():
    played = Played([HELLO, line({"outcomes": [GOOD]})])
    played.report = None
    job = RunningJob(JOB, 0, [played])
    job.look()
    assert [outcome.status for outcome in job.outcomes()] == ["crashed"]


@pytest.mark.parametrize(
    "said",
    [
        [],
        [line({"outcomes": [GOOD]})],
        [line(STEP)],
        [HELLO, HELLO],
        [HELLO, HELLO, line({"outcomes": [GOOD]})],
        [HELLO, line({"outcomes": [GOOD]}), line(STEP)],
        [HELLO, line({"outcomes": [GOOD]}), line({"outcomes": [GOOD]})],
        [HELLO, line({"outcomes": [GOOD]}), b""],
        [HELLO, line({"outcomes": [GOOD, GOOD]})],
        [HELLO, line(GOOD)],
        [HELLO, line([GOOD])],
    ],
)
def test_a_process_greets_and_ends_with_its_outcome(said):
    *_, done = events_of(JOB, said)
    assert done.outcome.status == "crashed"
    assert done.outcome.reason.startswith(("it reported nonsense", "the process ended without"))


def test_a_companion_that_cannot_be_ended_does_not_keep_its_job(monkeypatch):
    monkeypatch.setattr(running, "_KILL_S", 0.0)
    stuck = Played([])
    stuck.exit = None
    job = RunningJob(JOB, 0, [stuck, Played([HELLO, line({"outcomes": [GOOD]})])])
    job.look()
    assert not job.done
    job.look()
    assert job.done
    assert [outcome.status for outcome in job.outcomes()] == ["ok"]


def test_each_of_several_jobs_gets_its_own_outcome():
    jobs = [replace(JOB, key=key) for key in "abc"]
    together = replace(jobs[0], beside=tuple(jobs[1:]))
    failed = {"status": "failed", "reason": "no"}
    said = [HELLO, line({"outcomes": [GOOD, failed, GOOD]})]
    events = events_of(together, said)
    assert [(done.key, done.outcome.status) for done in events] == [
        ("a", "ok"),
        ("b", "failed"),
        ("c", "ok"),
    ]
    assert events[0].outcome.facts["cohort"] == 3
    events = events_of(together, said, code=-9)
    assert [(done.key, done.outcome.status) for done in events] == [
        (key, "crashed") for key in "abc"
    ]


def test_steps_are_handed_on():
    step = Step(**{name: value for name, value in STEP.items() if name != "place"})
    events = events_of(JOB, [HELLO, line(STEP), line({"outcomes": [GOOD]})])
    assert events[0] == Progressed("key", step)
    assert events[1].outcome.status == "ok"


def test_of_a_flood_the_first_and_the_last_lines_are_read(monkeypatch):
    read = []
    parse = running.parse
    monkeypatch.setattr(running, "parse", lambda *said: read.append(said) or parse(*said))
    flood = [HELLO, *[line(STEP)] * 100_000, line({"outcomes": [GOOD]})]
    *steps, done = events_of(JOB, flood)
    assert done.outcome.status == "ok"
    assert (len(steps), len(read)) == (MOST_LINES - 1, MOST_LINES + 1)


def test_a_gpus_peak_is_taken_from_jobs_that_have_one():
    lying = {"outcomes": [GOOD | {"device_peak_mb": 70.0}]}
    assert outcome_of(lying).peak_mb == 1.0
    job = replace(JOB, task={"device": "cuda"})
    (done,) = events_of(job, [HELLO, line(lying)])
    assert done.outcome.peak_mb == 70.0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary() | JSON.map(line) | st.sampled_from([HELLO, line(STEP)]), max_size=6))
def test_whatever_a_process_says_its_job_ends_once(said):
    events = events_of(JOB, [*said, line({"outcomes": [GOOD]})])
    assert [event.key for event in events if isinstance(event, Done)] == ["key"]


def limited(executor, played, **limits):
    executor.limits, executor._next_look = JobLimits(**limits), 0.0
    executor._running = [
        RunningJob(replace(JOB, key=str(n)), n, [each], started=1000.0)
        for n, each in enumerate(played)
    ]
    executor._enforce()
    return [each.verdict for each in executor._running]


def test_memory_is_looked_up_once_for_all_jobs(monkeypatch):
    looks = []
    # It serves every later test of this process, too, so it must be put back.
    monkeypatch.setattr(tree, "_latest", tree.Processes())
    monkeypatch.setattr(tree, "_look", lambda: looks.append(1) or tree.Processes(at=1e18))
    played = [Played([], None) for _ in range(3)]
    for each, used in zip(played, (50.0, 150.0, 0.0), strict=True):
        each.exit = None
        each.memory_mb = lambda used=used: (tree.processes(), used)[1]
    executor = LocalExecutor()
    verdicts = limited(executor, played, memory_mb=100)
    assert len(looks) == 1
    assert [verdict and verdict[0] for verdict in verdicts] == [None, "out of memory", None]
    assert [each.killed for each in played] == [False, True, False]
    assert executor._running[0].peak_mb == 50


def test_a_job_has_its_time_from_its_wall_on(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(running.time, "monotonic", lambda: now[0])
    played = [Played([], None), Played([], None)]
    for each, at in zip(played, (999.0, None), strict=True):
        each.exit, each.reported_at = None, at
    assert limited(LocalExecutor(), played, seconds=5) == [None, None]
    now[0] += 5
    assert [v and v[0] for v in limited(LocalExecutor(), played, seconds=5)] == ["timeout", None]
    executor = LocalExecutor()
    limited(executor, played, seconds=5)
    now[0] += 66
    executor._next_look = 0.0
    executor._enforce()
    assert executor._running[1].verdict[0] == "timeout"


def test_the_log_is_what_its_descriptor_holds(tmp_path):
    (tmp_path / "log").write_bytes(b"x" * 50_000 + b"\xffend")
    job = RunningJob(JOB, 0, [Played([HELLO])], logs=[os.open(tmp_path / "log", os.O_RDONLY)])
    (tmp_path / "log").unlink()
    (tmp_path / "log").symlink_to("/etc/hostname")
    job.look()
    (outcome,) = job.outcomes()
    job.close()
    assert len(outcome.log) == 20_000
    assert outcome.log.endswith("\ufffdend")
