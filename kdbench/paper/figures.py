"""Draws what the paper draws: measures over variants of a defense, and the feature variance of
teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdbench._counted import counted
from kdbench._files import write_atomically
from kdbench.report.columns import Row
from kdbench.report.noise import t_interval
from kdbench.report.paired import grouped
from kdbench.report.tables import write_csv

_PANEL = ("dataset", "teacher", "student", "preset", "attack")
#: Blue and red that colour-blind readers can tell apart.
_INK = {"student_asr": "#b2182b", "student_acc": "#2166ac"}
_NAMES = {"student_asr": "ASR", "student_acc": "ACC"}
#: Of a panel, inches.
_WIDTH, _HEIGHT = 4.0, 3.2
#: Characters of the title above a panel.
_TITLE = 52
#: Panels side by side, at most.
_COLUMNS = 4

#: The words of a panel -> what a teacher is -> one list a seed, with the variance of each example's
#: features.
Variances = Mapping[tuple[str, ...], Mapping[str, Sequence[Sequence[float]]]]


def draw_defenses(
    rows: Sequence[Row], labels: Mapping[str, str], axis: str, title: str, path: Path
) -> int:
    """Draw one panel for each dataset, pair, preset and attack: ASR and ACC of the student over
    the defenses in ``labels``, in that order.

    Points are seeds, and the line joins their means. The dashed line is the ASR of C3, the
    undefended student. The dotted line is that of C1, the student of a clean teacher. Both are
    means over the seeds.

    Returns:
        the number of panels. Where it is 0 nothing is drawn.
    """
    panels = grouped(
        [row for row in rows if row.get("status") == "ok" and row["defense"] in labels], _PANEL
    )
    if not panels:
        return 0
    figure, axes = _panels(len(panels), title)
    for place, (panel, (names, members)) in enumerate(zip(axes, panels.items(), strict=True)):
        words = [labels[name] for name in labels if any(row["defense"] == name for row in members)]
        shown = [name for name in labels if labels[name] in words]
        for measure in ("student_asr", "student_acc"):
            _draw_student(panel, members, shown, measure)
        for control, style in (("C3", "--"), ("C1", ":")):
            _draw_control(panel, members, control, style)
        seeds = len({row["seed"] for row in members})
        _dress(panel, names, axis, range(len(shown)), words, _seeds(seeds))
        panel.set_ylim(-3, 103)
        panel.set_ylabel("%")
        if place == 0:
            panel.legend(fontsize=7, loc="center right")
    _save(figure, path)
    return len(panels)


def _draw_student(panel: Axes, rows: Sequence[Row], defenses: Sequence[str], measure: str) -> None:
    means = []
    for x, name in enumerate(defenses):
        values = [row[measure] for row in rows if row["defense"] == name]
        means.append(_mean(values))
        panel.plot([x] * len(values), values, "o", color=_INK[measure], markersize=3, alpha=0.6)
    panel.plot(range(len(defenses)), means, color=_INK[measure], label=_NAMES[measure])


def _draw_control(panel: Axes, rows: Sequence[Row], control: str, style: str) -> None:
    column = f"{control.lower()}_asr"
    values = [row[column] for row in rows if row.get(column) is not None]
    if values:
        panel.axhline(_mean(values), linestyle=style, color="#555555", linewidth=1, label=control)


def draw_variance(groups: Variances, title: str, path: Path) -> int:
    """Draw one panel for each (dataset, teacher, preset, shown images), with a box for each teacher
    and seed: the variance of each example's features.

    Returns:
        the number of panels. Where it is 0 nothing is drawn.
    """
    if not groups:
        return 0
    figure, axes = _panels(len(groups), title)
    for panel, (names, teachers) in zip(axes, groups.items(), strict=True):
        places: list[float] = []
        x = 0
        for seeds in teachers.values():
            boxes = range(x, x + len(seeds))
            panel.boxplot(
                seeds,
                positions=boxes,
                widths=0.7,
                showfliers=False,
                medianprops={"color": _INK["student_asr"]},
            )
            places.append((boxes[0] + boxes[-1]) / 2)
            x += len(seeds) + 1
        most = max(map(len, teachers.values()))
        _dress(panel, names, "teacher", places, list(teachers), _seeds(most))
        panel.set_ylabel("variance of an example's last group")
    _save(figure, path)
    return len(groups)


def variance_ratios(groups: Variances, clean: str) -> list[Row]:
    """For each panel and teacher the mean variance with its t interval, in itself and as a multiple
    of the clean teacher's of the same seed."""
    records = []
    for names, teachers in groups.items():
        base = [_mean(values) for values in teachers.get(clean, [])]
        for word, seeds in teachers.items():
            means = [_mean(values) for values in seeds]
            # A model's features have no scale of their own. So a ratio makes sense only for two
            # networks of which one was made from the other.
            # There are no ratios where no clean teacher was measured.
            ratios = [m / b for m, b in zip(means, base, strict=False)]
            record: Row = dict(zip(("dataset", "model", "preset", "images"), names, strict=True))
            record["teacher"] = word
            record |= _with_interval("variance", means) | _with_interval("to_clean", ratios)
            records.append(record | {"n_seeds": len(means)})
    return records


def _with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    mean, low, high = t_interval(values)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def write_ratios(records: Sequence[Row], path: Path) -> None:
    """Write :func:`variance_ratios` as CSV."""
    write_csv(list(records[0]) if records else [], records, path)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _seeds(count: int) -> str:
    return counted(count, "seed")


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * lines + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    wrapped = [fill(line, _TITLE * columns) for line in title.splitlines()]
    figure.suptitle("\n".join(wrapped), fontsize=10, parse_math=False)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _dress(
    panel: Axes,
    names: Sequence[Any],
    axis: str,
    places: Sequence[float],
    words: Sequence[str],
    note: str,
) -> None:
    panel.set_title(f"{', '.join(map(str, names))}\n{note}", fontsize=8, parse_math=False)
    panel.set_xlabel(axis, fontsize=8, parse_math=False)
    tilt = 30 if max(map(len, words)) > 6 else 0
    panel.set_xticks(list(places), labels=list(words), fontsize=7, rotation=tilt, parse_math=False)
    panel.grid(axis="y", linewidth=0.3)


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda target: figure.savefig(target, format="png", dpi=120))
