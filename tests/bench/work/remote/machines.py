"""Real Ray clusters of this machine, whose processes play several machines, and runs on them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.failing_plugin import TINY

#: What differs between two runs of the same numbers.
ABOUT_THE_MACHINE = ["wall_s", "peak_mem_mb"]
#: One training that leaves checkpoints for a while, and many short ones.
_LONG = ("--set", "clean.epochs=200", "--checkpoint-every", "0.2")
#: Seconds after which a run that hangs is a failure, however slow the machine.
PATIENCE_S = 600
_ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Node:
    """A machine of a cluster that computes."""

    name: str
    raylet: int


class Machines:
    """A cluster of a head that computes nothing, and of nodes that can be added and killed.

    Args:
        environment: of its processes, beside this process's.

    Attributes:
        address: of its head.
        nodes: those that live.
    """

    def __init__(self, **environment):
        self._host = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.work.remote.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env={**_environment(), "RAY_USAGE_STATS_ENABLED": "0", **environment},
        )
        self.address, self.nodes = self._answer(), []

    def add(self, cpus=1, **environment) -> Node:
        """A further node. Environment: of its processes, beside the cluster's."""
        self.nodes.append(Node(*self._order(what="add", cpus=cpus, environment=environment)))
        return self.nodes[-1]

    def kill(self, node: Node) -> None:
        """SIGKILL all processes of a node."""
        self._order(what="kill", node=node.name)
        self.nodes.remove(node)

    def close(self) -> None:
        self._host.communicate(timeout=PATIENCE_S)

    def _order(self, **order):
        print(json.dumps(order), file=self._host.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._host.stdout.readline()
        assert line, "the cluster has ended"
        return json.loads(line)

    def run(self, folder, *arguments, unseen=False, **environment) -> Run:
        """Start a tiny run on the cluster. It knows of the cluster what its environment says."""
        on = ("--on", f"ray:{self.address}")
        return Run(folder, *on, *arguments, unseen=unseen, **environment)


def _environment():
    """This process's, without what Ray would read."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


class Run:
    """A tiny run, as a process of its own, with a store of its own in its folder.

    Args:
        unseen: no other process sees the store, not even those that play machines. They would read
            it as a folder that all share.

    Its first stage takes long enough to be hit in the middle, and leaves checkpoints.

    Attributes:
        lines: all that it has printed so far.
    """

    def __init__(self, folder, *arguments, unseen=False, **environment):
        folder.mkdir(exist_ok=True)
        environment = {"KDBENCH_STORE": str(folder / "store"), **environment}
        out = ("--out", str(folder / "out"))
        self.folder, self.lines = folder, []
        self._process = subprocess.Popen(
            [
                *(_unseen(folder / "store") if unseen else ()),
                *(sys.executable, "-m", "kdbench", *TINY, *_LONG, *arguments, "--json", *out),
            ],
            env={**_environment(), "PYTHONUNBUFFERED": "1", **environment},
            cwd=folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A group of its own, as a shell gives it. Ctrl-C goes to all of it.
            start_new_session=True,
        )

    def __iter__(self):
        """The lines that it prints from now on."""
        for line in self._process.stdout:
            self.lines.append(line)
            yield line

    def wait_for_checkpoint(self) -> None:
        """Until a checkpoint has come back from a machine, which computes then."""
        until = time.monotonic() + PATIENCE_S
        while not self._checkpoints():
            assert time.monotonic() < until, "no checkpoint came"
            assert self._process.poll() is None, "".join(self)
            time.sleep(0.05)

    def _checkpoints(self) -> bool:
        # os.walk says nothing of folders that go away meanwhile.
        found = os.walk(self.folder / "store" / "jobs")
        return any(Path(folder).name == "checkpoints" and files for folder, _, files in found)

    def line_with(self, text: str) -> str:
        """The next line with a text."""
        for line in self:
            if text in line:
                return line
        raise AssertionError(f"no line with {text!r}:\n{self.text}")

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self, code: int = 0) -> str:
        """All that it printed, once it has ended with a code."""
        for _ in self:
            pass
        self._process.stdout.close()
        assert self._process.wait(PATIENCE_S) == code, self.text
        return self.text

    @contextlib.contextmanager
    def ended(self):
        """Kill it at the end, in case that a test fails."""
        try:
            yield self
        finally:
            self._process.kill()
            self._process.wait()


def _unseen(store: Path) -> tuple[str, ...]:
    """What to put before a command whose store is to lie in a file system of its own."""
    store.mkdir()
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    alone = ("unshare", "--mount", *user)
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no mount namespace")
    return (*alone, "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(store))


def numbers(folder):
    """The results of a run without what depends on the machine."""
    return pd.read_csv(folder / "out" / "results.csv").drop(columns=ABOUT_THE_MACHINE)


# -- processes -------------------------------------------------------------------------------------


def agents(node: Node) -> list[int]:
    """The processes of a node that compute for runs."""
    return [pid for pid in _below(node.raylet) if _told(pid).startswith(b"ray::Agent")]


def family(node: Node) -> dict[int, str]:
    """(number, start) of its agents and of all that began below them: what forks, and jobs."""
    found = {}
    for agent in agents(node):
        for pid in (agent, *_below(agent)):
            if began := _began(pid):
                found[pid] = began
    return found


def wait_for_job(*nodes: Node) -> Node:
    """The one of several machines that computes a job. Waits until there is one."""
    until = time.monotonic() + PATIENCE_S
    while not (computing := [node for node in nodes if _computes(node)]):
        assert time.monotonic() < until, "nobody computes"
        time.sleep(0.05)
    return computing[0]


def _computes(node: Node) -> bool:
    """Whether an agent is asked for news, as it is only while it has a job."""
    return any(_told(agent).startswith(b"ray::Agent.poll") for agent in agents(node))


def wait_until_gone(processes: dict[int, str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while left := {pid: _told(pid) for pid, began in processes.items() if _began(pid) == began}:
        assert time.monotonic() < until, left
        time.sleep(0.1)


def _below(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        if facts := _facts(int(name)):
            children.setdefault(int(facts[1]), []).append(int(name))
    found, left = [], [pid]
    while left:
        more = children.get(left.pop(), [])
        found += more
        left += more
    return found


def _facts(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third one on. Empty: it is gone, or ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def _began(pid: int) -> str:
    facts = _facts(pid)
    return facts[19] if facts else ""


def _told(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def stopped(*processes: int):
    """Let processes stand still."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
