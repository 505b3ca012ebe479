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
from matplotlib.markers import MarkerStyle

from kdbench._files import write_atomically
from kdbench.page.bars import Bar, bars_of
from kdbench.page.latex import latex_table
from kdbench.page.numbers import text
from kdbench.page.scatter import Frame, Scatter, scatter_of
from kdbench.page.source import Source
from kdbench.page.sweeps import Sweep, sweeps_of
from kdbench.page.tasks import Task, tasks_of

#: The width of a column, inches, and the size of its letters, points.
_WIDTH, _LETTERS = 3.33, 7.0
#: Pixels of the drawing of marks, an inch of which is 216.
_FRAME = Frame(86, 696, 14, 492, 11.2, 22)
_PIXELS = (720, 560)
#: Bars of a figure, and figures of each kind.
_MOST_BARS, _MOST_FIGURES = 40, 20
#: Entries of a legend, side by side.
_KEYS = 4
_INK, _SOFT, _LINE = "#171b21", "#57606a", "#d5dae0"
#: The colour of an outcome, and how full its mark is.
_STYLES = {
    "stopped": ("#1d4ed8", "full"),
    "partly": ("#d98e04", "left"),
    "not": ("#b0124f", "none"),
    "little": ("#57606a", "bottom"),
    "base": (_SOFT, "none"),
    "none": (_SOFT, "none"),
    "failed": (_SOFT, "none"),
    "control": (_SOFT, "none"),
}
#: The marks of the attacks, in the order of kdbench.page.svg.SHAPES.
_MARKERS = ("o", "s", "^", "D", "v", "h", "P", "X")
#: The marks that a legend can have.
_NAMED = {"stopped": "stopped", "partly": "partly", "not": "not stopped", "little": "inconclusive"}
#: An attack with its bars.
_Group = tuple[str, Sequence[Bar]]
_ANCHORS = {"start": "left", "end": "right", "middle": "center"}


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
        if (scatter := scatter_of(task, _FRAME)) is not None:
            yield f"scatter{tail}", _draw_scatter(scatter)
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


