"""Jobs on a Ray cluster: each slot is an agent on one machine, which runs a job as its own.

The coordinator plans, holds the store, the locks and the tables, and sends jobs as bytes. Ray
starts agents, carries calls and says who died. It is never asked to try again by itself, since it
would begin from nothing and say nothing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from kdbench.bench.work.executors.local import JobLimits
from kdbench.bench.work.executors.slots import Slots
from kdbench.bench.work.job import Done, Job, Outcome, Progressed
from kdbench.bench.work.remote.agent import Event
from kdbench.bench.work.remote.bundle import Packer, beside
from kdbench.bench.work.remote.cluster import Cluster, first_line, gone, import_ray
from kdbench.bench.work.remote.node import NodeFacts, differences, facts_here, wall_gap
from kdbench.bench.work.remote.parcels import Parcel, pieces, receive
from kdbench.bench.work.report import NonsenseError, check_facts
from kdbench.errors import UsageError
from kdbench.training import Step
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from kdbench.numerics import Numerics

#: How often a job is begun again whose machine was lost.
TRIES = 3
#: Seconds for which an agent is asked that does not answer: a network may be away for a moment.
_AWAY_S = 20.0
#: Seconds between two such questions.
_AGAIN_S = 2.0
#: Seconds that an agent waits for news before it answers that there is none.
_POLL_S = 0.25
#: Seconds for which an agent that lives may say nothing. Its machine may be busy.
_SILENT_S = 600.0
#: Seconds for a short question, and for one that moves bytes.
_ANSWER_S, _SEND_S = 60.0, 600.0
#: Seconds between two looks at which machines there are.
_LOOK_S = 2.0
#: Seconds without any agent after which it is said what is waited for.
_PATIENCE_S = 30.0

_OUTCOME = TypeAdapter(Outcome)
_FIELDS = {each.name for each in fields(Outcome)}


@dataclass(eq=False)
class _Slot:
    """An agent, and what it does."""

    actor: Any
    node: str
    #: The answer to its greeting, on its way. None: it came.
    greeting: Any
    host: str = "a node"
    job: Job | None = None
    #: Keys of the job, and of those beside it, that have not ended.
    left: set[str] = field(default_factory=set)
    #: Number of the last event that was heard.
    heard: int = 0
    #: The answer to a question for news, on its way, and since when.
    asked: Any = None
    asked_at: float = 0.0
    #: Since when it does not answer.
    away_since: float | None = None
    ask_again_at: float = 0.0

    @property
    def idle(self) -> bool:
        return self.greeting is None and self.job is None

    def jobs(self) -> list[Job]:
        """Those that have not ended."""
        if self.job is None:
            return []
        return [one for one in (self.job, *self.job.beside) if one.key in self.left]


class RayExecutor:
    """Computes jobs on the machines of a Ray cluster.

    Args:
        address: ``HOST:PORT`` of its head. None: RAY_ADDRESS, or the cluster of this machine.
        limits: of each job.
        plugins: gives plugin -> digest of those that jobs may need.
        checkpoint_s: seconds between two looks for checkpoints.
        mixed: machines with another processor or card may take part.
        sockets_open: machines may take part whose wall leaves sockets open.
        tell: takes what whoever asks should know.
    """

    apart = True
    here = False

    def __init__(
        self,
        address: str | None,
        limits: JobLimits,
        plugins: Callable[[], Mapping[str, str]],
        checkpoint_s: float,
        tell: Callable[[str], object],
        *,
        mixed: bool = False,
        sockets_open: bool = False,
    ) -> None:
        self.jobs = 0
        self._cluster = Cluster(address, limits, checkpoint_s)
        self._plugins = plugins
        self._tell = tell
        self._mixed, self._sockets_open = mixed, sockets_open
        self._packer = Packer()
        self._slots: list[_Slot] = []
        self._queue: list[Job] = []
        self._events: list[Progressed | Done] = []
        self._tries: dict[str, int] = {}
        #: Node -> why it takes no part.
        self._unfit: dict[str, str] = {}
        #: Node -> how many of its agents ended before they had answered.
        self._stillborn: Counter[str] = Counter()
        self._next_look, self._alone_since = 0.0, time.monotonic()
        self._here: NodeFacts | None = None

    def share(self, jobs: int | None, numerics: Numerics) -> Slots:
        return self._cluster.share(jobs, numerics)

    def use(self, jobs: int, devices: tuple[str, ...] = ()) -> None:
        self.jobs = jobs
        self._here = facts_here(self._cluster.device)
        self._keep_slots()

    def warm_up(self) -> None:
        """Refuse now what would be refused once everything else is ready."""
        if known := self._cluster.knock():
            self._tell(known)

    def free(self) -> int:
        return max(0, sum(slot.idle for slot in self._slots) - len(self._queue))

    def start(self, job: Job) -> None:
        self._queue.append(job)
        self._give()

    def wait(self, timeout: float) -> list[Progressed | Done]:
        ray = import_ray()
        self._keep_slots()
        self._give()
        waiting = self._ask()
        if not waiting:
            time.sleep(0 if self._events else min(timeout, _POLL_S))
        else:
            patience = 0 if self._events else min(timeout, _LOOK_S)
            try:
                ray.wait(list(waiting), num_returns=1, timeout=patience)
                ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
            except (ray.exceptions.RaySystemError, OSError) as error:
                raise gone(error) from error
            for ref in ready:
                # One that was dropped meanwhile speaks of a job that waits for another.
                if waiting[ref] in self._slots:
                    self._hear(waiting[ref], ref)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._cluster.close([slot.actor for slot in self._slots])
        self._slots.clear()

    # -- agents --------------------------------------------------------------------------------

    def _keep_slots(self) -> None:
        """Begin as many agents as are wanted, on machines that have room."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        nodes = {node["NodeID"]: self._cluster.room(node) for node in self._cluster.nodes()}
        room = {
            name: most - sum(slot.node == name for slot in self._slots)
            for name, most in nodes.items()
            if name not in self._unfit
        }
        while len(self._slots) < self.jobs and any(left > 0 for left in room.values()):
            name = max(room, key=lambda name: room[name])
            room[name] -= 1
            actor = self._cluster.agent(name)
            greeting = actor.greet.remote(self._cluster.device)
            self._slots.append(_Slot(actor, name, greeting))
        self._check_anybody({name for name, most in nodes.items() if most > 0})

    def _check_anybody(self, nodes: set[str]) -> None:
        """Say so when no machine that has room can compute. Raise where none ever will."""
        if any(slot.greeting is None for slot in self._slots):
            self._alone_since = time.monotonic()
        elif not self._slots and nodes and nodes <= self._unfit.keys():
            reasons = "; ".join(self._unfit.values())
            raise UsageError(f"--on ray: no machine of the cluster can take part: {reasons}")
        elif time.monotonic() - self._alone_since > _PATIENCE_S:
            self._alone_since = time.monotonic()
            self._tell(
                f"no machine of the cluster has answered for {_PATIENCE_S:g} s; others may use its "
                "cores. It goes on when one is free; Ctrl-C is safe"
            )

    # -- jobs ----------------------------------------------------------------------------------

    def _give(self) -> None:
        """Send jobs that wait to agents that do nothing."""
        for slot in [slot for slot in self._slots if slot.idle]:
            if not self._queue:
                return
            if slot in self._slots:  # its machine may have been refused meanwhile
                self._send(slot, self._queue.pop(0))

    def _send(self, slot: _Slot, job: Job) -> None:
        ray = import_ray()
        try:
            bundle = self._packer.pack(job)
        except OSError as error:
            outcome = Outcome("failed", f"cannot be sent: {error.strerror or error}")
            self._events += [Done(one.key, outcome) for one in (job, *job.beside)]
            return
        slot.job, slot.left = job, {one.key for one in (job, *job.beside)}
        actor = slot.actor
        try:
            wanted = {digest: str(path) for digest, path in bundle.blobs.items()}
            for digest in ray.get(actor.missing.remote(wanted), timeout=_SEND_S):
                for piece, last in pieces(bundle.blobs[digest]):
                    ray.get(actor.keep.remote(digest, piece, last), timeout=_SEND_S)
            refusal = ray.get(actor.start.remote(bundle.records), timeout=_ANSWER_S)
        except (ray.exceptions.RayError, OSError) as error:
            self._lose(slot, first_line(error))
            return
        if refusal:
            slot.job = None
            self._queue.insert(0, job)
            self._refuse(slot, refusal)

    def _ask(self) -> dict[Any, _Slot]:
        """The answers that are on their way, and of whom."""
        now = time.monotonic()
        for slot in list(self._slots):
            if slot.asked is not None and now - slot.asked_at > _SILENT_S:
                self._lose(slot, f"it has said nothing for {_SILENT_S:g} s")
            elif slot.job is not None and slot.asked is None and now >= slot.ask_again_at:
                slot.asked, slot.asked_at = slot.actor.poll.remote(slot.heard, _POLL_S), now
        answers = ((slot.greeting or slot.asked, slot) for slot in self._slots)
        return {ref: slot for ref, slot in answers if ref is not None}

    def _hear(self, slot: _Slot, ref: Any) -> None:
        ray = import_ray()
        try:
            answer = ray.get(ref)
            if ref == slot.greeting:
                slot.greeting = None
                self._meet(slot, NodeFacts.from_json(answer))
            else:
                slot.asked = None
                for event in answer:
                    self._take(slot, event)
            slot.away_since = None
        except ray.exceptions.ActorUnavailableError as error:
            self._miss(slot, error)
        except ray.exceptions.RayError as error:
            self._lose(slot, first_line(error))
        except (NonsenseError, ValidationError, LookupError, TypeError, ValueError) as error:
            self._finish(slot, Outcome("crashed", f"its node answered nonsense: {error}"))
            self._lose(slot, "it answered nonsense")

    def _miss(self, slot: _Slot, error: Exception) -> None:
        """Ask an agent again later that does not answer, but not for ever."""
        slot.asked, now = None, time.monotonic()
        slot.away_since = slot.away_since or now
        slot.ask_again_at = now + _AGAIN_S
        if slot.greeting is not None or now - slot.away_since > _AWAY_S:
            self._lose(slot, first_line(error))

    def _meet(self, slot: _Slot, facts: NodeFacts) -> None:
        assert self._here is not None
        slot.host = strip_control(facts.host)
        reasons = differences(self._here, facts, self._plugins(), mixed=self._mixed)
        if (gap := wall_gap(facts)) and not self._sockets_open:
            reasons.append(f"{gap} (--sockets-open lets it take part)")
        if reasons:
            self._refuse(slot, "; ".join(reasons))

    def _refuse(self, slot: _Slot, why: str) -> None:
        """Do without a machine."""
        why = strip_control(f"{slot.host} cannot take part: {why}")
        self._tell(why)
        self._unfit[slot.node] = why
        for other in [other for other in self._slots if other.node == slot.node]:
            self._drop(other)
            if other.job is not None:
                self._queue.insert(0, beside(other.jobs()))
        self._next_look = 0.0

    def _take(self, slot: _Slot, event: Event) -> None:
        number, what, key, values, files = event
        job = next((one for one in slot.jobs() if one.key == key), None)
        if job is None:
            raise NonsenseError("an event of a job that it has not")
        if what == "step":
            self._events.append(Progressed(key, Step(**values)))
        elif what == "checkpoint":
            self._receive(slot, job, files)
        elif what == "done":
            outcome = _outcome(job, values)
            self._receive(slot, job, files)
            slot.left.discard(key)
            self._events.append(Done(key, outcome))
            if not slot.left:
                slot.job = None
        else:
            raise NonsenseError(f"an event {what!r}")
        # Not before: what was lost on the way is asked for again.
        slot.heard = max(slot.heard, int(number))

    def _receive(self, slot: _Slot, job: Job, files: Mapping[str, Parcel]) -> None:
        ray = import_ray()

        def more(name: str, offset: int) -> bytes:
            piece: bytes = ray.get(slot.actor.more.remote(name, offset), timeout=_SEND_S)
            return piece

        for path, parcel in files.items():
            receive(job, path, parcel, more)

    def _finish(self, slot: _Slot, outcome: Outcome) -> None:
        """End what is left of a slot's job."""
        self._events += [Done(one.key, outcome) for one in slot.jobs()]
        slot.left.clear()
        slot.job = None

    def _lose(self, slot: _Slot, why: str) -> None:
        """Do without an agent. Its job goes on elsewhere, at its newest checkpoint."""
        if slot.greeting is not None:
            self._stillborn[slot.node] += 1
            if self._stillborn[slot.node] >= TRIES:
                self._refuse(slot, f"no agent begins there: {why}")
                return
        self._drop(slot)
        self._next_look = 0.0
        jobs = slot.jobs()
        if not jobs:
            return
        tries = self._tries[jobs[0].key] = self._tries.get(jobs[0].key, 0) + 1
        if tries >= TRIES:
            self._finish(slot, Outcome("crashed", f"its node was lost {tries} times; last: {why}"))
            return
        self._tell(strip_control(f"{slot.host} was lost ({why}); its stage goes on elsewhere"))
        self._queue.insert(0, beside(jobs))

    def _drop(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        self._cluster.kill(slot.actor)


def _outcome(job: Job, values: dict[str, Any]) -> Outcome:
    """How a job ended, as its machine says.

    Raises:
        ValueError: it cannot have ended so.
    """
    if values.keys() != _FIELDS:
        raise NonsenseError("an outcome with other fields")
    json.dumps(values, allow_nan=False)
    outcome = _OUTCOME.validate_python(values)
    if outcome.status == "ok":
        check_facts(job.kind, job.task.get("inputs", ()), outcome.facts)
    return outcome
