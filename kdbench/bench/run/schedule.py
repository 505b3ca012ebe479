"""The state of a plan while it is carried out: which stages can run, wait, or have failed."""

from __future__ import annotations

import heapq
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Any

from kdbench.bench.kinds import Kind
from kdbench.bench.plan.plan import Plan
from kdbench.bench.store.artefacts import Manifest
from kdbench.bench.work.job import Outcome


class Schedule:
    """Stages are wanted; what they rest on is wanted only where they are not in the store yet.

    Of what ended it knows whether it is in the store (``kept``) or how it failed (``failed``). What
    a stage left is the store's to say: a plan may have hundreds of thousands of measurements.

    Args:
        find: a stage's artefact, if the store has it.
    """

    def __init__(self, plan: Plan, find: Callable[[str], Manifest | None]) -> None:
        self._stages, self._find = plan.stages, find
        self.kept: set[str] = set()
        self.failed: dict[str, Outcome] = {}
        self._missing: dict[str, set[str]] = {}
        self._users: dict[str, set[str]] = defaultdict(set)
        # a heap of what is ready; what was taken with a cohort is still in it
        self._order: list[tuple[int, str]] = []
        self._ready: set[str] = set()
        self._cohorts: dict[str, set[str]] = defaultdict(set)  # of what is ready
        self._running: set[str] = set()
        self._ended: list[str] = []

    def want(self, key: str) -> None:
        """Ask for a stage's result."""
        if self.asked(key):
            return
        if self._find(key) is not None:
            self.finish(key)
            return
        inputs = set(self._stages[key].inputs.values())
        self._missing[key] = set()
        for parent in inputs:
            self.want(parent)
        failure = next((self.failed[parent] for parent in inputs if parent in self.failed), None)
        if failure is not None:
            self.finish(key, failure)
            return
        self._missing[key] = inputs - self.kept
        for parent in self._missing[key]:
            self._users[parent].add(key)
        self._offer(key)

    def again(self, key: str) -> None:
        """An artefact that was there turned out to be damaged: want it anew."""
        self.kept.discard(key)
        self.failed.pop(key, None)
        self.want(key)

    def _offer(self, key: str) -> None:
        if not self._missing[key]:
            stage = self._stages[key]
            heapq.heappush(self._order, (stage.number, key))
            self._ready.add(key)
            if stage.cohort:
                self._cohorts[stage.cohort].add(key)

    def take(self) -> str | None:
        """The first stage whose inputs are all there. From now on it counts as running."""
        while self._order:
            _, key = heapq.heappop(self._order)
            if key in self._ready:
                self._take(key)
                return key
        return None

    def _take(self, key: str) -> None:
        self._ready.discard(key)
        self._cohorts[self._stages[key].cohort].discard(key)
        self._running.add(key)

    @property
    def ready(self) -> int:
        """How many stages could be taken now."""
        return len(self._ready)

    def take_alike(self, cohort: str, most: int, without: Collection[str] = ()) -> list[str]:
        """Up to ``most`` more stages of a cohort whose inputs are all there, in the plan's order.

        From now on they count as running.
        """
        if not cohort or most < 1:
            return []
        alike = sorted(
            self._cohorts[cohort].difference(without), key=lambda key: self._stages[key].number
        )
        for key in alike[:most]:
            self._take(key)
        return alike[:most]

    def put_back(self, key: str) -> None:
        """A stage that was taken cannot run now: one of its inputs is wanted anew."""
        self._running.discard(key)
        del self._missing[key]
        self.want(key)

    def finish(self, key: str, failure: Outcome | None = None) -> None:
        """A stage is in the store, or failed; those that rest on a failed one fail with it."""
        left = [key]
        while left:
            at = left.pop()
            if at in self.kept or at in self.failed:
                continue
            if failure is None:
                self.kept.add(at)
            else:
                self.failed[at] = failure
            self._ended.append(at)
            self._running.discard(at)
            self._missing.pop(at, None)
            for user in self._users.pop(at, ()):
                if user not in self._missing:
                    continue
                if failure is not None:
                    left.append(user)
                else:
                    self._missing[user].discard(at)
                    self._offer(user)

    def ended(self) -> Iterator[str]:
        """Keys that ended since the last call."""
        keys, self._ended = self._ended, []
        yield from keys

    @property
    def waiting(self) -> bool:
        """Whether anything wanted has not ended yet."""
        return bool(self._missing)

    def asked(self, key: str) -> bool:
        """Whether a stage was wanted, by a cell or by what rests on it."""
        return key in self.kept or key in self.failed or key in self._missing

    def to_run(self) -> list[str]:
        """Keys of everything that is wanted and not there, in the plan's order."""
        return sorted(self._missing, key=lambda key: self._stages[key].number)


def wanted(
    plan: Plan, find: Callable[[str], Manifest | None]
) -> tuple[Schedule, dict[str, dict[str, Any]]]:
    """(the schedule of everything that the cells still need, the rows that the store already has,
    by cell key)."""
    schedule = Schedule(plan, find)
    rows: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        manifest = find(cell.key)
        if manifest is not None:
            # JSON has new strings for the columns of each row, more than its numbers take.
            rows[cell.key] = {sys.intern(k): v for k, v in manifest.facts["row"].items()}
            continue
        for key in cell.measured.values():
            schedule.want(key)
    for key, stage in plan.stages.items():
        # A picture is worth a stage, but not a teacher that nothing else needs.
        if stage.kind is Kind.PICTURE and (
            schedule.asked(stage.inputs["trigger"]) or find(key) is not None
        ):
            schedule.want(key)
    return schedule, rows
