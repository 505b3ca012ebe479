"""``make soak``: a cluster whose machines die all the time, one after the other."""

from __future__ import annotations

import random
import signal
import time

import pandas as pd
import pytest

from tests.bench.work.remote.machines import (
    Machines,
    Run,
    agents,
    family,
    numbers,
    stopped,
    wait_for_job,
    wait_until_gone,
)
from tests.sizes import SOAK

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not SOAK, reason="takes many minutes; set KDBENCH_SOAK=1")

CELLS, KILLS, STAGES = 24, 10, 13
#: Stages of the run's 312 at whose ends a machine dies. Fixed, and in no order with anything.
MOMENTS = sorted(random.Random(20).sample(range(2, (CELLS - 1) * STAGES), KILLS))


@pytest.fixture
def cluster():
    made = Machines()
    yield made
    made.close()


def test_no_cell_is_lost_or_wrong_when_machines_die_at_ten_moments(cluster, tmp_path):
    many = ("--seeds", str(CELLS), "--set", "clean.epochs=1")
    for _ in range(2):
        cluster.add()
    chosen, ended = random.Random(21), 0
    killed: list[float] = []
    lost: list[float] = []
    with cluster.run(tmp_path / "far", *many, "--jobs", "2").ended() as run:
        for line in run:
            if "was lost" in line:
                lost.append(time.monotonic())
            ended += '"stage_finished"' in line
            if ended in MOMENTS[len(killed) : len(killed) + 1]:
                killed.append(time.monotonic())
                cluster.kill(chosen.choice(cluster.nodes))
                cluster.add()
        text = run.end()
    assert len(killed) == KILLS, text
    costs = [round(min(at - moment for moment in killed if moment < at), 1) for at in lost]
    print(
        f"\n{KILLS} machines died, {len(lost)} of them with a stage, which went on after {costs} s"
    )
    with Run(tmp_path / "near", *many).ended() as run:
        run.end()
    found = numbers(tmp_path / "far")
    assert len(found) == CELLS
    assert set(found["status"]) == {"ok"}, text
    pd.testing.assert_frame_equal(found, numbers(tmp_path / "near"))


def test_a_machine_that_stands_still_for_a_moment_costs_nothing(cluster, tmp_path):
    """All its processes do, so the head hears nothing of it."""
    node = cluster.add()
    with cluster.run(tmp_path / "far").ended() as run:
        run.wait_for_checkpoint()
        with stopped(node.raylet, *family(node)):
            time.sleep(8)
        text = run.end()
    assert "was lost" not in text, text
    with Run(tmp_path / "near").ended() as run:
        run.end()
    pd.testing.assert_frame_equal(numbers(tmp_path / "far"), numbers(tmp_path / "near"))


@pytest.mark.parametrize(
    ("signals", "waits"),
    [
        ([signal.SIGTERM], 0.0),
        ([signal.SIGINT], 0.0),
        *(([signal.SIGINT, signal.SIGINT], waits) for waits in (0.02, 0.1, 1.0)),
        ([signal.SIGINT, signal.SIGTERM], 0.1),
    ],
)
def test_whoever_ends_a_run_leaves_no_process(cluster, tmp_path, signals, waits):
    node = cluster.add()
    with cluster.run(tmp_path).ended() as run:
        wait_for_job(node)
        processes = family(node)
        for number in signals:
            run.signal(number)
            time.sleep(waits)
        text = run.end(130)
    wait_until_gone(processes)
    assert agents(node) == []
    assert "To go on:" in text
    assert "Traceback" not in text, text


def test_when_no_machine_can_take_part_the_run_ends_with_code_2(cluster, tmp_path):
    from tests import failing_plugin

    cluster.add()
    site = failing_plugin.plant(tmp_path)  # the command has the plugin, and the machine has not
    with cluster.run(tmp_path / "run", PYTHONPATH=str(site)).ended() as run:
        text = run.end(2)
    assert "no machine of the cluster can take part: " in text
    assert "it lacks the plugin failing" in text
