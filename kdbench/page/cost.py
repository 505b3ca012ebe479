"""What the runs of a page cost: the time of their stages, and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.page.record import number, tables, texts
from kdbench.page.source import Source
from kdbench.report.columns import Row

#: Stages that are named.
_LONGEST = 8
#: Stages that cost something have one of these.
_COMPUTED, _CACHED = "ok", "cached"


@dataclass(frozen=True)
class Kind:
    """All stages of a kind."""

    name: str
    computed: int
    """Stages that these runs computed."""
    seconds: float
    """What these took."""
    cached: int
    """Stages that were in the store."""
    saved: float
    """What those took when they were computed."""
    failed: int


@dataclass(frozen=True)
class Cost:
    """What was spent."""

    kinds: Sequence[Kind]
    total: Kind
    longest: Sequence[tuple[str, str, float, bool]]
    """(title, seed, seconds, whether it came from the store) of the stages that took longest."""
    memory: float | None
    """The largest peak of a stage, MiB."""
    devices: Sequence[str]

    @property
    def lines(self) -> list[Kind]:
        """The lines of a table, the sum last."""
        return [*self.kinds, self.total]


def cost_of(source: Source) -> Cost:
    """The cost of the runs of a page. A stage that several runs name counts once."""
    stages = list(_stages(source).values())
    kinds = dict.fromkeys(_word(stage, "kind") for stage in stages)
    timed = [stage for stage in stages if _status(stage) in (_COMPUTED, _CACHED)]
    longest = sorted(timed, key=lambda stage: (-_seconds(stage), _word(stage, "title")))
    return Cost(
        [_kind(name, [s for s in stages if _word(s, "kind") == name]) for name in kinds],
        _kind("all", stages),
        [
            (_word(stage, "title"), _seed(stage), _seconds(stage), _status(stage) == _CACHED)
            for stage in longest[:_LONGEST]
        ],
        max(_known(source.rows, "peak_mem_mb"), default=None),
        list(dict.fromkeys(_known(source.rows, "device"))),
    )


def _stages(source: Source) -> dict[str, Mapping[str, Any]]:
    """The stages of all runs by key. Of two the one that was computed."""
    stages: dict[str, Mapping[str, Any]] = {}
    for run in source.runs:
        for place, stage in enumerate(tables(run.record.get("stages"))):
            key = _word(stage, "key") or f"{run.name} {place}"
            if key not in stages or _status(stage) == _COMPUTED:
                stages[key] = stage
    return stages


def _kind(name: str, stages: Sequence[Mapping[str, Any]]) -> Kind:
    computed = [stage for stage in stages if _status(stage) == _COMPUTED]
    cached = [stage for stage in stages if _status(stage) == _CACHED]
    others = [s for s in stages if _status(s) not in (_COMPUTED, _CACHED, "not needed")]
    return Kind(
        name,
        len(computed),
        sum(map(_seconds, computed)),
        len(cached),
        sum(map(_seconds, cached)),
        len(others),
    )


def _word(stage: Mapping[str, Any], name: str) -> str:
    return " ".join(texts(stage.get(name)))


def _status(stage: Mapping[str, Any]) -> str:
    return _word(stage, "status")


def _seconds(stage: Mapping[str, Any]) -> float:
    return number(stage.get("seconds")) or 0.0


def _seed(stage: Mapping[str, Any]) -> str:
    seed = number(stage.get("seed"))
    return "not recorded" if seed is None else f"{seed:.0f}"


def _known(rows: Iterable[Row], name: str) -> list[Any]:
    return [row[name] for row in rows if row.get(name) is not None]
