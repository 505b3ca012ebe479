"""A run on a real Ray cluster of this machine: three of its processes play three machines.

One run has a store that the machines cannot see, so that all bytes travel. The other runs share
theirs with the machines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from tests.failing_plugin import TINY

pytest.importorskip("ray")

#: What differs between two runs of the same numbers.
ABOUT_THE_MACHINE = ["wall_s", "peak_mem_mb"]
#: Seconds after which a run that hangs is a failure, however slow the machine.
PATIENCE_S = 600


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 100 << 20, "include_dashboard": False}
    # Its sockets lie below, and their paths may have no more than 107 characters.
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    made.add_node(num_cpus=1, **memory)
    yield made
    made.shutdown()


def command(folder, *arguments):
    environment = {**os.environ, "KDBENCH_STORE": str(folder / "store"), "PYTHONUNBUFFERED": "1"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0"}
    kdbench = [sys.executable, "-m", "kdbench", *TINY, *arguments, "--out", str(folder / "out")]
    return {"args": kdbench, "env": environment, "cwd": folder, "text": True}


def unseen(called, folder):
    """A command whose store no other process sees: it lies in a file system of its own.

    The machines of the cluster are processes of this machine. They would read the store as a folder
    that all share.
    """
    store = folder / "store"
    store.mkdir()
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no mount namespace")
    script = 'mount -t tmpfs none "$0" && exec "$@"'
    return {**called, "args": [*alone, "sh", "-c", script, str(store), *called["args"]]}


def numbers(folder):
    return pd.read_csv(folder / "out" / "results.csv").drop(columns=ABOUT_THE_MACHINE)


@pytest.fixture(scope="module")
def local_numbers(tmp_path_factory):
    """Of a run on this machine alone."""
    folder = tmp_path_factory.mktemp("near")
    ran = subprocess.run(**command(folder), capture_output=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    return numbers(folder)


def test_a_run_has_the_local_run_s_numbers_where_no_machine_sees_its_store(
    cluster, tmp_path, local_numbers
):
    called = unseen(command(tmp_path, "--on", f"ray:{cluster.address}"), tmp_path)
    ran = subprocess.run(**called, capture_output=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    assert list((tmp_path / "store").iterdir()) == [], "a machine of the cluster saw the store"
    pd.testing.assert_frame_equal(numbers(tmp_path), local_numbers)


def test_a_run_on_a_cluster_has_the_local_run_s_numbers_even_when_machines_die(
    cluster, tmp_path, local_numbers
):
    on = ("--on", f"ray:{cluster.address}")
    extra = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    with subprocess.Popen(
        **command(tmp_path, *on, "--jobs", "2"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        lines = []
        for line in running.stdout:
            lines.append(line)
            if "| loss" in line and extra is not None:
                cluster.remove_node(extra, allow_graceful=False)
                extra = None
        assert running.wait(PATIENCE_S) == 0, "".join(lines)
    assert extra is None, "".join(lines)
    pd.testing.assert_frame_equal(numbers(tmp_path), local_numbers)


def test_a_run_that_is_interrupted_leaves_nothing_and_goes_on_without_the_cluster(
    cluster, tmp_path
):
    on = ("--on", f"ray:{cluster.address}", "--set", "clean.epochs=40000")
    with subprocess.Popen(
        **command(tmp_path, *on), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        lines = []
        for line in running.stdout:
            if "| step" in line and not any("| step" in earlier for earlier in lines):
                running.send_signal(signal.SIGTERM)
            lines.append(line)
        assert running.wait(PATIENCE_S) == 130, "".join(lines)
    assert "To go on:" in "".join(lines)
    until = time.monotonic() + PATIENCE_S
    while _agents() and time.monotonic() < until:
        time.sleep(0.2)
    assert _agents() == []


def _agents():
    """Processes that compute for a cluster."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                told = file.read()
        except OSError:
            continue
        if b"ray::Agent" in told:
            found.append(told)
    return found
