"""What travelled to the student, and what of it a defense left: a bar from C1 to C3 for each
setting, with the student's ASR on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.page.marks import MARKS, UNDEFENDED, Mark
from kdbench.page.numbers import between, text
from kdbench.page.tasks import Setting, Task
from kdbench.report.verdict import TRANSFER_FLOOR


@dataclass(frozen=True)
class Bar:
    """The bar of a setting. Its numbers are means over the seeds, in %."""

    setting: Setting
    mark: Mark
    c1: float | None
    c3: float | None
    asr: float | None
    interval: tuple[float, float] | None
    """Of the student's ASR, within 0 and 100."""
    words: str
    """What was removed, or why nobody can say."""

    @property
    def numbers(self) -> str:
        """The same numbers in words."""
        parts = (("C1", self.c1), ("C3", self.c3), ("ASR", self.asr))
        return ", ".join(f"{name} {text(value)}" for name, value in parts)

    @property
    def style(self) -> str:
        """The places of its parts, in %, for the style sheet."""
        low, high = self.interval or (None, None)
        parts = {"a": self.c1, "b": self.c3, "s": self.asr, "l": low, "h": high}
        return ";".join(
            f"--{name}:{value:.1f}" for name, value in parts.items() if value is not None
        )


def bars_of(task: Task) -> list[tuple[str, Sequence[Bar]]]:
    """The bars of a task by attack, the undefended control first. Attacks of which nothing can be
    drawn are left out."""
    order = {defense: place for place, defense in enumerate(task.defenses)}
    groups: list[tuple[str, Sequence[Bar]]] = []
    for attack in task.attacks:
        bars = [_bar(setting) for setting in task.settings if setting.attack == attack]
        if any(bar.style for bar in bars):
            groups.append((attack, sorted(bars, key=lambda bar: order[bar.setting.defense])))
    return groups


def _bar(setting: Setting) -> Bar:
    interval = setting.interval("student_asr")
    return Bar(
        setting,
        MARKS[setting.outcome],
        setting.mean("c1_asr"),
        setting.mean("c3_asr"),
        setting.mean("student_asr"),
        None if interval is None else (max(0.0, interval[0]), min(100.0, interval[1])),
        _words(setting),
    )


def _words(setting: Setting) -> str:
    """What came of a setting: its share that was removed, over the seeds that say it."""
    removed, judged = setting.record["removed"], setting.record["n_removed"]
    if not setting.measured:
        return "not measured"
    moved = setting.mean("transferred")
    if setting.defense == UNDEFENDED and moved is not None:
        return f"{text(moved)} points travelled"
    if judged:
        seeds = len(setting.rows)
        of_seeds = f" in {judged} of {seeds} seeds" if judged < seeds else ""
        interval = between((setting.record["removed_low"], setting.record["removed_high"]), 0)
        return f"{text(removed, 0)} % removed{of_seeds}{f' ({interval})' if interval else ''}"
    if moved is None:
        return "no verdict"
    return f"{text(moved)} points travelled, {TRANSFER_FLOOR:.0f} are needed"
