"""Does a shorter training say what a longer one says: the verdicts, and the order of the defenses?

Two sets of rows are matched by dataset, attack, defense, distiller and pair. Preset, seeds and all
numbers of the training may differ, since these are what is compared. So may the size of the
dataset: ``gtsrb-subset`` is matched with ``gtsrb``.

A *cell* here is one defense on one task, over its seeds. Its verdict is the one that more than half
of its seeds have. Only cells that the longer set decides are compared: where the longer training
has no conclusive verdict, it cannot say that the shorter one is right. ``none`` has no verdict of
its own, so it counts in the order only.

The order is by the mean ASR of the student, over the seeds at which all defenses of a task were
measured. The defenses of a task compare over the same seeds only. Kendall's tau-b of the two orders
is 1 where they are the same and -1 where one is the reverse of the other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from scipy import stats

from kdbench.errors import ConfigError
from kdbench.report.columns import Row, conclusive_removed
from kdbench.report.merge import merge
from kdbench.report.paired import by_seed, grouped
from kdbench.report.ranking import CONCLUSIVE
from kdbench.report.read import ResultsFile
from kdbench.report.settings import dataset_family
from kdbench.report.words import UNDEFENDED as UNDEFENDED

#: Rows of two sets with these names in common are of one task.
TASK = ("dataset", "attack", "distiller", "teacher", "student")
NO_MAJORITY = "no majority"
#: The verdicts of a cell, as a table shows them.
VERDICTS = (*CONCLUSIVE, "inconclusive", NO_MAJORITY)
#: Two defenses are in the same order or in the other one. That is no correlation.
MIN_DEFENSES = 3
#: From this share on, of at least so many cells, the shorter set's verdicts may be taken for those
#: of the longer one.
SAME_VERDICTS, MIN_CELLS = 0.9, 6
#: From this mean tau on the shorter set's order may be taken for that of the longer one.
SAME_ORDER = 0.7
#: Points. Where the mean of what is removed differs by more, the shorter set misleads about a
#: defense, whatever the verdicts are.
MISLEADS = 20.0


@dataclass(frozen=True)
class RowSet:
    """The rows of one length of training."""

    name: str
    rows: list[Row]


@dataclass(frozen=True)
class Summary:
    """One defense on one task in one set."""

    verdict: str
    """An entry of :data:`VERDICTS`."""
    votes: int
    """Seeds with this verdict. Without a majority: those with the most frequent one."""
    judged: int
    """Seeds with any verdict."""
    asr_by_seed: Mapping[int, float]
    """ASR of the student by measured seed, %."""
    removed: float | None
    """Mean of what was removed over the conclusive seeds, %. None: there is none."""

    @property
    def asr(self) -> float:
        """Mean ASR of the student over the measured seeds, %."""
        return fmean(self.asr_by_seed.values())


@dataclass(frozen=True)
class Cell:
    """One defense on one task in both sets."""

    task: tuple[str, ...]
    """Values of :data:`TASK`."""
    defense: str
    short: Summary
    long: Summary

    @property
    def is_compared(self) -> bool:
        """Whether the longer set decides it."""
        return self.defense != UNDEFENDED and self.long.verdict in CONCLUSIVE

    @property
    def is_same(self) -> bool:
        """Whether both have the same verdict."""
        return self.short.verdict == self.long.verdict


@dataclass(frozen=True)
class Order:
    """The defenses of one task by their ASR, in both sets."""

    task: tuple[str, ...]
    """Values of :data:`TASK`."""
    defenses: int
    """How many both sets measured, ``none`` among them."""
    short: tuple[str, ...]
    """Their names by the shorter set, lowest ASR first. Empty: it has no seed at which all of them
    were measured."""
    long: tuple[str, ...]
    """The same by the longer set."""
    short_seeds: int
    """Seeds at which the shorter set measured all of them."""
    long_seeds: int
    """The same for the longer set."""
    tau: float | None
    """Kendall's tau-b. None: too few defenses, no common seed, or all have the same ASR."""
    p: float | None
    """Probability of a tau at least as far from 0 by chance."""


@dataclass(frozen=True)
class Share:
    """What the shorter set says of the cells that the longer one decides."""

    same: int
    """Cells with the same verdict."""
    other: int
    """Cells with another conclusive verdict."""
    undecided: int
    """Cells without a conclusive verdict. They mislead nobody, and they say nothing."""

    @property
    def compared(self) -> int:
        return self.same + self.other + self.undecided


