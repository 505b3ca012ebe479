"""Draws what the paper draws: measures over variants of a defense, and the feature variance of
teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdbench._files import write_atomically
from kdbench.report.noise import t_interval
from kdbench.report.paired import grouped
from kdbench.report.tables import write_csv

_PANEL = ("dataset", "teacher", "student", "attack")
_INK = {"student_asr": "#b2182b", "student_acc": "#2166ac"}
_NAMES = {"student_asr": "ASR", "student_acc": "ACC"}
_WIDTH, _HEIGHT = 4.0, 3.2  # inches a panel
_COLUMNS = 4


def draw_defenses(
    rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], axis: str, title: str, path: Path
) -> int:
    """One panel for each dataset, pair and attack: ASR and ACC of the student over the defenses in
    ``labels``, in that order.

    Points are seeds, the line joins their means. Dashed: C3, the undefended student's ASR; dotted:
    C1, that of a clean teacher's student (means over the seeds). Returns the number of panels; 0
    draws nothing.
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
            means = []
            for x, name in enumerate(shown):
                values = [row[measure] for row in members if row["defense"] == name]
                means.append(sum(values) / len(values))
                panel.plot(
                    [x] * len(values), values, "o", color=_INK[measure], markersize=3, alpha=0.6
                )
            panel.plot(range(len(shown)), means, color=_INK[measure], label=_NAMES[measure])
        for role, style, word in (("c3_asr", "--", "C3"), ("c1_asr", ":", "C1")):
            known = [row[role] for row in members if row.get(role) is not None]
            if known:
                panel.axhline(
                    sum(known) / len(known),
                    linestyle=style,
                    color="#555555",
                    linewidth=1,
                    label=word,
                )
        seeds = len({row["seed"] for row in members})
        _dress(
            panel, names, axis, range(len(shown)), words, f"{seeds} seed{'s' if seeds > 1 else ''}"
        )
        panel.set_ylim(-3, 103)
        panel.set_ylabel("%")
        if place == 0:
            panel.legend(fontsize=7, loc="center right")
    _save(figure, path)
    return len(panels)


def draw_variance(
    groups: Mapping[tuple[str, ...], Mapping[str, list[list[float]]]], title: str, path: Path
) -> int:
    """One panel for each (dataset, teacher, shown images): for each teacher the variance of each
    example's features.

    Args:
        groups: panel's words -> what the teacher is -> one list of variances a seed. A box is a
            seed's examples.

    Returns:
        the number of panels; 0 draws nothing.
    """
    if not groups:
        return 0
    figure, axes = _panels(len(groups), title)
    for panel, (names, teachers) in zip(axes, groups.items(), strict=True):
        places, words, x = [], [], 0
        for word, seeds in teachers.items():
            boxes = range(x, x + len(seeds))
            panel.boxplot(
                seeds,
                positions=boxes,
                widths=0.7,
                showfliers=False,
                medianprops={"color": _INK["student_asr"]},
            )
            places.append((boxes[0] + boxes[-1]) / 2)
            words.append(word)
            x += len(seeds) + 1
        seeds = max(len(found) for found in teachers.values())
        _dress(panel, names, "teacher", places, words, f"{seeds} seed{'s' if seeds > 1 else ''}")
        panel.set_ylabel("variance of an example's last group")
    _save(figure, path)
    return len(groups)


def variance_ratios(
    groups: Mapping[tuple[str, ...], Mapping[str, list[list[float]]]], clean: str
) -> list[dict[str, Any]]:
    """For each panel and teacher the mean variance, and as a multiple of the clean teacher's of the
    same seed; t intervals."""
    found = []
    for names, teachers in groups.items():
        base = [_mean(values) for values in teachers.get(clean, [])]
        for word, seeds in teachers.items():
            means = [_mean(values) for values in seeds]
            record = dict(zip(("dataset", "model", "images"), names, strict=True)) | {
                "teacher": word
            }
            record |= dict(
                zip(("variance", "variance_low", "variance_high"), t_interval(means), strict=True)
            )
            # A model's features have no scale of their own, so a ratio is only of networks that
            # come from one another.
            ratios = t_interval([m / b for m, b in zip(means, base, strict=False)])
            record |= dict(zip(("to_clean", "to_clean_low", "to_clean_high"), ratios, strict=True))
            found.append(record | {"n_seeds": len(means)})
    return found


def write_ratios(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write :func:`variance_ratios` as CSV."""
    write_csv(list(records[0]) if records else [], records, path)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * lines + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, parse_math=False)
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
