"""Figures for a paper, each as PDF and PNG, and a table for LaTeX.

A figure has the width of one column. It uses the marks of the page: the shape is the attack, and
the fuller the mark, the more was removed. So it can be read without colour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdbench._files import write_atomically
from kdbench.page.bars import Bar, bars_of
from kdbench.page.latex import latex_table
from kdbench.page.marking import (
    INK,
    LINE,
    SOFT,
    STYLES,
    draw_key,
    draw_legend,
    draw_scatter,
    frame_of,
    keys_of,
    wrapped,
)
from kdbench.page.numbers import text
from kdbench.page.scatter import scatter_of
from kdbench.page.source import Source
from kdbench.page.sweeps import Sweep, sweeps_of
from kdbench.page.tasks import Task, tasks_of

#: The width of a column, inches, and the size of its letters, points.
_WIDTH, _LETTERS = 3.33, 7.0
#: The height of the drawing of marks, and the room left and below it for the numbers, inches.
_HEIGHT, _LEFT, _BELOW, _EDGE = 2.59, 0.44, 0.31, 0.1
#: Bars of a figure, and figures of each kind.
_MOST_BARS, _MOST_FIGURES = 40, 20
#: Letters of a line of a name beside a bar.
_MOST_NAME = 24
#: Letters of a line of the name of an axis, and the height of one, inches.
_MOST_LABEL, _LINE = 56, 0.12
#: An attack with its bars.
_Group = tuple[str, Sequence[Bar]]


def write_figures(source: Source, folder: Path) -> list[Path]:
    """Write the figures and the table of some runs, and say which files these are.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = tasks_of(source.rows)
    table = folder / "table.tex"
    write_atomically(table, lambda path: path.write_text(latex_table(tasks), encoding="utf-8"))
    paths = [table]
    # Letters stay letters, as publishers want it.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for name, figure in _figures(tasks):
            paths += _save(figure, folder, name)
    return paths


def _figures(tasks: Sequence[Task]) -> Iterator[tuple[str, Figure]]:
    """Every figure with its name."""
    sweeps = [sweep for task in tasks for sweep in sweeps_of(task)]
    for task in tasks[:_MOST_FIGURES]:
        tail = f"-{_file_name(task)}" if len(tasks) > 1 else ""
        if (scatter := _draw_scatter(task)) is not None:
            yield f"scatter{tail}", scatter
        groups = [(attack, bars[:_MOST_BARS]) for attack, bars in bars_of(task)]
        for number, part in enumerate(_parts(groups)):
            yield f"transfer{tail}{f'-{number + 1}' if number else ''}", _draw_bars(part)
    for number, sweep in enumerate(sweeps[:_MOST_FIGURES], 1):
        tail = f"-{number}" if len(sweeps) > 1 else ""
        yield f"sweep{tail}", _draw_sweep(sweep)


def _parts(groups: Sequence[_Group]) -> Iterator[list[_Group]]:
    """The bars of a task, as many attacks a figure as fit."""
    part: list[_Group] = []
    for group in groups:
        if part and sum(len(bars) for _, bars in [*part, group]) > _MOST_BARS:
            yield part
            part = []
        part.append(group)
    if part:
        yield part


def _file_name(task: Task) -> str:
    row = task.settings[0].rows[0]
    names = (task.number + 1, *(row[n] for n in ("dataset", "teacher", "student", "distiller")))
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(map(str, names)))[:100]


def _new(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0, 0, 1, 1))


def _draw_scatter(task: Task) -> Figure | None:
    """The drawing of the page, with letters that can be read in one column. None: nothing was
    measured."""
    figure, axes = _new(_HEIGHT)
    width, height = _WIDTH - _LEFT - _EDGE / 2, _HEIGHT - _BELOW - _EDGE / 2
    axes.set_position((_LEFT / _WIDTH, _BELOW / _HEIGHT, width / _WIDTH, height / _HEIGHT))
    scatter = scatter_of([task], frame_of(axes, _LETTERS))
    if scatter is None:
        return None
    draw_scatter(axes, scatter, _LETTERS)
    # What stands below is measured first, and the figure then grows by it.
    below = figure.add_axes((0.5 * _EDGE / _WIDTH, 0, 1 - _EDGE / _WIDTH, 1))
    below.axis("off")
    legend = draw_legend(below, keys_of(scatter), _LETTERS - 0.5, "lower center", (0.5, 0))
    legend_height = legend.get_window_extent().height / figure.dpi
    key = draw_key(below, scatter.key, _LETTERS - 0.5, (0, 0)) if scatter.key else []
    key_height = max((text.get_window_extent().height / figure.dpi for text in key), default=0.0)
    more = legend_height + key_height + (_EDGE if key else 0)
    total = _HEIGHT + more
    figure.set_size_inches(_WIDTH, total)
    axes.set_position((_LEFT / _WIDTH, (_BELOW + more) / total, width / _WIDTH, height / total))
    start = (more - legend_height) / total
    below.set_position((0.5 * _EDGE / _WIDTH, start, 1 - _EDGE / _WIDTH, 1 - start))
    return figure


