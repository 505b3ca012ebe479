"""The whole plugin contract on one page.

A plugin is an installed package with an entry point in the group ``kdbench``. Its module implements
any of these hooks with ``@kdbench.hookspecs.hookimpl`` and returns classes or functions; kdbench
calls them when they are asked for. It may say which versions of this contract it works with:
``kdbench_api = ">=1,<2"``. With another one it is not loaded.

The module is imported in walled processes: one that answers questions about it, and the jobs that
need it. docs/threat-model.md says what they may open, and which tests show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from kdbench.attack import Attack
    from kdbench.data import Dataset, DatasetRequest, DatasetSource
    from kdbench.defense import Defense
    from kdbench.distiller import Distiller
    from kdbench.models import ModelSource
    from kdbench.models.base import FeatureModel
    from kdbench.reporter import ReportedRun

#: Of this page and of what the classes it names promise. The first number changes when a plugin may
#: have to (CONTRIBUTING.md).
API_VERSION = "1.4"

hookspec = pluggy.HookspecMarker("kdbench")
hookimpl = pluggy.HookimplMarker("kdbench")


@hookspec
def kdbench_attacks() -> list[type[Attack]]:
    """Return attack classes."""


@hookspec
def kdbench_distillers() -> list[type[Distiller]]:
    """Return distiller classes."""


@hookspec
def kdbench_defenses() -> list[type[Defense]]:
    """Return defense classes."""


@hookspec
def kdbench_models() -> dict[str, Callable[[int, int | None], FeatureModel] | ModelSource]:
    """Return networks by name: functions of the number of classes and the side of the images in
    pixels (None: not known), which build one with fresh weights from torch's global random state.
    A :class:`kdbench.models.ModelSource` is such a function and a line about the network."""


@hookspec
def kdbench_datasets() -> dict[str, Callable[[DatasetRequest], Dataset] | DatasetSource]:
    """Return datasets by name: functions of what was asked for (see
    :class:`kdbench.data.DatasetRequest`). A :class:`kdbench.data.DatasetSource` is such a function
    and what is known of the dataset before it is loaded: a line about it, its folder, its
    sizes."""


@hookspec(firstresult=True)
def kdbench_reporter(run: ReportedRun) -> Callable[[Mapping[str, Any]], object]:
    """Return a function that is called with each event of a run, for a tracker: a dictionary, as
    ``kdbench run --json`` prints it. If it has a ``close``, that is called in the end. A run has it
    if its plugin is named with ``--reporter``. It may write files into ``run.folder``."""
