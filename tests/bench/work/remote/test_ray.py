"""What becomes of jobs on a cluster, whatever its machines do. The machines are made up."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace

import pytest

from kdbench.bench.work.job import Done, Outcome, Progressed
from kdbench.bench.work.remote.parcels import Parcel
from kdbench.errors import UsageError
from kdbench.training import Step
from tests.bench.work.remote.fakes import (
    ActorDiedError,
    ActorUnavailableError,
    FakeAgent,
    Silence,
    executor_on,
    facts,
)
from tests.bench.work.remote.jobs import laid_out

STEP = Step(1, 2, 3, 4, None, 8)
OK = asdict(Outcome("ok", seconds=1.5, facts={"loss": 1.0, "device": "cpu", "confinement": "w"}))


def parcel(content, **changes):
    """A file that an agent announces, all of it in its first piece."""
    digest = hashlib.sha256(content).hexdigest()
    return replace(Parcel("name", len(content), digest, content), **changes)


MODEL = {"out/model.safetensors": parcel(b"weights")}


def step(number, key="key"):
    return (number, "step", key, asdict(STEP), {})


def done(number, key="key", files=MODEL, **changes):
    return (number, "done", key, {**OK, **changes}, files)


def checkpoint(number, content=b"newer", name="fit-0.safetensors", key="key"):
    return (number, "checkpoint", key, {}, {f"checkpoints/{name}": parcel(content)})


def run(executor, *jobs, rounds=30):
    """All that happens to jobs."""
    events, left = [], list(jobs)
    for _ in range(rounds):
        while left and executor.free():
            executor.start(left.pop(0))
        events += executor.wait(0)
    return events


def outcomes(events):
    return {event.key: event.outcome for event in events if isinstance(event, Done)}


def test_a_job_is_sent_computed_and_comes_back(monkeypatch, tmp_path):
    agent = FakeAgent([[step(1)], [], [done(2)]])
    executor, told = executor_on(monkeypatch, {"n": [agent]})
    job = laid_out(tmp_path / "job")
    events = run(executor, job)
    assert events == [Progressed("key", STEP), Done("key", Outcome(**OK))]
    assert (job.folder / "box/out/model.safetensors").read_bytes() == b"weights"
    assert len(agent.started) == 1
    assert set(agent.blobs.values()) >= {b"images", b"model of key", b"half way"}
    assert agent.heard[:3] == [0, 1, 1], "an answer that was heard is not asked for again"
    assert told == []


def test_nothing_is_started_before_an_agent_has_answered(monkeypatch, tmp_path):
    executor, _ = executor_on(monkeypatch, {"n": [FakeAgent()]})
    assert executor.free() == 0
    executor.wait(0)
    assert executor.free() == 1


def test_images_go_once_to_an_agent(monkeypatch, tmp_path):
    agent = FakeAgent([[done(1, "a")], [done(2, "b")]])
    kept = []
    keep = agent.keep
    agent.keep = lambda *piece: kept.append(piece[1]) or keep(*piece)
    executor, _ = executor_on(monkeypatch, {"n": [agent]})
    events = run(executor, laid_out(tmp_path / "a", "a"), laid_out(tmp_path / "b", "b"))
    assert set(outcomes(events)) == {"a", "b"}
    assert kept.count(b"images") == 1


def test_a_lost_agent_s_job_goes_on_elsewhere_at_its_newest_checkpoint(monkeypatch, tmp_path):
    first = FakeAgent([[checkpoint(1)], ActorDiedError("the node died")])
    second = FakeAgent([[done(1)]])
    executor, told = executor_on(monkeypatch, {"n": [first, second]})
    events = run(executor, laid_out(tmp_path / "job"))
    assert outcomes(events)["key"].status == "ok"
    assert b"newer" in second.blobs.values()
    assert b"half way" not in second.blobs.values()
    assert told == ["far was lost (the node died); its stage goes on elsewhere"]


def test_a_job_whose_node_is_lost_three_times_is_a_row_with_that_reason(monkeypatch, tmp_path):
    agents = [FakeAgent([ActorDiedError("the node died")]) for _ in range(5)]
    executor, _ = executor_on(monkeypatch, {"n": agents})
    events = run(executor, laid_out(tmp_path / "job"))
    outcome = outcomes(events)["key"]
    assert outcome.status == "crashed"
    assert outcome.reason == "its node was lost 3 times; last: the node died"
    assert sum(len(agent.started) for agent in agents) == 3


def test_a_network_that_was_away_for_a_moment_costs_nothing(monkeypatch, tmp_path):
    away = ActorUnavailableError("away")
    agent = FakeAgent([[step(1)], away, away, [step(2)], [done(3)]])
    executor, told = executor_on(monkeypatch, {"n": [agent]})
    events = run(executor, laid_out(tmp_path / "job"))
    assert [type(event) for event in events] == [Progressed, Progressed, Done]
    assert len(agent.started) == 1
    assert told == []


def test_a_large_result_comes_in_pieces_and_what_was_lost_on_the_way_comes_again(
    monkeypatch, tmp_path
):
    first = parcel(b"a large result", head=b"a large")
    announced = done(2, files={"out/model.safetensors": first})
    agent = FakeAgent([[step(1), announced], [announced]])
    agent.pieces = [b" res", ActorUnavailableError("away"), b" res", b"ult"]
    executor, told = executor_on(monkeypatch, {"n": [agent]})
    job = laid_out(tmp_path / "job")
    assert outcomes(run(executor, job))["key"].status == "ok"
    assert (job.folder / "box/out/model.safetensors").read_bytes() == b"a large result"
    assert agent.heard[:2] == [0, 1]
    assert (len(agent.started), told) == (1, [])


def test_one_that_lives_and_says_nothing_is_lost(monkeypatch, tmp_path):
    first, second = FakeAgent([[step(1)], Silence()]), FakeAgent([[done(1)]])
    executor, told = executor_on(monkeypatch, {"n": [first, second]})
    events = run(executor, laid_out(tmp_path / "job"))
    assert events == [Progressed("key", STEP)], "it may be busy for a while"
    executor._slots[0].asked_at -= 601
    assert outcomes(run(executor))["key"].status == "ok"
    assert told == ["far was lost (it has said nothing for 600 s); its stage goes on elsewhere"]


def test_one_that_stays_away_is_lost(monkeypatch, tmp_path):
    monkeypatch.setattr("kdbench.bench.work.executors.ray._AWAY_S", 0.0)
    first = FakeAgent([ActorUnavailableError("away")] * 99)
    second = FakeAgent([[done(1)]])
    executor, told = executor_on(monkeypatch, {"n": [first, second]})
    assert outcomes(run(executor, laid_out(tmp_path / "job")))["key"].status == "ok"
    assert told == ["far was lost (away); its stage goes on elsewhere"]


def test_of_several_in_a_process_only_those_that_had_not_ended_begin_again(monkeypatch, tmp_path):
    first = FakeAgent([[done(1, "a")], ActorDiedError("dead")])
    second = FakeAgent([[done(1, "b")]])
    executor, _ = executor_on(monkeypatch, {"n": [first, second]})
    job = replace(laid_out(tmp_path / "a", "a"), beside=(laid_out(tmp_path / "b", "b"),))
    events = run(executor, job)
    assert [event.key for event in events if isinstance(event, Done)] == ["a", "b"]
    assert [record["key"] for record in second.started[0]] == ["b"]


@pytest.mark.parametrize(
    "event",
    [
        (1, "done", "key", {**OK, "status": "perfect"}, {}),
        (1, "done", "key", {"status": "ok", "surprise": 1}, {}),
        (1, "done", "another", OK, {}),
        (1, "done", "key", {**OK, "facts": {"loss": float("nan")}}, {}),
        (1, "done", "key", OK, {"out/../../../secret": parcel(b"x")}),
        (1, "done", "key", OK, {"out/another.safetensors": parcel(b"x")}),
        (1, "done", "key", OK, {"in/model.safetensors": parcel(b"x")}),
        (1, "checkpoint", "key", {}, {"../escape": parcel(b"x")}),
        (1, "checkpoint", "key", {}, {"fit-x.safetensors": parcel(b"x")}),
        (1, "checkpoint", "key", {}, {"checkpoints/../fit-0.safetensors": parcel(b"x")}),
        (1, "done", "key", OK, {"out/model.safetensors": b"x"}),
        (1, "done", "key", OK, {"out/model.safetensors": parcel(b"x", size=1 << 60)}),
        (1, "done", "key", OK, {"out/model.safetensors": parcel(b"x", sha256="0" * 64)}),
        (1, "step", "key", {"epoch": "one"}, {}),
        (1, "dance", "key", {}, {}),
        (1,),
    ],
)
def test_nonsense_ends_that_job_and_nothing_else(monkeypatch, tmp_path, event):
    executor, _ = executor_on(monkeypatch, {"n": [FakeAgent([[event]])]})
    job = laid_out(tmp_path / "deep" / "job")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    outcome = outcomes(run(executor, job))["key"]
    assert outcome.status == "crashed"
    assert outcome.reason.startswith("its node answered nonsense")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_machine_with_other_code_takes_no_part_and_is_named(monkeypatch, tmp_path):
    wrong = FakeAgent(greeting=facts(host="old", code={"kdbench": "0"}))
    right = FakeAgent([[done(1)]])
    executor, told = executor_on(monkeypatch, {"n": [wrong], "m": [right]}, jobs=2)
    assert outcomes(run(executor, laid_out(tmp_path / "job")))["key"].status == "ok"
    assert wrong.started == []
    assert told == ["old cannot take part: kdbench 1 here, 0 there"]


def test_when_no_machine_can_take_part_the_run_ends_with_the_reasons(monkeypatch):
    wrong = FakeAgent(greeting=facts(host="old", plugins={}))
    executor, _ = executor_on(monkeypatch, {"n": [wrong]})
    with pytest.raises(UsageError, match="no machine of the cluster can take part: old cannot"):
        run(executor)


def test_a_head_that_computes_nothing_is_no_machine_to_wait_for(monkeypatch):
    machines = {"head": [], "n": [FakeAgent(greeting=facts(host="old", plugins={}))]}
    executor, _ = executor_on(monkeypatch, machines)
    with pytest.raises(UsageError, match="no machine of the cluster can take part: old cannot"):
        run(executor)


def test_a_wall_that_leaves_sockets_open_is_refused_unless_it_is_wanted(monkeypatch, tmp_path):
    gap = facts(wall="landlock 7", reached=["unix socket"])
    executor, told = executor_on(monkeypatch, {"n": [FakeAgent(greeting=gap)]})
    with pytest.raises(UsageError, match="its wall leaves open: unix socket"):
        run(executor)
    agent = FakeAgent([[done(1)]], greeting=gap)
    executor, told = executor_on(monkeypatch, {"n": [agent]}, sockets_open=True)
    assert outcomes(run(executor, laid_out(tmp_path / "job")))["key"].status == "ok"
    assert told == []


def test_a_machine_without_the_pictures_is_named_and_the_job_goes_elsewhere(monkeypatch, tmp_path):
    without = FakeAgent(refusal="/pictures is not there, or holds other files")
    with_them = FakeAgent([[done(1)]])
    machines = {"n": [without], "m": [with_them]}
    executor, told = executor_on(monkeypatch, machines, jobs=2)
    assert outcomes(run(executor, laid_out(tmp_path / "job")))["key"].status == "ok"
    assert told == ["far cannot take part: /pictures is not there, or holds other files"]


def test_a_machine_that_is_refused_is_heard_no_more(monkeypatch, tmp_path):
    """Its other agent has just ended a job, which is given to another machine all the same."""
    busy = FakeAgent([[], [done(1)]])
    late = FakeAgent(greeting=facts(plugins={}))
    spare = FakeAgent([[done(1)]])
    executor, _ = executor_on(monkeypatch, {"n": [busy, late, late]})
    executor.wait(0)
    executor.start(laid_out(tmp_path / "job"))
    executor.wait(0)
    executor.jobs = 2
    executor._keep_slots()
    executor._slots.reverse()  # so the late one is heard first
    executor._cluster.machines["m"] = [spare]
    events = run(executor)
    assert [event.key for event in events if isinstance(event, Done)] == ["key"]
    assert len(spare.started) == 1


def test_a_machine_where_no_agent_begins_is_given_up(monkeypatch):
    class Stillborn(FakeAgent):
        def greet(self, device):
            raise ActorDiedError("its disk is full")

    executor, _ = executor_on(monkeypatch, {"n": [Stillborn()]})
    with pytest.raises(UsageError, match="no agent begins there: its disk is full"):
        run(executor)


def test_a_job_that_cannot_be_read_fails_by_itself(monkeypatch, tmp_path):
    executor, _ = executor_on(monkeypatch, {"n": [FakeAgent()]})
    job = laid_out(tmp_path / "job")
    (job.folder / "in" / "model.safetensors").unlink()
    (job.folder / "in" / "model.safetensors").symlink_to(tmp_path)
    monkeypatch.setattr(
        "kdbench.bench.work.remote.bundle.file_digest",
        lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")),
    )
    outcome = outcomes(run(executor, job))["key"]
    assert (outcome.status, outcome.reason) == ("failed", "cannot be sent: Input/output error")
