"""Inside a process that runs a plugin's reporter."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import ContractError
from kdbench.loading import host
from kdbench.loading.registry import Registry
from kdbench.reporter import ReportedRun


def serve(channel: socket.socket, order: Mapping[str, Any], links: Mapping[str, int]) -> None:
    """As :func:`kdbench.loading.host.serve`, with three more questions: ``begin`` once, ``event``
    for each event, ``end`` once."""
    reporting = _Reporting()
    begin, event, end = reporting.begin, reporting.event, reporting.end
    host.serve(channel, order, links, {"begin": begin, "event": event, "end": end})


class _Reporting:
    """The reporter of one run."""

    def __init__(self) -> None:
        self.report: Callable[[Mapping[str, Any]], object] | None = None

    def begin(self, registry: Registry, name: str, run: Mapping[str, Any]) -> None:
        hook = registry.registered_reporters[name].value
        report = hook(run=ReportedRun(**{**run, "folder": Path(run["folder"])}))
        if not callable(report):
            raise ContractError(
                f"kdbench_reporter must return a function of one event, got {report!r}"
            )
        self.report = report

    def event(self, registry: Registry, event: Mapping[str, Any]) -> None:
        if self.report is None:
            raise ContractError("an event before the run began")
        self.report(event)

    def end(self, registry: Registry) -> None:
        close = getattr(self.report, "close", None)
        if close is not None:
            close()
