"""On a machine of a cluster: lays jobs out, lets them run as this machine's own, and tells.

The agent is an actor of the cluster, one for each job that runs at a time. The process of a job is
a child of the agent's own zygote, behind the same wall as everywhere. So it inherits nothing of the
cluster.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdbench.bench.work.executors.local import JobLimits, LocalExecutor
from kdbench.bench.work.job import (
    BOX,
    CHECKPOINT_NAME,
    CHECKPOINTS,
    MOST_CHECKPOINT_BYTES,
    MOST_TRACE_BYTES,
    OUT,
    TRACE_NAME,
    TRACES,
    Done,
    Job,
    Outcome,
    Progressed,
)
from kdbench.bench.work.remote.blobs import AgentFolder
from kdbench.bench.work.remote.bundle import absent, beside, unpack
from kdbench.bench.work.remote.node import facts_here, wall_here
from kdbench.bench.work.remote.parcels import Outbox, Parcel
from kdbench.errors import IntegrityError, KdbenchError
from kdbench.untrusted.box import file_names, remove_tree

#: Files of a result that are looked at, and those of a profile.
_MOST_NAMES = 1000

#: What happened: its number, what, the key of the job, more, and files by their names in the box.
Event = tuple[int, str, str, dict[str, Any], dict[str, Parcel]]


class Agent:
    """Computes one job at a time.

    Args:
        run: a name of the run that no other run has.
        node: a name of this machine in the cluster.
        limits: of a job, as in :class:`JobLimits`.
        checkpoint_s: seconds between two looks for new checkpoints.
    """

    def __init__(
        self, run: str, node: str, limits: Mapping[str, float | None], checkpoint_s: float
    ) -> None:
        self._folder = AgentFolder(run, node)
        self._outbox = Outbox(self._folder.outbox)
        self._local = LocalExecutor(jobs=1, limits=JobLimits(**limits))
        self._local.warm_up()
        self._checkpoint_s, self._next_checkpoints = checkpoint_s, 0.0
        self._jobs: dict[str, Job] = {}
        self._sent: dict[Path, int] = {}
        self._events: list[Event] = []
        self._number = 0

    def greet(self, device: str) -> dict[str, Any]:
        """What this machine has, as :class:`NodeFacts` in JSON."""
        wall = wall_here(self._local.processes(), not device.startswith("cpu"))
        return facts_here(device, wall).as_json()

    def process(self) -> int:
        """The number of this process."""
        return os.getpid()

    def missing(self, wanted: Mapping[str, str]) -> list[str]:
        """Which files have to be sent, as :meth:`AgentFolder.missing` has it."""
        return self._folder.missing(wanted)

    def keep(self, digest: str, piece: bytes, last: bool) -> None:
        """Keep the next piece of a file."""
        self._folder.keep(digest, piece, last=last)

    def more(self, name: str, offset: int) -> bytes:
        """The next piece of a file that an event announced."""
        return self._outbox.piece(name, offset)

    def start(self, records: Sequence[Mapping[str, Any]]) -> str:
        """Start the jobs of a bundle, whose files are here. A reason why not; empty: it runs."""
        if lacking := [path for record in records for path in absent(record)]:
            return f"{', '.join(lacking[:3])} is not there, or holds other files"
        self._end_jobs()
        try:
            jobs = [self._lay_out(record) for record in records]
        except OSError as error:
            return f"its disk: {error.strerror or error}"
        self._jobs = {job.key: job for job in jobs}
        self._next_checkpoints = time.monotonic() + self._checkpoint_s
        self._local.start(beside(jobs))
        return ""

    def poll(self, heard: int, timeout: float) -> list[Event]:
        """What has happened since the event of this number. An answer that was lost is asked for
        again.

        Args:
            heard: number of the last event that the coordinator has.
            timeout: seconds to wait for something.
        """
        while self._events and self._events[0][0] <= heard:
            for parcel in self._events.pop(0)[4].values():
                self._outbox.drop(parcel)
        if not self._events and self._jobs:
            for event in self._local.wait(timeout):
                if isinstance(event, Progressed):
                    self._tell("step", event.key, asdict(event.step))
                else:
                    self._ended(event)
            self._look_for_checkpoints()
        return self._events

    def close(self) -> None:
        """End the job, and remove what is here of the run."""
        self._local.close()
        self._folder.close()

    # -- inside --------------------------------------------------------------------------------

    def _lay_out(self, record: Mapping[str, Any]) -> Job:
        folder = self._folder.new_job()
        blobs = {digest: self._folder.path(digest) for digest in record["files"].values()}
        return unpack(record, folder, blobs)

    def _end_jobs(self) -> None:
        for job in self._jobs.values():
            remove_tree(job.folder)
        self._jobs.clear()
        self._sent.clear()

    def _tell(
        self, what: str, key: str, values: dict[str, Any], files: dict[str, Parcel] | None = None
    ) -> None:
        self._number += 1
        self._events.append((self._number, what, key, values, files or {}))

    def _ended(self, event: Done) -> None:
        job, outcome = self._jobs[event.key], event.outcome
        files: dict[str, Parcel] = {}
        try:
            if outcome.status == "ok":
                files = self._result(job)
            files |= self._traces(job)
        except (OSError, KdbenchError) as error:
            outcome = Outcome("failed", f"its result cannot be sent: {error}", outcome.seconds)
            files = {}
        if outcome.status in ("crashed", "timeout", "out of memory"):
            self._send_checkpoints(job)
        self._tell("done", job.key, asdict(outcome), files)

    def _look_for_checkpoints(self) -> None:
        if time.monotonic() < self._next_checkpoints:
            return
        self._next_checkpoints = time.monotonic() + self._checkpoint_s
        for job in self._jobs.values():
            self._send_checkpoints(job)

    def _send_checkpoints(self, job: Job) -> None:
        """Those that are new. One that cannot be read is lost, and nothing else is."""
        folder = job.folder / BOX / CHECKPOINTS
        for name in filter(CHECKPOINT_NAME.fullmatch, file_names(folder, _MOST_NAMES)):
            with contextlib.suppress(OSError, IntegrityError):
                written = (folder / name).lstat().st_mtime_ns
                if self._sent.get(folder / name) != written:
                    parcel = self._outbox.put(folder, name, MOST_CHECKPOINT_BYTES)
                    self._sent[folder / name] = written
                    self._tell("checkpoint", job.key, {}, {f"{CHECKPOINTS}/{name}": parcel})

    def _result(self, job: Job) -> dict[str, Parcel]:
        """The files of a job's result. One that is missing is missed by the coordinator."""
        folder = job.folder / BOX / OUT
        there = set(file_names(folder, _MOST_NAMES))
        return {
            f"{OUT}/{name}": self._outbox.put(folder, name, job.limit_bytes)
            for name in job.kind.files
            if name in there
        }

    def _traces(self, job: Job) -> dict[str, Parcel]:
        """The traces of its profile, as far as they are few."""
        folder, files, left = job.folder / BOX / TRACES, {}, MOST_TRACE_BYTES
        for name in filter(TRACE_NAME.fullmatch, file_names(folder, _MOST_NAMES)):
            with contextlib.suppress(OSError, IntegrityError):
                files[f"{TRACES}/{name}"] = parcel = self._outbox.put(folder, name, left)
                left -= parcel.size
        return files