@dataclass(frozen=True)
class Agreement:
    """All that two sets say about each other."""

    short: str
    """Name of the shorter set."""
    long: str
    """Name of the longer set."""
    cells: list[Cell]
    """What both sets measured, ``none`` among it."""
    orders: list[Order]

    @property
    def share(self) -> Share:
        return share_of(self.cells)

    @property
    def taus(self) -> list[float]:
        """Of all tasks that have one."""
        return [order.tau for order in self.orders if order.tau is not None]

    def confusion(self) -> Counter[tuple[str, str]]:
        """(verdict of the shorter set, verdict of the longer one) -> cells, whether compared or
        not."""
        return Counter(
            (cell.short.verdict, cell.long.verdict)
            for cell in self.cells
            if cell.defense != UNDEFENDED
        )

    def by_defense(self) -> dict[str, list[Cell]]:
        """The cells of each defense but ``none``, sorted by its name."""
        names = sorted({cell.defense for cell in self.cells} - {UNDEFENDED})
        return {name: [cell for cell in self.cells if cell.defense == name] for name in names}

    def misleads(self) -> list[str]:
        """The defenses about which the shorter set misleads: most of its conclusive verdicts on
        them are others, or what they remove there differs by much."""
        return [name for name, cells in self.by_defense().items() if _misleads(cells)]

    def conclusion(self) -> str:
        """What a reader of the shorter set may conclude, in words."""
        share = self.share
        if share.compared < MIN_CELLS:
            were = "verdict was" if share.compared == 1 else "verdicts were"
            return f"nothing: {share.compared} {were} compared, and {MIN_CELLS} are needed"
        verdicts = sorted({cell.long.verdict for cell in self.cells if cell.is_compared})
        # Where there is one verdict only, even a set that always says the same would agree.
        of_verdicts = "the verdicts"
        if len(verdicts) == 1:
            of_verdicts = f'the verdict "{verdicts[0]}", the only one that occurred'
        holds = {
            of_verdicts: share.same >= SAME_VERDICTS * share.compared,
            "the order of the defenses": bool(self.taus) and fmean(self.taus) >= SAME_ORDER,
        }
        known = [words for words, is_so in holds.items() if is_so]
        return " and ".join(known) or "neither the verdicts nor the order of the defenses"


def agreements(sets: Sequence[RowSet]) -> list[Agreement]:
    """Every set against every longer one.

    Args:
        sets: the shortest first.
    """
    return [agreement(short, long) for short, long in combinations(sets, 2)]


def summaries(of: RowSet) -> dict[tuple[tuple[str, ...], str], Summary]:
    """(task, defense) -> what its measured rows say."""
    return {
        (task, defense): summary(list(seeds.values()))
        for task, side in _tasks(of.rows).items()
        for defense, seeds in side.items()
    }


def agreement(short: RowSet, long: RowSet) -> Agreement:
    """What two sets say of the tasks and defenses that both have."""
    ours, theirs = _tasks(short.rows), _tasks(long.rows)
    cells: list[Cell] = []
    orders: list[Order] = []
    for task in sorted(ours.keys() & theirs.keys()):
        defenses = tuple(sorted(ours[task].keys() & theirs[task].keys()))
        sides = [{name: rows[task][name] for name in defenses} for rows in (ours, theirs)]
        cells += [
            Cell(task, name, *(summary(list(side[name].values())) for side in sides))
            for name in defenses
        ]
        if defenses:
            orders.append(_order(task, *sides))
    return Agreement(short.name, long.name, cells, orders)


#: The measured rows of a set: task -> defense -> seed -> row.
_Tasks = dict[tuple[str, ...], dict[str, dict[int, Row]]]


def _tasks(rows: Iterable[Row]) -> _Tasks:
    tasks: _Tasks = {}
    named = [row | {"dataset": dataset_family(row["dataset"])} for row in rows]
    for key, members in grouped(named, (*TASK, "defense")).items():
        measured = {
            seed: row for seed, row in by_seed(members).items() if row["student_asr"] is not None
        }
        if measured:
            tasks.setdefault(key[:-1], {})[key[-1]] = measured
    return tasks


