"""The rest of the machine: its network, memory, keys, processes and files."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import RIVALS
from tests.hostile.outside import (
    Listeners,
    busy,
    namespaces,
    segment,
    shared_memory,
    user_key,
    victim,
)
from tests.hostile.running import Acts, Ground, copied, ended_well, snapshot

pytestmark = pytest.mark.skipif(
    not namespaces(),
    reason="this kernel gives a process no namespaces, so less is out of its reach",
)


ACTS = [
    "network",
    "memory_of_others",
    "letter",
    "keyring",
    "files_of_others",
    "watch",
    "about_the_machine",
    "other_processes",
]


@dataclass
class Machine:
    """What the tests look at when the runs are over."""

    acts: Acts
    listeners: Listeners
    segment: Path
    shared: Any
    victim: Any
    key: str


@pytest.fixture(scope="module")
def machine(honest_ground, honest, tmp_path_factory):
    ground = copied(Ground(tmp_path_factory.mktemp("m")), honest_ground.store)
    with ExitStack() as stack:
        listeners = Listeners(ground.folder)
        stack.callback(listeners.close)
        shm_key, shared = stack.enter_context(shared_memory())
        path = stack.enter_context(segment())
        key = stack.enter_context(user_key())
        other = stack.enter_context(victim())
        stack.enter_context(busy(ground.folder))
        ground.hints |= {
            "addresses": listeners.addresses,
            "shm_key": shm_key,
            "segment": path.name,
            "key": key,
            "victim": other.pid,
            "network": os.readlink("/proc/self/ns/net"),
            "watched": str(ground.folder),
        }
        names = [f"red.{name}" for name in ACTS]
        acts = Acts(ground, "system", names, beside=tuple(RIVALS))
        yield Machine(acts, listeners, path, shared, other, key)


@pytest.mark.parametrize("act", ACTS)
def test_a_job_reaches_none_of_it(machine, honest, act):
    if act == "keyring" and not machine.key:
        pytest.skip("this kernel gives the user no keyring")
    run = machine.acts.of(f"red.{act}")
    assert ended_well(run), run.tail
    row = run.rows[f"red.{act}"]
    assert row["status"] == "ok", row["reason"]
    assert {name: run.rows[name] for name in RIVALS} == honest.rows


def test_nobody_heard_of_it(machine):
    machine.acts.of("red.network")
    assert machine.listeners.heard == set()


def test_memory_of_others_is_as_it_was(machine):
    machine.acts.of("red.memory_of_others")
    assert machine.shared() == b"the user's"
    assert machine.segment.read_text() == "the user's"
    assert list(machine.segment.parent.glob(f"{machine.segment.name}*")) == [machine.segment]


def test_another_process_of_the_user_is_as_it_was(machine):
    machine.acts.of("red.other_processes")
    pid = machine.victim.pid
    assert machine.victim.poll() is None
    assert Path(f"/proc/{pid}/limits").read_text() == Path("/proc/self/limits").read_text()
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    assert os.sched_getscheduler(pid) == os.sched_getscheduler(0)


def test_files_of_the_user_are_as_they_were(machine):
    run = machine.acts.of("red.files_of_others")
    assert snapshot(run.ground.user) == run.ground.untouched
    assert run.ground.store.stat().st_mode & 0o777 != 0o777
