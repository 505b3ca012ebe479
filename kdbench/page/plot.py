"""ACC against ASR of every setting, on matplotlib axes of the caller's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from kdbench.page.figures import _MARKERS, _STYLES
from kdbench.page.marks import MARKS
from kdbench.page.tasks import Setting, tasks_of
from kdbench.report.columns import Row


def plot(rows: list[Row], axes: Axes | None = None) -> Axes:
    """Draw the student of every setting: a shape for each attack, a fill for each outcome, and a
    cross of 95 % intervals.

    Args:
        axes: to draw on. None: those of a new figure, ``axes.figure``.
    """
    if axes is None:
        # Of pyplot, so that a notebook shows it by itself.
        axes = plt.subplots(layout="constrained")[1]
    settings = [setting for task in tasks_of(rows) for setting in task.settings]
    attacks = list(dict.fromkeys(setting.attack for setting in settings))
    seen = set()
    for setting in settings:
        acc, asr = setting.mean("student_acc"), setting.mean("student_asr")
        if acc is None or asr is None:
            continue
        marker = _MARKERS[attacks.index(setting.attack) % len(_MARKERS)]
        color, fill = _STYLES[MARKS[setting.outcome].style]
        label = f"{setting.attack}, {setting.outcome}"
        axes.errorbar(
            [acc],
            [asr],
            xerr=_ends(setting, "student_acc"),
            yerr=_ends(setting, "student_asr"),
            marker=marker,
            color=color,
            fillstyle=fill,
            linestyle="none",
            elinewidth=0.8,
            label="_" if label in seen else label,
        )
        axes.annotate(
            setting.defense,
            (acc, asr),
            textcoords="offset points",
            xytext=(5, 4),
            fontsize="small",
            parse_math=False,
        )
        seen.add(label)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("ACC of the student (%)")
    axes.set_ylabel("ASR of the student (%)")
    if seen:
        axes.legend(fontsize="small")
    return axes


def _ends(setting: Setting, name: str) -> Sequence[Sequence[Any]] | None:
    """How far the interval of a rate reaches below and above its mean. None: it has none."""
    interval, mean = setting.interval(name), setting.mean(name)
    if interval is None or mean is None:
        return None
    return [[max(0.0, mean - interval[0])], [max(0.0, interval[1] - mean)]]