def summary(rows: Sequence[Row]) -> Summary:
    """One cell of measured rows, one a seed."""
    votes = Counter(row["verdict"] for row in rows if row["verdict"] is not None)
    word, most = max(votes.items(), key=lambda item: item[1], default=(NO_MAJORITY, 0))
    removed = [value for row in rows if (value := conclusive_removed(row)) is not None]
    return Summary(
        verdict=word if 2 * most > votes.total() else NO_MAJORITY,
        votes=most,
        judged=votes.total(),
        asr_by_seed={row["seed"]: row["student_asr"] for row in rows},
        removed=fmean(removed) if removed else None,
    )


#: One side of a task: defense -> seed -> row.
_Side = Mapping[str, Mapping[int, Row]]


def _order(task: tuple[str, ...], short: _Side, long: _Side) -> Order:
    (short_asr, short_seeds), (long_asr, long_seeds) = _means(short), _means(long)
    tau = p = None
    if len(short) >= MIN_DEFENSES and short_asr and long_asr:
        pairs = [(short_asr[name], long_asr[name]) for name in short]
        result = stats.kendalltau(*zip(*pairs, strict=True), variant="b")
        if not math.isnan(result.statistic):
            tau, p = float(result.statistic), float(result.pvalue)
    return Order(
        task,
        len(short),
        _lowest_first(short_asr),
        _lowest_first(long_asr),
        short_seeds,
        long_seeds,
        tau,
        p,
    )


def _means(side: _Side) -> tuple[dict[str, float], int]:
    """The mean ASR of each defense over the seeds at which all were measured, and how many these
    are."""
    seeds = sorted(set.intersection(*map(set, side.values())))
    asr = {
        name: fmean(rows[seed]["student_asr"] for seed in seeds)
        for name, rows in side.items()
        if seeds
    }
    return asr, len(seeds)


def _lowest_first(asr: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(asr, key=lambda name: (asr[name], name)))


def share_of(cells: Iterable[Cell]) -> Share:
    """How many of some cells have the same verdict in both sets."""
    compared = [cell for cell in cells if cell.is_compared]
    same = sum(cell.is_same for cell in compared)
    decided = sum(cell.short.verdict in CONCLUSIVE for cell in compared)
    return Share(same, decided - same, len(compared) - decided)


def removed_by_both(cells: Iterable[Cell]) -> list[tuple[float, float]]:
    """(by the shorter set, by the longer one) of every cell that has both numbers."""
    removed = [(cell.short.removed, cell.long.removed) for cell in cells]
    return [(short, long) for short, long in removed if short is not None and long is not None]


def _misleads(cells: Sequence[Cell]) -> bool:
    share, differences = share_of(cells), [long - short for short, long in removed_by_both(cells)]
    moved = abs(fmean(differences)) if differences else 0.0
    return share.other > share.same or moved > MISLEADS


def row_set(name: str, files: Sequence[ResultsFile]) -> RowSet:
    """The rows of several runs of one length, under a name of their own.

    Args:
        name: where a file has several presets, that of the preset whose rows count.

    Raises:
        ConfigError: a file has several presets, and none is called so. Or the files cannot be
            merged, or have two parts of one dataset.
    """
    rows = merge([_of_preset(name, file) for file in files])
    parts: dict[str, str] = {}
    for dataset in {row["dataset"] for row in rows}:
        other = parts.setdefault(dataset_family(dataset), dataset)
        if other != dataset:
            both = " and ".join(sorted((dataset, other)))
            raise ConfigError(
                f"the set {name} has {both}, which would count as one dataset; leave the runs of "
                "one of them out"
            )
    return RowSet(name, rows)


def _of_preset(name: str, file: ResultsFile) -> ResultsFile:
    presets = list(dict.fromkeys(row["preset"] for row in file.rows))
    if len(presets) == 1:
        return file
    if name not in presets:
        raise ConfigError(
            f"{file.path} has the presets {', '.join(presets)}, so it is several lengths of "
            f"training, and none is called {name}; name the set after one of them"
        )
    kept = [
        (row, line)
        for row, line in zip(file.rows, file.lines, strict=True)
        if row["preset"] == name
    ]
    return ResultsFile(file.path, [row for row, _ in kept], [line for _, line in kept])
