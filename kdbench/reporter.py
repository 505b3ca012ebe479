"""What a reporter is told of a run: a plugin's function that hears how it goes on.

It runs in a walled process of its own, which has no network. An exception there, or a process that
hangs or dies, ends the reporter and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ReportedRun:
    """A run that begins."""

    name: str
    """Of the folder of its results."""
    folder: Path
    """Where files may be written. What is there in the end is copied to ``reporters/PLUGIN/`` in
    the folder of the results: plain files, no folders, 64 of them and 64 MiB in all at most."""
    request: Mapping[str, Any]
    """What was asked for, as in run.json."""
    versions: Mapping[str, str]
    """Of kdbench, torch and what else computes."""
