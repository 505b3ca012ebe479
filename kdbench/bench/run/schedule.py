"""The state of a plan while it is carried out: which stages can run, wait, or have failed."""

from __future__ import annotations

import heapq
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Any

from kdbench.bench.kinds import Kind
from kdbench.bench.plan.plan import Plan
from kdbench.bench.store.manifest import Manifest
from kdbench.bench.work.job import Outcome

#: A stage whose artefact is damaged so many times after it was computed has failed.
_PATIENCE = 2


class Schedule:
    """Which stages are wanted, and how far they are.

    The inputs of a stage, and the checks that it waits for, are wanted only if the stage itself is
    not in the store yet. The results of stages are not held here but in the store, since a plan may
    have hundreds of thousands.

    Args:
        find: key -> the artefact of a stage, if the store has it.

    Attributes:
        kept: keys of the stages that are in the store.
        failed: key -> outcome of each stage that failed, or whose input failed.
    """

    def __init__(self, plan: Plan, find: Callable[[str], Manifest | None]) -> None:
        self._stages, self._find = plan.stages, find
        self.kept: set[str] = set()
        self.failed: dict[str, Outcome] = {}
        self._missing: dict[str, set[str]] = {}
        self._users: dict[str, set[str]] = defaultdict(set)
        # A heap of the stages that are ready. Those taken with a cohort stay in it until they come
        # up, and are then passed over.
        self._order: list[tuple[int, str]] = []
        self._ready: set[str] = set()
        # The ready stages of each cohort.
        self._cohorts: dict[str, set[str]] = defaultdict(set)
        self._running: set[str] = set()
        # Stages that were computed since this schedule was made, and how often in vain.
        self._computed: set[str] = set()
        self._spoiled: dict[str, int] = defaultdict(int)
        self._ended: list[str] = []

    def want(self, key: str) -> None:
        """Ask for a stage's result."""
        if self.is_wanted(key):
            return
        if self._find(key) is not None:
            self.finish(key)
            return
        inputs = {*self._stages[key].inputs.values(), *self._stages[key].after}
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

    def again(self, key: str) -> Outcome | None:
        """Want a stage once more, because its artefact turned out to be damaged.

        A stage whose artefact was damaged twice after it was computed here has failed. It would be
        damaged for ever. Answers that failure.
        """
        self.kept.discard(key)
        self.failed.pop(key, None)
        if key in self._computed:
            self._computed.discard(key)
            self._spoiled[key] += 1
        if self._spoiled[key] < _PATIENCE:
            self.want(key)
            return None
        failure = Outcome(
            "failed",
            f"{self._stages[key].title}: its artefact was damaged {_PATIENCE} times right after it "
            "was made; check the disk of the store",
        )
        self.finish(key, failure)
        return failure

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
        """Undo :meth:`take`, because an input of the stage is wanted once more."""
        self._running.discard(key)
        del self._missing[key]
        self.want(key)

    def finish(self, key: str, failure: Outcome | None = None) -> None:
        """Note that a stage is in the store, or that it failed.

        The stages that rest on a failed one fail with it.
        """
        left = [key]
        while left:
            at = left.pop()
            if at in self.kept or at in self.failed:
                continue
            if failure is None:
                self.kept.add(at)
                if at in self._running:
                    self._computed.add(at)
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

    def is_wanted(self, key: str) -> bool:
        """Whether a cell or another stage needs the result of a stage."""
        return key in self.kept or key in self.failed or key in self._missing

    def to_run(self) -> list[str]:
        """Keys of all stages that are wanted and have not ended, in the plan's order."""
        return sorted(self._missing, key=lambda key: self._stages[key].number)


def wanted(
    plan: Plan, find: Callable[[str], Manifest | None]
) -> tuple[Schedule, dict[str, dict[str, Any]]]:
    """(schedule of all that the cells still need, rows that the store has by cell key)."""
    schedule = Schedule(plan, find)
    rows: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        manifest = find(cell.key)
        if manifest is not None:
            # Reading JSON makes new strings for the columns of each row. Interned, all rows share
            # them.
            rows[cell.key] = {sys.intern(k): v for k, v in manifest.facts["row"].items()}
            continue
        for key in cell.measured.values():
            schedule.want(key)
    for key, stage in plan.stages.items():
        # A picture is worth a stage, but not a teacher that nothing else needs.
        if stage.kind is Kind.PICTURE and (
            schedule.is_wanted(stage.inputs["trigger"]) or find(key) is not None
        ):
            schedule.want(key)
    return schedule, rows
