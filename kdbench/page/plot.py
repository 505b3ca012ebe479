"""ACC against ASR of every setting, on matplotlib axes of the caller's own."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from kdbench.page.marking import draw_key, draw_legend, draw_scatter, frame_of, keys_of
from kdbench.page.scatter import scatter_of
from kdbench.page.tasks import tasks_of
from kdbench.report.columns import Row

#: The size of letters, points.
_LETTERS = 9.0


def plot(rows: list[Row], axes: Axes | None = None) -> Axes:
    """Draw the student of every setting: a shape for each attack, a fill for each outcome, and a
    cross of 95 % intervals.

    Args:
        axes: to draw on. None: those of a new figure, ``axes.figure``.
    """
    is_own = axes is None
    if axes is None:
        # Of pyplot, so that a notebook shows it by itself.
        axes = plt.subplots(layout="constrained")[1]
    scatter = scatter_of(tasks_of(rows), frame_of(axes, _LETTERS), most=len(rows))
    if scatter is not None:
        draw_scatter(axes, scatter, _LETTERS)
        # Above the drawing, where it covers no mark.
        draw_legend(axes, keys_of(scatter), _LETTERS, "lower center", (0.5, 1))
        if scatter.key:
            # Below the numbers and the name of the axis.
            key = draw_key(axes, scatter.key, _LETTERS, (0, 0), 4 * _LETTERS)
            figure = axes.get_figure(root=True)
            if is_own and figure is not None:
                # The drawing stays as large as it was when the names were placed.
                more = max(text.get_window_extent().height for text in key) / figure.dpi
                figure.set_figheight(figure.get_figheight() + more)
    return axes
