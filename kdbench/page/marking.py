"""The drawing of ACC against ASR on matplotlib axes, for a paper and for a notebook.

The marks are those of the page: the shape is the attack, and the fuller the mark, the more was
removed. So it can be read without colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from kdbench.page.labels import Frame
from kdbench.page.scatter import Dot, Scatter

#: Colours of text and lines.
INK, SOFT, LINE = "#171b21", "#57606a", "#d5dae0"
#: The colour of an outcome, and how full its mark is.
STYLES = {
    "stopped": ("#1d4ed8", "full"),
    "partly": ("#d98e04", "left"),
    "not": ("#b0124f", "none"),
    "little": ("#57606a", "bottom"),
    "base": (SOFT, "none"),
    "none": (SOFT, "none"),
    "failed": (SOFT, "none"),
    "control": (SOFT, "none"),
}
#: The marks of the attacks, in the order of kdbench.page.svg.SHAPES.
_MARKERS = ("o", "s", "^", "D", "v", "h", "P", "X")
#: The outcomes that a legend can have.
_NAMED = {
    "stopped": "stopped",
    "partly": "partly",
    "not": "not stopped",
    "little": "inconclusive",
    "base": "undefended",
}
#: What of a legend is put at a point.
_Place = Literal["center", "lower center"]
_ANCHORS = {"start": "left", "end": "right", "middle": "center"}
#: Pixels of a frame in an inch, and in a point.
_INCH, _POINT = 144, 2
#: Entries of a legend or a key side by side, at most, and the letters that a mark takes there.
_MOST_COLUMNS, _MARK = 4, 4


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    name: str
    marker: str
    color: str
    fill: str


def frame_of(axes: Axes, letters: float) -> Frame:
    """The frame of axes as large as they are now.

    Args:
        letters: their size in points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    box = axes.get_window_extent()
    width, height = (side / figure.dpi * _INCH for side in (box.width, box.height))
    return Frame(0, width, 0, height, 0.533 * letters * _POINT, 1.05 * letters * _POINT)


