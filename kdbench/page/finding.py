"""What was found, in one sentence, by counts of verdicts.

The headline follows from the cells, the first rule that fits:

1.  No cell was measured: ``None of the 3 cells could be measured.``
2.  No measured cell has a verdict, since the teachers are imported, or since the controls are
    missing: it says which.
3.  No defense was asked for: in how many of the judged runs each attack travelled. A run is
    *judged* if it has a verdict. An attack travelled if this verdict is not ``inconclusive``.
4.  Everything travelled too little: ``Too little of the backdoor travelled to judge a defense in
    any of 6 runs.``
5.  One defense: in how many of its conclusive runs it stopped each attack.
6.  Several, and none stopped anything: how many, and in how many conclusive runs. Those that
    stopped an attack partly are named.
7.  Several, and some stopped an attack: up to two pairs of defense and attack are named, with
    their counts. More are counted, and the first three are named after the headline.

Then come reservations, each where it applies: what stopped an attack partly, how many runs were
inconclusive, how many cells failed, and that one seed is no ranking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdbench.page.marks import UNDEFENDED, outcome
from kdbench.report.columns import Row
from kdbench.report.paired import grouped
from kdbench.report.ranking import CONCLUSIVE
from kdbench.report.settings import attack_label, defense_label

#: Names that a sentence has. More are counted.
_NAMED = 3
#: Pairs of an attack and a defense that a headline names.
_FEW = 2
#: Counts of (attack, defense).
_Counts = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Finding:
    """What was found."""

    headline: str
    """One sentence."""
    reservations: tuple[str, ...]
    """What must be known beside it, a sentence each."""


def finding_of(rows: Sequence[Row]) -> Finding:
    """What the rows of a page say, see the rules above."""
    measured = [row for row in rows if row.get("status") == "ok"]
    judged = [row for row in measured if row.get("verdict")]
    defended = [row for row in judged if row["defense"] != UNDEFENDED]
    if not measured:
        return Finding(f"None of the {_count(len(rows), 'cell')} could be measured.", ())
    if not judged:
        reservations = [*_failed(rows, measured)]
        return Finding(_no_verdict(measured), tuple(reservations))
    if not any(row["defense"] != UNDEFENDED for row in rows):
        return Finding(_travelled(judged), (*_failed(rows, measured), *_one_seed(judged)))
    conclusive = [row for row in defended if row["verdict"] in CONCLUSIVE]
    if not conclusive:
        runs = f" in any of {len(defended)} runs" if len(defended) > 1 else ""
        headline = f"Too little of the backdoor travelled to judge a defense{runs}."
        return Finding(headline, (*_failed(rows, measured), *_one_seed(judged)))
    headline, partly = _defended(conclusive)
    little = [row for row in judged if row["verdict"] == "inconclusive"]
    reservations = [*partly]
    if little:
        reservations.append(
            f"In {len(little)} of {_count(len(judged), 'run')} too little of the backdoor "
            "travelled to judge."
        )
    return Finding(headline, (*reservations, *_failed(rows, measured), *_one_seed(judged)))


def _no_verdict(measured: Sequence[Row]) -> str:
    if all(row.get("reason_code") == "imported_teacher" for row in measured):
        return "Nobody knows the trigger of an imported teacher, so there is no verdict."
    return "Control C1 or C3 is missing, so there is no verdict."


def _travelled(judged: Sequence[Row]) -> str:
    parts = []
    for attack, members in _by_attack(judged).items():
        gone = sum(row["verdict"] in CONCLUSIVE for row in members)
        parts.append(f"{attack} travelled in {gone} of {_count(len(members), 'run')}")
    return f"{_joined(parts)}. No defense was asked for."


def _defended(conclusive: Sequence[Row]) -> tuple[str, list[str]]:
    """(the headline, what stopped an attack partly)."""
    defenses = list(dict.fromkeys(map(defense_label, conclusive)))
    attacks = list(_by_attack(conclusive))
    stopped, partly = _counts(conclusive, "stopped"), _counts(conclusive, "partly")
    runs = _counts(conclusive, *CONCLUSIVE)
    more = [f"{_clauses(partly, runs, 'partly stopped')}."] if partly else []
    if len(defenses) == 1:
        parts = [
            f"{attack} in {stopped[attack, defenses[0]]} of "
            f"{_count(runs[attack, defenses[0]], 'run')}"
            for attack in attacks
        ]
        return f"{defenses[0]} stopped {_joined(parts)}.", more
    if not stopped:
        return (
            f"Of {len(defenses)} defenses none stopped {_joined(attacks, 'or')} in any of "
            f"{_count(len(conclusive), 'judged run')}."
        ), more
    who = {defense for _, defense in stopped}
    if len(stopped) <= _FEW:
        others = len(defenses) - len(who)
        rest = f"; of {len(defenses)} defenses {others} stopped nothing" if others else ""
        return f"{_clauses(stopped, runs, 'stopped')}{rest}.", more
    return (
        f"{len(who)} of {len(defenses)} defenses stopped {_joined(attacks, 'or')} in "
        f"{stopped.total()} of {_count(len(conclusive), 'judged run')}."
    ), [f"{_clauses(stopped, runs, 'stopped')}.", *more]


def _clauses(counts: _Counts, runs: _Counts, verb: str) -> str:
    """``anp stopped ckd in 4 of 10 runs``, the most frequent first."""
    in_order = sorted(counts.items(), key=lambda item: (-item[1] / runs[item[0]], item[0]))
    parts = [
        f"{defense} {verb} {attack} in {count} of {_count(runs[attack, defense], 'run')}"
        for (attack, defense), count in in_order[:_NAMED]
    ]
    left = sum(count for _, count in in_order[_NAMED:])
    more = [f"others {verb} an attack in {_count(left, 'run')}"] if left else []
    return _joined([*parts, *more])


def _counts(rows: Iterable[Row], *verdicts: str) -> _Counts:
    return Counter(
        (attack_label(row), defense_label(row)) for row in rows if row["verdict"] in verdicts
    )


def _by_attack(rows: Iterable[Row]) -> dict[str, list[Row]]:
    labelled = [row | {"attack": attack_label(row)} for row in rows]
    return {attack: members for (attack,), members in grouped(labelled, ("attack",)).items()}


def _failed(rows: Sequence[Row], measured: Sequence[Row]) -> Iterable[str]:
    failed = sum(outcome(row) == "failed" for row in rows)
    if failed:
        yield f"{failed} of {_count(len(rows), 'cell')} failed."


def _one_seed(judged: Sequence[Row]) -> Iterable[str]:
    if len({row["seed"] for row in judged}) == 1:
        yield "One seed is no ranking."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _joined(parts: Sequence[str], word: str = "and") -> str:
    if len(parts) > _NAMED + 1:
        parts = [*parts[:_NAMED], f"{len(parts) - _NAMED} more"]
    return f" {word} ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
