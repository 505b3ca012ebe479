"""A cluster without machines: agents are objects of this process, and their answers are there at
once, or never."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

from kdbench.bench.work.executors.ray import RayExecutor
from kdbench.bench.work.executors.slots import Slots
from kdbench.bench.work.remote import node
from kdbench.errors import UsageError


class RayError(Exception):
    pass


class ActorUnavailableError(RayError):
    pass


class ActorDiedError(RayError):
    pass


class RaySystemError(RayError):
    pass


EXCEPTIONS = SimpleNamespace(
    RayError=RayError,
    ActorUnavailableError=ActorUnavailableError,
    ActorDiedError=ActorDiedError,
    RaySystemError=RaySystemError,
)


class Silence(Exception):
    """No answer comes."""


class Answer:
    """What a call will give: a value, an exception, or nothing ever."""

    def __init__(self, call):
        self.value = self.error = None
        self.comes = True
        try:
            self.value = call()
        except RayError as error:
            self.error = error
        except Silence:
            self.comes = False


class FakeRay:
    exceptions = EXCEPTIONS

    @staticmethod
    def get(answer, timeout=None):
        if answer.error is not None:
            raise answer.error
        return answer.value

    @staticmethod
    def put(value):
        return value

    @staticmethod
    def wait(answers, num_returns=1, timeout=None):
        return [answer for answer in answers if answer.comes], []

    @staticmethod
    def kill(agent):
        agent.killed = True


class Remote:
    """An agent as its caller sees it: ``agent.poll.remote(...)``."""

    def __init__(self, agent):
        self.agent = agent
        self.killed = False

    def __getattr__(self, name):
        method = getattr(self.agent, name)
        return SimpleNamespace(remote=lambda *arguments: Answer(lambda: method(*arguments)))


def facts(**changes):
    """Of a machine that may take part."""
    values = {
        "host": "far",
        "code": {"kdbench": "1"},
        "plugins": {"lba": "digest"},
        "processor": "AVX2",
        "card": "",
        "wall": "namespaces",
        "reached": [],
    }
    return {**values, **changes}


class FakeAgent:
    """Answers what a test told it. What it raises is what the cluster would raise."""

    def __init__(self, told=(), greeting=None, refusal=""):
        #: Lists of events, one an answer. An exception in its place is raised.
        self.told = list(told)
        self.greeting, self.refusal = greeting or facts(), refusal
        self.blobs, self.started, self.heard = {}, [], []
        #: What of a file has come, and further pieces of those that it announces.
        self.coming, self.pieces = b"", []

    def greet(self, device):
        return self.greeting

    def missing(self, wanted):
        return [digest for digest in wanted if digest not in self.blobs]

    def keep(self, digest, piece, last):
        self.coming += piece
        if last:
            assert hashlib.sha256(self.coming).hexdigest() == digest
            self.blobs[digest], self.coming = self.coming, b""

    def more(self, name, offset):
        answer = self.pieces.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def start(self, records):
        if not self.refusal:
            self.started.append(records)
        return self.refusal

    def poll(self, heard, timeout):
        self.heard.append(heard)
        answer = self.told.pop(0) if self.told else []
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        pass


class FakeCluster:
    """Machines, each with a list of agents that begin one after the other."""

    device = "cpu"

    def __init__(self, machines):
        self.machines = {name: list(agents) for name, agents in machines.items()}
        self.begun, self.closed = [], False

    def knock(self):
        return ""

    def share(self, jobs, numerics):
        if jobs and jobs > 2:
            raise UsageError("no room")
        return Slots(jobs or 1, jobs or 1)

    def nodes(self):
        return [{"NodeID": name, "Alive": True} for name in self.machines]

    def room(self, machine):
        return len(self.machines[machine["NodeID"]])

    def agent(self, machine):
        remote = Remote(self.machines[machine][0])
        if len(self.machines[machine]) > 1:
            self.machines[machine].pop(0)
        self.begun.append((machine, remote))
        return remote

    def kill(self, agent):
        agent.killed = True

    def close(self, agents):
        self.closed = True


def executor_on(monkeypatch, machines, jobs=1, **options):
    """An executor on made-up machines, and what it told."""
    told = []
    monkeypatch.setattr("kdbench.bench.work.executors.ray.import_ray", lambda: FakeRay)
    monkeypatch.setattr("kdbench.bench.work.executors.ray._LOOK_S", 0.0)
    monkeypatch.setattr("kdbench.bench.work.executors.ray._AGAIN_S", 0.0)
    here = node.NodeFacts.from_json(facts(host="here"))
    monkeypatch.setattr("kdbench.bench.work.executors.ray.facts_here", lambda device: here)
    plugins = {"lba": "digest"}
    executor = RayExecutor(None, None, lambda: plugins, 1.0, told.append, **options)
    executor._cluster = FakeCluster(machines)
    executor.use(jobs)
    return executor, told
