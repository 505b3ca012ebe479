"""Inside a process that runs the conformance kit on a plugin's method."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.loading import host
from kdbench.loading.facts import CheckFacts
from kdbench.loading.registry import Registry
from kdbench.testing.kit import each_result


def serve(channel: socket.socket, order: Mapping[str, Any], links: Mapping[str, int]) -> None:
    """As :func:`kdbench.loading.host.serve`, with one more question: ``check``."""
    host.serve(channel, order, links, {"check": _check})


def _check(registry: Registry, kind: str, name: str, variant: str) -> Iterator[CheckFacts]:
    for result in each_result(registry.get(kind, name), variant):
        yield CheckFacts(
            name=result.name, status=result.status, text=result.text, seconds=result.seconds
        )
