"""Settings that differ in one number only, so that a line can be drawn through them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdbench.page.tasks import Setting, Task
from kdbench.report.settings import changes

#: Values that make a line.
MIN_VALUES = 3
#: A variant that is a number: ``robustkd.m50``.
_VARIANT = re.compile(r"(.*\.[a-z_]*?)([0-9]+)")


@dataclass(frozen=True)
class Sweep:
    """One number of a method at several values."""

    task: Task
    fixed: str
    """The attack, or the defense, that all of them have."""
    name: str
    """The number: ``defense.robustkd.m_max``, or ``robustkd.m`` of variants."""
    points: Sequence[tuple[float, Setting]]
    """By value, lowest first."""


def sweeps_of(task: Task) -> list[Sweep]:
    """Every number of a task that has at least three values."""
    groups: dict[tuple[str, str], dict[float, Setting]] = {}
    for setting in task.settings:
        for part, fixed in (("defense", setting.attack), ("attack", setting.defense)):
            for name, value in _numbers(setting, part):
                groups.setdefault((fixed, name), {}).setdefault(value, setting)
    return [
        Sweep(task, fixed, name, sorted(points.items(), key=lambda point: point[0]))
        for (fixed, name), points in groups.items()
        if len(points) >= MIN_VALUES
    ]


def _numbers(setting: Setting, part: str) -> Iterator[tuple[str, float]]:
    """The number by which a method differs from its name, or from its other variants."""
    entries = changes(setting.rows[0], part)
    method = str(setting.rows[0][part])
    if len(entries) == 1:
        name, _, value = entries[0].partition("=")
        try:
            yield name, float(value)
        except ValueError:
            return
    elif not entries and (match := _VARIANT.fullmatch(method)):
        yield match[1], float(match[2])
