"""The head of a page for a notebook: the finding and the verdicts. It has no script, and its few
styles touch nothing else of the notebook."""

from __future__ import annotations

from kdbench.page.build import _environment
from kdbench.page.finding import finding_of
from kdbench.page.matrix import matrix_of
from kdbench.page.source import Source
from kdbench.page.tasks import tasks_of

#: Tasks whose verdicts are shown.
_MOST_TASKS = 8


def notebook_of(source: Source) -> str:
    """The finding and the verdict matrices of some rows, as a piece of HTML."""
    tasks = tasks_of(source.rows)
    return (
        _environment()
        .get_template("notebook.html")
        .render(
            source=source,
            finding=finding_of(source.rows),
            matrices=[matrix_of(task) for task in tasks[:_MOST_TASKS]],
            left=max(0, len(tasks) - _MOST_TASKS),
        )
    )