def _draw_bars(groups: Sequence[tuple[str, Sequence[Bar]]]) -> Figure:
    """A bar from C1 to C3 for each setting, with the student's ASR on it. An attack is a line of
    its own above its bars."""
    lines: list[tuple[str, Bar | None]] = []
    for attack, bars in groups:
        lines += [(attack, None), *((bar.setting.defense, bar) for bar in bars)]
    names = [wrapped(name, _MOST_NAME) for name, _ in lines]
    # A name of several lines takes more room, and its bar is in the middle of it.
    rooms = [1 + 0.7 * name.count("\n") for name in names]
    places = [sum(rooms[:number]) + (room - 1) / 2 for number, room in enumerate(rooms)]
    figure, axes = _new(0.46 + 0.17 * sum(rooms))
    for y, (_, bar) in zip(places, lines, strict=True):
        if bar is not None:
            _draw_bar(axes, y, bar)
    axes.set_xlim(0, 100)
    axes.set_ylim(sum(rooms) - 0.5, -0.5)
    axes.set_xlabel("ASR, %: C1 to C3, and the student", fontsize=_LETTERS, labelpad=2)
    axes.set_yticks(places, labels=names, fontsize=_LETTERS, parse_math=False)
    axes.tick_params(labelsize=_LETTERS, length=2, width=0.5)
    axes.tick_params(axis="y", length=0)
    for label, (_, bar) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if bar is None else "normal")
    height = figure.get_figheight()
    names_width = max(label.get_window_extent().width for label in axes.get_yticklabels())
    left = min(0.5, names_width / figure.dpi / _WIDTH + 0.03)
    axes.set_position((left, 0.36 / height, 0.74 - left, 1 - 0.4 / height))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_linewidth(0.5)
    return figure


def _draw_bar(axes: Axes, y: float, bar: Bar) -> None:
    color, _ = STYLES[bar.mark.style]
    if bar.c1 is not None and bar.c3 is not None and bar.c3 > bar.c1:
        moved, left = bar.c3 - bar.c1, max(0.0, min(bar.asr or bar.c1, bar.c3) - bar.c1)
        axes.barh(y, moved, 0.55, bar.c1, color=color, alpha=0.22, linewidth=0)
        if bar.mark.style == "little":
            axes.barh(
                y, left, 0.55, bar.c1, color="none", edgecolor=color, hatch="/////", linewidth=0
            )
        else:
            axes.barh(y, left, 0.55, bar.c1, color=color, linewidth=0)
    if bar.interval is not None:
        axes.plot(bar.interval, (y, y), color=INK, linewidth=0.7)
    if bar.asr is not None:
        axes.plot((bar.asr, bar.asr), (y - 0.42, y + 0.42), color=INK, linewidth=1.4)
    axes.text(103, y, _share(bar), va="center", fontsize=_LETTERS, color=INK)


def _share(bar: Bar) -> str:
    """What was removed, in a few letters."""
    removed = bar.setting.record["removed"]
    if bar.mark.style == "little":
        return "inconclusive"
    return "" if removed is None or bar.mark.style == "base" else f"{text(removed, 0)} % removed"


def _draw_sweep(sweep: Sweep) -> Figure:
    """ASR and ACC of the student over the values of one number."""
    label = wrapped(f"{sweep.name} ({sweep.fixed})", _MOST_LABEL)
    height = 2.2 + _LINE * label.count("\n")
    figure, axes = _new(height)
    axes.set_position((0.13, 1 - 1.78 / height, 0.84, 1.67 / height))
    values = [value for value, _ in sweep.points]
    lines = (("student_asr", "ASR", "#b0124f", "o-"), ("student_acc", "ACC", "#1d4ed8", "s--"))
    for name, word, color, style in lines:
        known = [(x, setting.mean(name), setting.interval(name)) for x, setting in sweep.points]
        for x, _, interval in known:
            if interval is not None:
                ends = max(0.0, interval[0]), min(100.0, interval[1])
                axes.plot((x, x), ends, color=color, linewidth=0.7, alpha=0.7)
        means = [(x, mean) for x, mean, _ in known if mean is not None]
        axes.plot(
            *zip(*means, strict=True), style, color=color, markersize=3.5, linewidth=1, label=word
        )
    for name, style in (("c3_asr", "--"), ("c1_asr", ":")):
        means_of = [m for _, setting in sweep.points if (m := setting.mean(name)) is not None]
        if means_of:
            level = sum(means_of) / len(means_of)
            axes.axhline(level, color=SOFT, linestyle=style, linewidth=0.8, label=name[:2].upper())
    if min(values) > 0 and max(values) / min(values) > 20:
        axes.set_xscale("log")
    axes.set_ylim(-3, 103)
    axes.set_ylabel("%", fontsize=_LETTERS, labelpad=1)
    axes.set_xlabel(label, fontsize=_LETTERS, labelpad=2, parse_math=False)
    axes.tick_params(labelsize=_LETTERS, length=2, width=0.5)
    axes.grid(linewidth=0.3, color=LINE)
    axes.legend(fontsize=_LETTERS - 0.5, frameon=False, ncols=4, loc="best")
    return figure


def _save(figure: Figure, folder: Path, name: str) -> Iterator[Path]:
    for ending in ("pdf", "png"):
        # Without the time, so that the same rows give the same bytes.
        facts = {"CreationDate": None} if ending == "pdf" else {}
        path = folder / f"{name}.{ending}"

        def write(target: Path, ending: str = ending, facts: dict[str, None] = facts) -> None:
            figure.savefig(target, format=ending, dpi=300, metadata=facts)

        write_atomically(path, write)
        yield path