def draw_scatter(axes: Axes, scatter: Scatter, letters: float) -> None:
    """Draw the marks of a scatter with their names and intervals.

    Args:
        axes: of the size for which the scatter was made, see :func:`frame_of`.
        letters: their size in points.
    """
    frame, x, y = scatter.frame, scatter.x, scatter.y
    axes.set_xlim(x.value(frame.left), x.value(frame.right))
    axes.set_ylim(y.value(frame.bottom), y.value(frame.top))
    for axis, ticks in ((axes.xaxis, scatter.x_ticks), (axes.yaxis, scatter.y_ticks)):
        labels = [label for _, label in ticks]
        axis.set_ticks(list(map(float, labels)), labels=labels)
    axes.set_xlabel("ASR of the student, %", fontsize=letters, labelpad=2)
    axes.set_ylabel("ACC of the student, %", fontsize=letters, labelpad=2)
    axes.tick_params(labelsize=letters, length=0)
    axes.grid(color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for dot in scatter.dots:
        _draw(axes, scatter, dot)
    for dot in scatter.dots:
        if dot.label is not None and dot.label.is_far:
            places = (dot.label.x, dot.label.y - frame.line / 4)
            axes.plot(
                (dot.asr, x.value(places[0])),
                (dot.acc, y.value(places[1])),
                color=SOFT,
                linewidth=0.4,
                zorder=1.5,
            )
    # Over all crosses, and with a rim, so that none strikes a name through.
    rim = [withStroke(linewidth=letters / 3, foreground="white")]
    for dot in scatter.dots:
        if dot.label is not None:
            axes.text(
                x.value(dot.label.x),
                y.value(dot.label.y - frame.line / 4),
                dot.label.text,
                ha=_ANCHORS[dot.label.anchor],
                va="center",
                fontsize=letters,
                color=SOFT if dot.setting is None else INK,
                parse_math=False,
                path_effects=rim,
                zorder=5,
            )


def _draw(axes: Axes, scatter: Scatter, dot: Dot) -> None:
    """A mark and its cross. The cross is cut at the ends of the axes, as on the page."""
    color, fill = STYLES[dot.style]
    if dot.asr_interval is not None:
        across = np.clip(dot.asr_interval, scatter.x.low, scatter.x.high)
        axes.plot(across, (dot.acc, dot.acc), color=color, linewidth=0.6, alpha=0.6)
    if dot.acc_interval is not None:
        up = np.clip(dot.acc_interval, scatter.y.low, scatter.y.high)
        axes.plot((dot.asr, dot.asr), up, color=color, linewidth=0.6, alpha=0.6)
    axes.add_line(_mark([dot.asr], [dot.acc], Key(dot.about, _MARKERS[dot.shape], color, fill)))


def _mark(x: Sequence[float], y: Sequence[float], key: Key) -> Line2D:
    return Line2D(
        x,
        y,
        marker=MarkerStyle(key.marker, fillstyle=key.fill),  # type: ignore[arg-type]
        markersize=5,
        color=key.color,
        markeredgewidth=1,
        markerfacecoloralt="white",
        linestyle="",
        gid=key.name,
    )


def keys_of(scatter: Scatter) -> list[Key]:
    """The entries of a legend: the attacks by shape, the outcomes by fill."""
    styles = [style for style in _NAMED if any(dot.style == style for dot in scatter.dots)]
    attacks = scatter.shapes[: len(_MARKERS)]
    return [
        *(Key(attack, _MARKERS[shape], SOFT, "full") for attack, shape in attacks),
        *(Key(_NAMED[style], "o", *STYLES[style]) for style in styles),
    ]


def draw_legend(
    axes: Axes, keys: Sequence[Key], letters: float, place: _Place, at: tuple[float, float]
) -> Legend:
    """Draw a legend with its ``place`` (``lower center``) at a point of the axes, from 0 to 1.

    It is no wider than the axes. A name that is longer goes on in a new line.
    """
    columns, width = _columns([key.name for key in keys], letters_of(axes, letters), _MARK)
    legend = axes.legend(
        [_mark([], [], key) for key in keys],
        [wrapped(key.name, width) for key in keys],
        loc=place,
        bbox_to_anchor=at,
        ncols=columns,
        fontsize=letters,
        frameon=False,
        handletextpad=0.1,
        columnspacing=0.9,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    return legend


def draw_key(
    axes: Axes, names: Sequence[str], letters: float, at: tuple[float, float], below: float = 0
) -> list[Annotation]:
    """Draw the names of which the marks have the numbers, from 1, in columns.

    Args:
        at: its upper left corner in the axes, from 0 to 1.
        below: so many points below that.
    """
    entries = [f"{number}  {name}" for number, name in enumerate(names, 1)]
    columns, width = _columns(entries, letters_of(axes, letters), 2)
    lines = -(-len(entries) // columns)
    return [
        axes.annotate(
            "\n".join(wrapped(entry, width, "    ") for entry in entries[first : first + lines]),
            (at[0] + column / columns, at[1]),
            xycoords="axes fraction",
            xytext=(0, -below),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize=letters,
            color=INK,
            linespacing=1.25,
            parse_math=False,
            annotation_clip=False,
        )
        for column, first in enumerate(range(0, len(entries), lines))
    ]


def letters_of(axes: Axes, letters: float) -> int:
    """How many letters of a size, in points, are as wide as axes are now."""
    frame = frame_of(axes, letters)
    return int((frame.right - frame.left) / frame.letter)


def _columns(names: Sequence[str], letters: int, beside: int) -> tuple[int, int]:
    """(columns in which names fit side by side, letters of each column).

    Args:
        letters: for all columns together.
        beside: letters that each column has besides its name.
    """
    longest = max(map(len, names)) + beside
    columns = max(1, min(len(names), _MOST_COLUMNS, letters // longest))
    return columns, max(8, letters // columns - beside)


def wrapped(name: str, width: int, indent: str = "") -> str:
    """A name in lines of so many letters. Nothing of it is left out."""
    return textwrap.fill(name, width, subsequent_indent=indent, break_on_hyphens=False)
