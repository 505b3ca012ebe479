"""A defense that cheats on a machine of a real Ray cluster, and what it finds there.

The head, the machine and the command are processes of one computer. So everything that a defense
must not reach is really there, under the paths that it has.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from kdbench.bench.work.remote.blobs import AgentFolder
from tests.bench.work.remote.without_walls import WITHOUT
from tests.failing_plugin import TINY
from tests.hostile.outside import namespaces

pytest.importorskip("ray")

HERE = Path(__file__).parent
#: Seconds after which a run that hangs is a failure, however slow the machine.
PATIENCE_S = 600
SOCKETS = {
    "a socket by its path",
    "a socket out of the kernel's table",
    "the head by another protocol",
    "the head's port in the kernel's table",
}
#: As far as every kernel has it.
ANYTHING = SOCKETS | {
    "a socket by listing",
    "the head",
    "files of agents by listing",
    "a blob by its path",
    "a file of another job by its path",
    "shared memory by listing",
    "shared memory by its name",
    "the token's file",
    "the token in an environment",
    "the store",
    "the command's folder",
}


@contextlib.contextmanager
def a_cluster(token):
    """Its one machine has the token in its environment, as one with authentication has."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    try:
        yield made, made.add_node(num_cpus=1, env_vars={"RAY_AUTH_TOKEN": token}, **memory)
    finally:
        made.shutdown()


@contextlib.contextmanager
def a_neighbour():
    """What an agent of another run keeps on the machine, with a job."""
    folder = AgentFolder(secrets.token_hex(8), "node")
    digest = hashlib.sha256(b"bytes").hexdigest()
    folder.keep(digest, b"bytes", last=True)
    job = folder.new_job()
    job.mkdir(mode=0o700)
    (job / "model.safetensors").write_bytes(b"a network")
    segment = Path("/dev/shm", f"kdbench-test-{secrets.token_hex(8)}")
    segment.write_bytes(b"images")
    yield {
        "agents": str(folder.shared.parent),
        "blob": str(folder.path(digest)),
        "job": str(job / "model.safetensors"),
        "segment": segment.name,
    }
    segment.unlink()
    folder.close()


def run(folder, cluster, hints):
    """Rows by defense."""
    text, empty = (HERE / "cheating.py").read_text(), "\nHINTS: dict[str, Any] = {}\n"
    assert empty in text
    (folder / "cheating.py").write_text(text.replace(empty, f"\nHINTS = {hints!r}\n"))
    arguments = [*TINY, "--no-controls", "--on", f"ray:{cluster.address}", "--out", "out"]
    arguments += ["--plugin-file", "cheating.py"]
    arguments += [f"--defense=cheat.{name}" for name in ("walled", *WITHOUT)]
    ran = subprocess.run(
        [sys.executable, str(HERE / "without_walls.py"), *arguments],
        env={**os.environ, "KDBENCH_STORE": hints["store"], "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (folder / "out" / "results.csv").exists(), ran.stdout + ran.stderr
    table = pd.read_csv(folder / "out" / "results.csv")
    return {row["defense"].partition(".")[2]: row for row in table.to_dict("records")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the same defense finds, by the wall around it."""
    folder, token = tmp_path_factory.mktemp("command"), secrets.token_hex(32)
    (folder / "token").write_text(token)
    with a_cluster(token) as (cluster, node), a_neighbour() as neighbour:
        host, _, port = cluster.address.rpartition(":")
        hints = {
            "session": node.get_session_dir_path(),
            "sockets": [node.raylet_socket_name, node.plasma_store_socket_name],
            "head": (host, int(port)),
            "token": token,
            "token_file": str(folder / "token"),
            "store": str(folder / "store"),
            "folder": str(folder),
            **neighbour,
        }
        rows = run(folder, cluster, hints)
    told = {name: re.search(r"FOUND\[(.*)\]", row["reason"]) for name, row in rows.items()}
    assert all(told.values()), {name: row["reason"] for name, row in rows.items()}
    return {name: set(filter(None, match[1].split("; "))) for name, match in told.items()}


@pytest.mark.skipif(not namespaces(), reason="this kernel gives a process no namespaces of its own")
def test_a_defense_on_a_node_finds_nothing(found):
    assert found["walled"] == set()


def test_without_namespaces_it_finds_that_the_head_has_a_port(found):
    assert found["contained"] <= {"the head's port in the kernel's table"}


def test_without_what_closes_sockets_it_finds_them(found):
    assert found["connected"] >= SOCKETS


def test_without_a_wall_it_finds_everything(found):
    assert found["bare"] >= ANYTHING
