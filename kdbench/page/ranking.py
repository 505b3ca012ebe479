"""Rankings with ties, and the paired differences behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdbench.page.marks import MARKS, UNDEFENDED, Mark
from kdbench.page.numbers import MISSING, between, signed, text
from kdbench.page.tasks import TASK, Setting, Task
from kdbench.report.columns import Row
from kdbench.report.leaderboard import as_records, overall
from kdbench.report.notes import notes
from kdbench.report.paired import (
    CONTROL,
    GROUP,
    against_control,
    by_seed,
    comparisons,
    grouped,
    side_label,
)
from kdbench.report.settings import defense_label, shared_label

#: Pairs of defenses that are compared for a page, and of these the ones that it shows.
_MOST_COMPARED, _MOST_SHOWN = 5000, 20
#: Lines of all tables.
_MOST_LINES = 600


@dataclass(frozen=True)
class Ranked:
    """A line of a ranking."""

    rank: str
    """With ``=`` where others have it too. Empty: it has none."""
    defense: str
    setting: int | None
    """The number of its setting. None: the line stands for several."""
    asr: str
    interval: str
    acc_lost: str
    seeds: str
    mark: Mark | None
    verdict: str
    undefended: str
    """Its ASR less that of no defense, with Holm's p. Where they were not compared, why. Empty: it
    is no defense itself, or the line stands for several."""
    control: str
    """Its ASR less that of C1, in the same way."""
    attack: str
    """Of a line that stands for several attacks: the worst."""
    first: bool
    """Whether it is the first of its attack."""
    remark: str


@dataclass(frozen=True)
class Ranking:
    """One table."""

    title: str
    lines: Sequence[Ranked]
    over_attacks: bool
    """Each defense by its worst attack."""


@dataclass(frozen=True)
class Rankings:
    """All tables of a page."""

    tables: Sequence[Ranking]
    lines_left: int
    """Lines that are not shown."""
    pairs: Sequence[Row]
    """Two defenses each, see :func:`kdbench.report.paired.comparisons`, of ASR only, and in
    ``task`` what tells their task from the others. The clearest differences are first."""
    pairs_left: int
    """Pairs that are not shown."""
    notes: Sequence[str]


@dataclass(frozen=True)
class _Compared:
    """Comparisons by group, then by defense."""

    undefended: dict[tuple[object, ...], dict[str, Row]]
    control: dict[tuple[object, ...], dict[str, Row]]
    is_whole: bool
    """Whether all were compared. Else there are too many pairs for a page."""

    def words(self, setting: Setting, others: Sequence[Row]) -> tuple[str, str]:
        """The difference of a setting from no defense and from C1, or why there is none.

        Args:
            others: the rows of no defense against the same attack.
        """
        row = setting.rows[0]
        group, label = _key(row, GROUP), defense_label(row)
        undefended, control = (
            pairs.get(group, {}).get(label) for pairs in (self.undefended, self.control)
        )
        c1 = [row for row in setting.measured if row.get("c1_asr") is not None]
        is_none = row["defense"] == UNDEFENDED
        return (
            "" if is_none else _difference(undefended) or self._why(setting, others, UNDEFENDED),
            _difference(control) or self._why(setting, c1, CONTROL),
        )

    def _why(self, setting: Setting, others: Sequence[Row], name: str) -> str:
        """Why a setting was not compared with the rows of another student."""
        seeds = by_seed(setting.measured)
        if not seeds:
            return "not measured"
        theirs = by_seed(others)
        if not theirs:
            return f"{name} was not measured"
        if name == UNDEFENDED and not self.is_whole:
            return "too many to compare here"
        both = len(seeds.keys() & theirs.keys())
        return f"{both or 'no'} seed in common, 2 are needed"


def rankings_of(rows: list[Row], tasks: Sequence[Task]) -> Rankings:
    """The rankings of a page, those over several attacks last."""
    few = _pairs(rows) <= _MOST_COMPARED
    pairs = [pair for pair in comparisons(rows) if _is_asr(pair)] if few else []
    control = [pair for pair in against_control(rows) if _is_asr(pair)]
    compared = _Compared(_by_group(pairs), _by_group(control), few)
    tables = [table for task in tasks for table in _of_task(task, compared)]
    tables += _over_attacks(rows, tasks)
    tables, lines_left = _cut(tables)
    left = max(0, len(pairs) - _MOST_SHOWN) if few else _pairs(rows)
    clearest = sorted(pairs, key=lambda pair: float(pair["p_holm"]))[:_MOST_SHOWN]
    names = {_key(task.rows[0], TASK): task.short for task in tasks}
    named = [pair | {"task": names[_key(pair, TASK)]} for pair in clearest]
    return Rankings(tables, lines_left, named, left, notes(rows, pairs))


def _cut(tables: Sequence[Ranking]) -> tuple[list[Ranking], int]:
    """The first lines of all tables, and how many there are more."""
    cut, lines = [], 0
    for table in tables:
        room = _MOST_LINES - lines
        if room > 0:
            cut.append(replace(table, lines=table.lines[:room]))
        lines += len(table.lines)
    return cut, max(0, lines - _MOST_LINES)


def _is_asr(pair: Row) -> bool:
    return bool(pair["metric"] == "student_asr")


def _pairs(rows: list[Row]) -> int:
    """How many pairs of defenses there are."""
    groups = grouped(rows, GROUP).values()
    sizes = [len(grouped(group, ("defense", "defense_digest"))) for group in groups]
    return sum(size * (size - 1) // 2 for size in sizes)


def _by_group(pairs: Sequence[Row]) -> dict[tuple[object, ...], dict[str, Row]]:
    """The comparisons with the undefended student or with C1, as the other less this one."""
    groups: dict[tuple[object, ...], dict[str, Row]] = {}
    for pair in pairs:
        a, b = side_label(pair, "a"), side_label(pair, "b")
        if a in (UNDEFENDED, CONTROL):
            groups.setdefault(_key(pair, GROUP), {})[b] = pair
        elif b == UNDEFENDED:
            turned = {"difference": -pair["difference"], "low": -pair["high"], "high": -pair["low"]}
            groups.setdefault(_key(pair, GROUP), {})[a] = pair | turned
    return groups


def _key(row: Row, names: Sequence[str]) -> tuple[object, ...]:
    return tuple(row.get(name) for name in names)


def _of_task(task: Task, compared: _Compared) -> list[Ranking]:
    lines = [
        line
        for attack in task.attacks
        for line in _ranked([s for s in task.settings if s.attack == attack], compared)
    ]
    return [Ranking(task.title, lines, False)]


def _ranked(settings: Sequence[Setting], compared: _Compared) -> list[Ranked]:
    ranks = [setting.record["rank"] for setting in settings]
    none = [row for s in settings for row in s.measured if row["defense"] == UNDEFENDED]
    lines: list[Ranked] = []
    for setting in sorted(settings, key=_place):
        record = setting.record
        lines.append(
            Ranked(
                _rank(record["rank"], ranks),
                setting.defense,
                setting.number,
                text(record["student_asr"]),
                _interval(record),
                text(record["acc_lost"]),
                _seeds(record),
                MARKS[setting.outcome],
                setting.share,
                *compared.words(setting, none),
                setting.attack,
                not lines,
                record["rank_reason"] or "",
            )
        )
    return lines


def _place(setting: Setting) -> tuple[bool, float, bool, float]:
    rank, asr = setting.record["rank"], setting.record["student_asr"]
    return rank is None, rank or 0, asr is None, asr or 0.0


def _rank(rank: int | None, ranks: Sequence[int | None]) -> str:
    if rank is None:
        return ""
    return f"{rank}{'=' if ranks.count(rank) > 1 else ''}"


def _interval(record: Row) -> str:
    """The interval of its ASR, within what a rate can be."""
    low, high = record["rank_low"], record["rank_high"]
    return "" if low is None or high is None else between((max(0.0, low), min(100.0, high)))


def _seeds(record: Row) -> str:
    failed = record.get("n_failed")
    return f"{record['n_seeds']}{f' ({failed} failed)' if failed else ''}"


def _difference(pair: Row | None) -> str:
    if pair is None:
        return ""
    return f"{signed(pair['difference'])} ({p_text(pair['p_holm'])})"


def p_text(p: float) -> str:
    """An error probability with two digits."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _over_attacks(rows: list[Row], tasks: Sequence[Task]) -> list[Ranking]:
    """Each defense by its worst attack, where there are several attacks."""
    if all(len(task.attacks) < 2 for task in tasks):
        return []
    names = ("schema", "dataset", "distiller", "teacher", "student", "preset", "shared_digest")
    tables = []
    for members in grouped(as_records(overall(rows)), names).values():
        first = members[0]
        pair = f"{first['teacher']} to {first['student']}"
        title = f"{first['dataset']}, {pair}, {first['distiller']}{shared_label(first)}"
        ranks = [record["rank"] for record in members]
        lines = [
            Ranked(
                _rank(record["rank"], ranks),
                defense_label(record),
                None,
                text(record["student_asr"]),
                _interval(record),
                text(record["acc_lost"]),
                str(record["n_seeds"]),
                None,
                str(record["verdict"] or MISSING),
                "",
                "",
                record["worst_attack"] or MISSING,
                False,
                record["rank_reason"] or "",
            )
            for record in members
        ]
        tables.append(Ranking(f"over all attacks, by the worst: {title}", lines, True))
    return tables
