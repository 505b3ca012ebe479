"""How long stages took and how much they left, so that a plan can say what it will cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench.bench.keys import digest
from kdbench.bench.kinds import Kind
from kdbench.bench.plan.plan import Stage
from kdbench.bench.run.work import work
from kdbench.bench.store.manifest import Manifest
from kdbench.untrusted.documents import parse_json

FILE = "timings.jsonl"
#: A network is built and run for an estimate, so what a line says of it has bounds.
_MOST_CLASSES, _WIDEST = 10_000, 512


@dataclass(frozen=True)
class Cost:
    """Expected seconds of one worker and bytes in the store.

    exact: from the same stage with another seed or other inputs. Else from such as are comparable,
    by the image where both train by recipe. Networks that were never trained here are compared
    with others by their arithmetic.
    """

    seconds: float
    bytes: float
    exact: bool
    #: Nothing comparable was computed here. A few steps were tried, see
    #: :mod:`kdbench.bench.run.calibration`.
    tried: bool = False


@dataclass(frozen=True)
class PastStage:
    """A stage that was once computed."""

    title: str
    key: str
    seed: int
    seconds: float
    bytes: int
    images: int
    networks: tuple[str, ...]
    shape: tuple[int, int] | None


def _exact(stage: Stage) -> str:
    """Stages that cost the same: all but the seed and what they rest on, whose networks the title
    names."""
    context = {name: stage.context.get(name) for name in ("images", "numerics")}
    return digest([stage.kind, stage.title, stage.values, context])[:16]


def _rough(stage: Stage) -> str:
    """Stages that are comparable at best: same kind, networks, method of their own (not a
    distiller), and arithmetic."""
    return digest(
        [stage.kind, stage.networks, stage.values.get("name"), stage.context.get("numerics")]
    )[:16]


def _of_any_network(stage: Stage) -> str:
    """Stages that do the same with other networks: same kind, same methods, same arithmetic."""
    # A distillation has a distiller, and the defense that changes its loss. Others have a name.
    methods = (stage.values, stage.values.get("distiller"), stage.values.get("defense"))
    names = [values and values.get("name") for values in methods]
    return digest([stage.kind, names, stage.context.get("numerics")])[:16]


def _work(kind: Kind, stage: Stage | PastStage) -> float | None:
    return None if stage.shape is None else work(kind.training, stage.networks, *stage.shape)


def _shape(value: Any) -> tuple[int, int] | None:
    """As a line has it. A line may say anything, so a side is no larger than a usual image's."""
    if value is None:
        return None
    classes, side = map(int, value)
    return (classes, side) if classes <= _MOST_CLASSES and side <= _WIDEST else None


def _ratio(images: int, seen: int) -> float:
    return images / seen if images and seen else 1.0


class Timings:
    """The store's record of costs: a line a stage, appended; lines that cannot be read are passed
    over."""

    def __init__(self, root: Path) -> None:
        self.path = root / FILE
        self._exact: dict[str, list[PastStage]] = {}
        self._rough: dict[str, list[PastStage]] = {}
        self._any_network: dict[str, list[PastStage]] = {}
        self._titles: dict[tuple[str, int], str] = {}
        self._costs: dict[tuple[str, int], tuple[float, float]] = {}
        self._by_work: dict[tuple[Any, ...], Cost | None] = {}
        try:
            lines: Iterable[str] = self.path.read_text(
                encoding="utf-8", errors="replace"
            ).splitlines()
        except OSError:
            lines = ()
        for line in lines:
            try:
                entry = parse_json(line)
                seen = PastStage(
                    str(entry["title"]),
                    str(entry["key"]),
                    int(entry["seed"]),
                    float(entry["seconds"]),
                    int(entry["bytes"]),
                    int(entry.get("images", 0)),
                    tuple(map(str, entry.get("networks", ()))),
                    _shape(entry.get("shape")),
                )
                self._exact.setdefault(entry["exact"], []).append(seen)
                self._rough.setdefault(entry["rough"], []).append(seen)
                # Older lines do not have it.
                self._any_network.setdefault(entry.get("any_network", ""), []).append(seen)
            except (ValueError, KeyError, TypeError, OverflowError):
                continue
            self._titles[seen.title, seen.seed] = seen.key

    def add(self, stage: Stage, manifest: Manifest) -> None:
        """Note a stage that was just computed; a full disk costs the note."""
        line = {
            "kind": stage.kind,
            "title": stage.title,
            "key": stage.key,
            "seed": stage.seed,
            "exact": _exact(stage),
            "rough": _rough(stage),
            "any_network": _of_any_network(stage),
            "networks": stage.networks,
            "shape": stage.shape,
            "seconds": manifest.seconds,
            "bytes": manifest.size,
            "images": stage.images,
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            return

    def cost(self, stage: Stage) -> Cost | None:
        """The median of what such stages took; None where none was ever computed here."""
        if not self._rough:
            return None
        exact, rough = _exact(stage), _rough(stage)
        if exact in self._exact:
            return Cost(*self._median(exact, self._exact[exact], stage.images), exact=True)
        if rough in self._rough:
            return Cost(*self._median(rough, self._rough[rough], stage.images), exact=False)
        return self._by_arithmetic(stage)

    def _by_arithmetic(self, stage: Stage) -> Cost | None:
        """From stages that did the same with other networks, by the arithmetic of both. None: there
        are none, or what a network computes is not known. Once for all stages that are alike."""
        alike = _of_any_network(stage)
        key = alike, stage.networks, stage.shape, stage.images
        if key not in self._by_work:
            self._by_work[key] = self._scaled_cost(stage, self._any_network.get(alike, []))
        return self._by_work[key]

    def _scaled_cost(self, stage: Stage, seen: list[PastStage]) -> Cost | None:
        own = _work(stage.kind, stage)
        costs = [
            (self._scaled(past, own / theirs * _ratio(stage.images, past.images)), past.bytes)
            for past in seen
            if own is not None and (theirs := _work(stage.kind, past)) is not None
        ]
        if not costs:
            return None
        seconds, sizes = zip(*costs, strict=True)
        return Cost(statistics.median(seconds), statistics.median(sizes), exact=False)

    def _scaled(self, past: PastStage, ratio: float) -> float:
        """Seconds of a stage with so many times the arithmetic. A process starts as fast as ever:
        that took no longer than the shortest stage of all."""
        return self._start + (past.seconds - self._start) * ratio

    @cached_property
    def _start(self) -> float:
        return min(past.seconds for seen in self._rough.values() for past in seen)

    def _median(self, key: str, seen: list[PastStage], images: int) -> tuple[float, float]:
        """Seconds and bytes, once for all stages of a plan that are alike."""
        if (key, images) not in self._costs:
            seconds = statistics.median(s.seconds * _ratio(images, s.images) for s in seen)
            self._costs[key, images] = seconds, statistics.median(s.bytes for s in seen)
        return self._costs[key, images]

    def namesake(self, stage: Stage) -> str | None:
        """Key of the last stage of the same title and seed."""
        return self._titles.get((stage.title, stage.seed))
