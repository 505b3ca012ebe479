"""The processes of a command, whose messages go to standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kdbench.bench.session.processes import Processes
from kdbench.cli.tell import tell

if TYPE_CHECKING:
    from kdbench.loading.catalogue import Catalogue
    from kdbench.loading.choice import PluginChoice


def command_processes(choice: PluginChoice, *arguments: Any, **options: Any) -> Processes:
    """As :class:`Processes`."""
    return Processes(choice, tell, *arguments, **options)


@contextlib.contextmanager
def catalogue(choice: PluginChoice, shows_broken: bool = False) -> Iterator[Catalogue]:
    """What is known of the plugins of a choice, for a command that computes nothing."""
    with Processes(choice, tell, computes=False, shows_broken=shows_broken) as processes:
        yield processes.catalogue
