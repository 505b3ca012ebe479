"""The rows of a page by task, and within a task by setting.

A *setting* is all seeds of one attack and one defense that were made with the same numbers. A
*task* is all settings that share dataset, distiller, pair, preset and their numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from statistics import fmean
from typing import Any

from kdbench._intervals import Z95
from kdbench.page.marks import UNDEFENDED, outcomes
from kdbench.report.columns import Row
from kdbench.report.leaderboard import SETTING, as_records, leaderboard
from kdbench.report.paired import estimate, grouped
from kdbench.report.settings import SHARED, attack_label, defense_label, shared_label, told_apart

#: The outcomes, from what was not measured and what claims most to what claims least.
_CLAIMS_LESS = (
    "failed",
    "no verdict",
    "stopped",
    "partly",
    "not stopped",
    "undefended",
    "inconclusive",
)
#: The columns that the rows of a task share.
TASK = ("schema", *SHARED, "shared_digest")


@dataclass(frozen=True)
class Setting:
    """All seeds of one attack and one defense."""

    number: int
    """Its place in the page, from 0."""
    attack: str
    """The attack, with the numbers that its name does not promise."""
    defense: str
    """The same of the defense."""
    record: Row
    """Its row of :func:`kdbench.report.leaderboard.leaderboard`."""
    rows: Sequence[Row]

    @cached_property
    def outcomes(self) -> Counter[str]:
        """Seeds by outcome."""
        return outcomes(self.rows)

    @property
    def outcome(self) -> str:
        """The most frequent outcome. Of two the one that claims less for the defense."""
        return max(self.outcomes, key=lambda name: (self.outcomes[name], _CLAIMS_LESS.index(name)))

    @property
    def share(self) -> str:
        """The outcome, with its share of the seeds where these do not agree."""
        count = self.outcomes[self.outcome]
        return (
            self.outcome if count == len(self.rows) else f"{self.outcome} {count}/{len(self.rows)}"
        )

    @property
    def words(self) -> str:
        """The outcome, or each with its share of the seeds, the most frequent one first."""
        counts = dict(self.outcomes)
        first = self.outcome
        counts = {first: counts.pop(first), **counts}
        if len(counts) == 1:
            return first
        return ", ".join(f"{name} {count}/{len(self.rows)}" for name, count in counts.items())

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.get("status") == "ok"]

    def mean(self, name: str) -> float | None:
        """Mean of a column over the measured seeds. None: no seed has it."""
        values = [row[name] for row in self.measured if row.get(name) is not None]
        return fmean(values) if values else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % interval of a rate: Student's over the seeds, of one seed Wilson's."""
        low, high = self.record.get(f"{name}_low"), self.record.get(f"{name}_high")
        if low is not None and high is not None:
            return low, high
        known = [row for row in self.measured if row.get(name) is not None]
        return estimate(known[0], name).bounds(Z95) if len(known) == 1 else None


@dataclass(frozen=True)
class Task:
    """All settings that share their numbers."""

    number: int
    """Its place in the page, from 0."""
    title: str
    short: str
    """What tells it from the other tasks of the page. Empty: it is the only one."""
    settings: Sequence[Setting]

    @property
    def attacks(self) -> list[str]:
        return list(dict.fromkeys(setting.attack for setting in self.settings))

    @property
    def defenses(self) -> list[str]:
        """The undefended control first, then as they were asked for."""
        names = dict.fromkeys(setting.defense for setting in self.settings)
        return sorted(names, key=lambda name: name != UNDEFENDED)

    @property
    def rows(self) -> list[Row]:
        return [row for setting in self.settings for row in setting.rows]


def tasks_of(rows: list[Row]) -> list[Task]:
    """The tasks of a page in the order of their first rows."""
    records = {_key(record, SETTING): record for record in as_records(leaderboard(rows))}
    groups = [grouped(members, SETTING) for members in grouped(rows, TASK).values()]
    firsts = [next(iter(group.values()))[0] for group in groups]
    parts = list(map(_parts, firsts))
    differ = [len(set(values)) > 1 for values in zip(*parts, strict=True)]
    titles = _titles(parts, firsts)
    shorts = _titles([list(compress(words, differ)) for words in parts], firsts)
    tasks: list[Task] = []
    for title, short, group in zip(titles, shorts, groups, strict=True):
        first = sum(len(task.settings) for task in tasks)
        settings = _settings(first, [records[key] for key in group], list(group.values()))
        tasks.append(Task(len(tasks), title, short, settings))
    return tasks


def _settings(first: int, records: Sequence[Row], groups: Sequence[Sequence[Row]]) -> list[Setting]:
    attacks = _labels(records, "attack", map(attack_label, records))
    defenses = _labels(records, "defense", map(defense_label, records))
    parts = zip(attacks, defenses, records, groups, strict=True)
    return [Setting(number, *part) for number, part in enumerate(parts, first)]


def _labels(records: Sequence[Row], part: str, labels: Iterable[str]) -> list[str]:
    """A label for each method, with its digest where two have the same."""
    digest = f"{part}_digest"
    by_method = {
        (label, str(record[digest])): record for label, record in zip(labels, records, strict=True)
    }
    names = told_apart([label for label, _ in by_method], by_method.values(), (digest,))
    of_method = dict(zip(by_method, names, strict=True))
    name_of = attack_label if part == "attack" else defense_label
    return [of_method[name_of(record), str(record[digest])] for record in records]


def _parts(row: Row) -> list[str]:
    """What the rows of a task have in common, in words."""
    pair = f"{row['teacher']} to {row['student']}"
    preset = f"preset {row['preset']}{shared_label(row)}"
    return [str(row["dataset"]), pair, str(row["distiller"]), preset]


def _titles(parts: Iterable[Sequence[str]], firsts: Sequence[Row]) -> list[str]:
    return told_apart(map(", ".join, parts), firsts, ("shared_digest",))


def _key(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in names)
