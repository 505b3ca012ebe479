"""The verdict matrix of a task: defenses down, attacks across.

A run has more defenses than attacks, and their names are longer. So it fits a narrow window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.page.marks import MARKS, Mark
from kdbench.page.numbers import text
from kdbench.page.tasks import Setting, Task


@dataclass(frozen=True)
class Verdicts:
    """One place of the matrix."""

    setting: Setting
    mark: Mark
    """Of the most frequent outcome."""
    rate: str
    """The mean ASR in words, or the ACC where no ASR is known. Empty: neither."""
    share: str
    """How many seeds have it, where not all have. Else empty."""
    others: Sequence[str]
    """The other outcomes, with their counts."""


@dataclass(frozen=True)
class Matrix:
    """The matrix of a task."""

    task: Task
    attacks: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Verdicts | None]]]
    """Each defense, with a place for each attack. None: nobody asked for it."""


def matrix_of(task: Task) -> Matrix:
    """The verdicts of a task."""
    places = {(setting.attack, setting.defense): _place(setting) for setting in task.settings}
    lines = [
        (defense, [places.get((attack, defense)) for attack in task.attacks])
        for defense in task.defenses
    ]
    return Matrix(task, task.attacks, lines)


def _place(setting: Setting) -> Verdicts:
    seeds, counts = len(setting.rows), setting.outcomes
    first = setting.outcome
    return Verdicts(
        setting,
        MARKS[first],
        _rate(setting),
        "" if len(counts) == 1 else f"{counts[first]} of {seeds} seeds",
        [f"{name} {count}" for name, count in counts.items() if name != first],
    )


def _rate(setting: Setting) -> str:
    for name, word in (("student_asr", "ASR"), ("student_acc", "ACC")):
        if (mean := setting.mean(name)) is not None:
            return f"{word} {text(mean)}"
    return ""
