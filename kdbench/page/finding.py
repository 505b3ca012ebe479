"""What was found, in one sentence, by counts of verdicts.

The headline follows from the cells, the first rule that fits:

1.  No cell was measured: ``None of the 3 cells could be measured.``
2.  No measured cell has a verdict, since the teachers are imported, or since the controls are
    missing: it says which.
3.  No defense was asked for: in how many of the runs with a verdict each attack travelled. An
    attack travelled if the verdict is not ``inconclusive``.
4.  Everything travelled too little: ``Too little of the backdoor travelled to judge a defense in
    any of 6 runs.``
5.  One defense: in how many of its judged runs it stopped each attack. A run of a defense is
    *judged* if its verdict is not ``inconclusive``.
6.  Several, and none stopped anything: how many, and in how many judged runs.
7.  Several, and some stopped an attack: up to two pairs of defense and attack are named, with
    their counts. More are counted, and the three most frequent are named after the headline.

Of more than four attacks, rules 3 and 5 name those that travelled or were stopped, and count the
others. Where the runs have several distillers, an attack is named with its distiller, ``ckd under
fkd``: whether it was stopped may depend on it.

Then come reservations, each where it applies: what stopped an attack partly, how many runs were
inconclusive, that a run is not finished, how many cells failed, and that one seed is no ranking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdbench._counted import counted
from kdbench.page.marks import UNDEFENDED, outcome
from kdbench.report.columns import Row
from kdbench.report.paired import grouped
from kdbench.report.ranking import CONCLUSIVE
from kdbench.report.settings import attack_label, defense_label

#: Names that a sentence has. More are counted.
_NAMED = 3
#: Pairs of an attack and a defense that a headline names.
_FEW = 2
#: Counts of (attack with its distiller, defense).
_Counts = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Finding:
    """What was found."""

    headline: str
    """One sentence."""
    reservations: tuple[str, ...]
    """What must be known beside it, a sentence each."""


def finding_of(rows: Sequence[Row], missing: int = 0) -> Finding:
    """What the rows of a page say, see the rules above.

    Args:
        missing: cells that were asked for and have no row.
    """
    measured = [row for row in rows if row.get("status") == "ok"]
    judged = _named([row for row in measured if row.get("verdict")])
    reservations = [*_interrupted(len(rows), missing), *_failed(rows), *_one_seed(judged)]
    if not measured:
        return Finding(_not_measured(len(rows)), ())
    if not judged:
        return Finding(_no_verdict(measured), tuple(reservations))
    if not any(row["defense"] != UNDEFENDED for row in rows):
        asked = "" if missing else " No defense was asked for."
        return Finding(_travelled(judged) + asked, tuple(reservations))
    defended = [row for row in judged if row["defense"] != UNDEFENDED]
    conclusive = [row for row in defended if row["verdict"] in CONCLUSIVE]
    if not conclusive:
        runs = f" in any of {len(defended)} runs" if len(defended) > 1 else ""
        headline = f"Too little of the backdoor travelled to judge a defense{runs}."
        return Finding(headline, tuple(reservations))
    headline, partly = _defended(conclusive)
    little = [row for row in judged if row["verdict"] == "inconclusive"]
    if little:
        partly.append(
            f"In {len(little)} of {counted(len(judged), 'run')} too little of the backdoor "
            "travelled to judge."
        )
    return Finding(headline, (*partly, *reservations))


def _named(rows: Sequence[Row]) -> list[Row]:
    """The rows with the names that sentences use: ``attack``, and ``where`` with its distiller."""
    several = len({row["distiller"] for row in rows}) > 1
    named = []
    for row in rows:
        attack = attack_label(row)
        where = f"{attack} under {row['distiller']}" if several else attack
        named.append(row | {"attack": attack, "where": where, "label": defense_label(row)})
    return named


def _interrupted(rows: int, missing: int) -> list[str]:
    if not missing:
        return []
    return [f"Not finished: {rows} of {counted(rows + missing, 'cell')} were measured."]


def _not_measured(cells: int) -> str:
    if cells == 1:
        return "The only cell could not be measured."
    return f"None of the {cells} cells could be measured."


def _no_verdict(measured: Sequence[Row]) -> str:
    if all(row.get("reason_code") == "imported_teacher" for row in measured):
        return "Nobody knows the trigger of an imported teacher, so there is no verdict."
    return "Control C1 or C3 is missing, so there is no verdict."


def _travelled(judged: Sequence[Row]) -> str:
    groups = _by_attack(judged)
    runs = {attack: len(members) for attack, members in groups.items()}
    gone = {
        attack: sum(row["verdict"] in CONCLUSIVE for row in members)
        for attack, members in groups.items()
    }
    if len(groups) <= _NAMED + 1:
        parts = [f"{attack} travelled in {_of(gone[attack], runs[attack])}" for attack in groups]
        return f"{_joined(parts)}."
    some = [f"{attack} in {_of(gone[attack], runs[attack])}" for attack in groups if gone[attack]]
    if not some:
        return f"None of {len(groups)} attacks travelled in any of {len(judged)} runs."
    return f"{len(some)} of {len(groups)} attacks travelled: {_joined(some)}."


def _defended(conclusive: Sequence[Row]) -> tuple[str, list[str]]:
    """(the headline, what stopped an attack partly)."""
    defenses = list(dict.fromkeys(row["label"] for row in conclusive))
    attacks = list(dict.fromkeys(row["attack"] for row in conclusive))
    stopped, partly = _counts(conclusive, "stopped"), _counts(conclusive, "partly")
    runs = _counts(conclusive, *CONCLUSIVE)
    more = _partly(partly, runs)
    if len(defenses) == 1:
        return _one_defense(defenses[0], stopped, runs), more
    if not stopped:
        return (
            f"Of {len(defenses)} defenses none stopped {_joined(attacks, 'or')} in any of "
            f"{counted(len(conclusive), 'judged run')}."
        ), more
    who = {defense for _, defense in stopped}
    if len(stopped) <= _FEW:
        others = len(defenses) - len(who)
        rest = f"; {counted(others, 'other defense')} stopped nothing" if others else ""
        return f"{_clauses(stopped, runs)}{rest}.", more
    return (
        f"{len(who)} of {len(defenses)} defenses stopped {_joined(attacks, 'or')} in "
        f"{stopped.total()} of {counted(len(conclusive), 'judged run')}."
    ), [f"{_clauses(stopped, runs)}.", *more]


def _one_defense(defense: str, stopped: _Counts, runs: _Counts) -> str:
    if len(runs) <= _NAMED + 1:
        parts = [f"{where} in {_of(stopped[where, name], n)}" for (where, name), n in runs.items()]
        return f"{defense} stopped {_joined(parts)}."
    some = [f"{where} in {_of(n, runs[where, name])}" for (where, name), n in stopped.items()]
    if not some:
        return f"{defense} stopped none of {len(runs)} attacks in any of {runs.total()} runs."
    return f"{defense} stopped {len(some)} of {len(runs)} attacks: {_joined(some)}."


def _partly(partly: _Counts, runs: _Counts) -> list[str]:
    """What stopped an attack partly: who did, or how many, where these are many."""
    if len(partly) > _NAMED:
        who = {defense for _, defense in partly}
        return [
            f"{counted(len(who), 'defense')} partly stopped an attack, in {partly.total()} of "
            f"{counted(runs.total(), 'judged run')}."
        ]
    return [f"{_clauses(partly, runs, 'partly stopped')}."] if partly else []


def _clauses(counts: _Counts, runs: _Counts, verb: str = "stopped") -> str:
    """``anp stopped ckd in 4 of 10 runs``, the most frequent first."""
    in_order = sorted(counts.items(), key=lambda item: (-item[1], runs[item[0]], item[0]))
    parts = [
        f"{defense} {verb} {where} in {_of(count, runs[where, defense])}"
        for (where, defense), count in in_order[:_NAMED]
    ]
    left = sum(count for _, count in in_order[_NAMED:])
    more = [f"others {verb} an attack in {counted(left, 'run')}"] if left else []
    return _joined([*parts, *more])


def _counts(rows: Iterable[Row], *verdicts: str) -> _Counts:
    return Counter((row["where"], row["label"]) for row in rows if row["verdict"] in verdicts)


def _by_attack(rows: Iterable[Row]) -> dict[str, list[Row]]:
    return {attack: members for (attack,), members in grouped(rows, ("where",)).items()}


def _failed(rows: Sequence[Row]) -> Iterable[str]:
    failed = sum(outcome(row) == "failed" for row in rows)
    if failed:
        yield f"{failed} of {counted(len(rows), 'cell')} failed."


def _one_seed(judged: Sequence[Row]) -> Iterable[str]:
    if len({row["seed"] for row in judged}) == 1:
        yield "One seed is no ranking."


def _of(part: int, runs: int) -> str:
    return f"{part} of {counted(runs, 'run')}"


def _joined(parts: Sequence[str], word: str = "and") -> str:
    if len(parts) > _NAMED + 1:
        parts = [*parts[:_NAMED], f"{len(parts) - _NAMED} more"]
    return f" {word} ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