def _draw_scatter(scatter: Scatter) -> Figure:
    """The drawing of the page, with letters that can be read in one column."""
    keys = _keys(scatter)
    legend = 0.16 * -(-len(keys) // _KEYS) + 0.08
    figure, axes = _new(_WIDTH * _PIXELS[1] / _PIXELS[0] + legend)
    share = legend / figure.get_figheight()
    axes.set_position((0, share, 1, 1 - share))
    axes.set_xlim(0, _PIXELS[0])
    axes.set_ylim(_PIXELS[1], 0)
    axes.axis("off")
    _draw_grid(axes, scatter)
    for dot in scatter.dots:
        color, fill = _STYLES[dot.style]
        if dot.across is not None:
            axes.plot(dot.across, (dot.y, dot.y), color=color, linewidth=0.6, alpha=0.6)
        if dot.up is not None:
            axes.plot((dot.x, dot.x), dot.up, color=color, linewidth=0.6, alpha=0.6)
        _mark(axes, dot.x, dot.y, _MARKERS[dot.shape], color, fill)
        if dot.label is not None:
            axes.text(
                dot.label.x,
                dot.label.y - _FRAME.line / 4,
                dot.label.text,
                ha=_ANCHORS[dot.label.anchor],
                va="center",
                fontsize=_LETTERS,
                color=_SOFT if dot.setting is None else _INK,
                parse_math=False,
            )
    _legend(figure.add_axes((0, 0, 1, share)), keys)
    return figure


def _draw_grid(axes: Axes, scatter: Scatter) -> None:
    for x, label in scatter.x_ticks:
        axes.plot((x, x), (_FRAME.top, _FRAME.bottom), color=_LINE, linewidth=0.5, zorder=0)
        axes.text(x, _FRAME.bottom + 6, label, ha="center", va="top", fontsize=_LETTERS)
    for y, label in scatter.y_ticks:
        axes.plot((_FRAME.left, _FRAME.right), (y, y), color=_LINE, linewidth=0.5, zorder=0)
        axes.text(_FRAME.left - 8, y, label, ha="right", va="center", fontsize=_LETTERS)
    middle = (_FRAME.left + _FRAME.right) / 2, (_FRAME.top + _FRAME.bottom) / 2
    axes.text(
        middle[0], _PIXELS[1], "ASR of the student, %", ha="center", va="bottom", fontsize=_LETTERS
    )
    axes.text(8, middle[1], "ACC of the student, %", rotation=90, va="center", fontsize=_LETTERS)


def _mark(axes: Axes, x: float, y: float, marker: str, color: str, fill: str) -> None:
    style = MarkerStyle(marker, fillstyle=fill)  # type: ignore[arg-type]
    axes.plot(
        [x],
        [y],
        marker=style,
        markersize=5,
        color=color,
        markeredgewidth=1,
        markerfacecoloralt="white",
        linestyle="",
    )


def _keys(scatter: Scatter) -> list[tuple[str, str, str, str]]:
    """The entries of a legend: marker, name, colour and fill."""
    styles = [style for style in _NAMED if any(dot.style == style for dot in scatter.dots)]
    attacks = list(scatter.shapes)[: len(_MARKERS)]
    return [
        *((_MARKERS[shape], _cut(attack, 16), _SOFT, "full") for attack, shape in attacks),
        *(("o", _NAMED[style], *_STYLES[style]) for style in styles),
    ]


def _legend(axes: Axes, keys: Sequence[tuple[str, str, str, str]]) -> None:
    """The attacks by shape, the outcomes by fill."""
    axes.axis("off")
    for marker, _, color, fill in keys:
        _mark(axes, float("nan"), 0, marker, color, fill)
    legend = axes.legend(
        axes.lines,
        [name for _, name, _, _ in keys],
        loc="center",
        ncols=min(len(keys), _KEYS),
        fontsize=_LETTERS - 0.5,
        frameon=False,
        handletextpad=0.1,
        columnspacing=0.9,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _draw_bars(groups: Sequence[tuple[str, Sequence[Bar]]]) -> Figure:
    """A bar from C1 to C3 for each setting, with the student's ASR on it. An attack is a line of
    its own above its bars."""
    lines: list[tuple[str, Bar | None]] = []
    for attack, bars in groups:
        lines += [(attack, None), *((bar.setting.defense, bar) for bar in bars)]
    figure, axes = _new(0.46 + 0.17 * len(lines))
    height = figure.get_figheight()
    axes.set_position((0.31, 0.36 / height, 0.43, 1 - 0.4 / height))
    for y, (_, bar) in enumerate(lines):
        if bar is not None:
            _draw_bar(axes, y, bar)
    axes.set_xlim(0, 100)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel("ASR, %: C1 to C3, and the student", fontsize=_LETTERS, labelpad=2)
    names = [_cut(name, 20) for name, _ in lines]
    axes.set_yticks(range(len(names)), labels=names, fontsize=_LETTERS, parse_math=False)
    axes.tick_params(labelsize=_LETTERS, length=2, width=0.5)
    axes.tick_params(axis="y", length=0)
    for label, (_, bar) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if bar is None else "normal")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_linewidth(0.5)
    return figure


def _draw_bar(axes: Axes, y: int, bar: Bar) -> None:
    color, _ = _STYLES[bar.mark.style]
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
        axes.plot(bar.interval, (y, y), color=_INK, linewidth=0.7)
    if bar.asr is not None:
        axes.plot((bar.asr, bar.asr), (y - 0.42, y + 0.42), color=_INK, linewidth=1.4)
    axes.text(103, y, _share(bar), va="center", fontsize=_LETTERS, color=_INK)


def _share(bar: Bar) -> str:
    """What was removed, in a few letters."""
    removed = bar.setting.record["removed"]
    if bar.mark.style == "little":
        return "inconclusive"
    return "" if removed is None or bar.mark.style == "base" else f"{text(removed, 0)} % removed"


def _draw_sweep(sweep: Sweep) -> Figure:
    """ASR and ACC of the student over the values of one number."""
    figure, axes = _new(2.2)
    axes.set_position((0.13, 0.19, 0.84, 0.76))
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
            axes.axhline(level, color=_SOFT, linestyle=style, linewidth=0.8, label=name[:2].upper())
    if min(values) > 0 and max(values) / min(values) > 20:
        axes.set_xscale("log")
    axes.set_ylim(-3, 103)
    axes.set_ylabel("%", fontsize=_LETTERS, labelpad=1)
    label = f"{sweep.name} ({sweep.fixed})"
    axes.set_xlabel(label, fontsize=_LETTERS, labelpad=2, parse_math=False)
    axes.tick_params(labelsize=_LETTERS, length=2, width=0.5)
    axes.grid(linewidth=0.3, color=_LINE)
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
