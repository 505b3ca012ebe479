"""The cells that were not measured: why, with the end of the log and the command to try again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.page.record import command_of
from kdbench.page.source import Log, Source
from kdbench.report.columns import Row
from kdbench.report.paired import grouped
from kdbench.report.read import cell_key, in_words

#: Failures that are shown, and cells that each of them names.
_MOST, _NAMED = 50, 5


@dataclass(frozen=True)
class Failure:
    """What several cells failed by."""

    status: str
    reason: str
    cells: Sequence[str]
    """The first of them, in words."""
    count: int
    logs: Sequence[Log]
    """Of the stage, where its log is there."""


@dataclass(frozen=True)
class Failures:
    """All failures of a page."""

    shown: Sequence[Failure]
    left: int
    """Failures that are not shown."""
    cells: int
    commands: Sequence[str]
    """What tries the cells again: what is in the store is not computed twice."""


def failures_of(source: Source) -> Failures:
    """The failures of the runs of a page, the one with the most cells first."""
    failed = [row for row in source.rows if row.get("status") != "ok"]
    logs = [log for run in source.runs for log in run.logs]
    groups = grouped(failed, ("status", "reason")).values()
    in_order = sorted(groups, key=len, reverse=True)
    return Failures(
        [_failure(members, logs) for members in in_order[:_MOST]],
        max(0, len(in_order) - _MOST),
        len(failed),
        list(filter(None, map(command_of, source.runs))) if failed else [],
    )


def _failure(members: Sequence[Row], logs: Sequence[Log]) -> Failure:
    reason = str(members[0].get("reason") or "nobody recorded why")
    return Failure(
        str(members[0]["status"]),
        reason,
        [in_words(cell_key(row)) for row in members[:_NAMED]],
        len(members),
        # A reason begins with the title of the stage.
        [log for log in logs if log.title and reason.startswith(f"{log.title}: ")][:1],
    )
