"""Inside a process that runs the conformance kit on what a plugin brings."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdbench.loading import host
from kdbench.loading.facts import CheckFacts
from kdbench.loading.registry import Registry
from kdbench.testing.kit import each_result, subject_of


def serve(channel: socket.socket, order: Mapping[str, Any], links: Mapping[str, int]) -> None:
    """As :func:`kdbench.loading.host.serve`, with one more question: ``check``."""
    host.serve(channel, order, links, {"check": _check})


def _check(
    registry: Registry, kind: str, name: str, rest: str, data_dir: str | None
) -> Iterator[CheckFacts]:
    folder = None if data_dir is None else Path(data_dir)
    for result in each_result(subject_of(registry, kind, name, rest, folder)):
        yield CheckFacts(
            name=result.name, status=result.status, text=result.text, seconds=result.seconds
        )
