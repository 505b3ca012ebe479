"""Which defense comes first. Defenses share a rank where the seeds cannot tell them apart. A
defense that was not measured has no rank.

The rule, the same for one attack and for the worst case over attacks:

1.  One seed is no ranking. A setting that was measured at fewer than two seeds has no rank.
2.  Defenses that lose more than 3 points of ACC against the undefended control come after all
    others.
3.  Within each of these two classes the mean student_asr over the seeds decides, lowest first.
4.  Ties are as in standard competition ranking (1, 1, 3). A defense shares the rank of the best one
    of its group unless it is shown to be worse. The first that is worse starts a new group, and its
    place in the order is the group's rank. No group has defenses of both classes.

A defense is shown to be worse if the 95 % interval of the difference of their student_asr lies
above 0. An interval that touches 0 is a tie. The difference is taken over the seeds that both have,
seed by seed, since the defenses of one group share teachers, first weights and batches there. See
:func:`kdbench.report.noise.over_seeds`. In the worst case it is the difference between the two
defenses' worst attacks. Two defenses without two seeds in common tie. Only different worst attacks
can bring that about.

The intervals are not corrected: a rank is a summary. The corrected comparisons of every two
defenses are in :mod:`kdbench.report.paired`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kdbench.report.columns import Row
from kdbench.report.confinement import confinement_of
from kdbench.report.paired import common, paired_difference
from kdbench.report.settings import attack_label, changes, changes_text
from kdbench.report.verdict import STOPPED_ACC_LOSS
from kdbench.report.words import CONCLUSIVE as CONCLUSIVE

#: Seeds that a ranking needs. One says nothing about another training.
MIN_SEEDS = 2
ONE_SEED = "one seed is no ranking"
#: A method by its name and the digest of its numbers.
_Numbered = tuple[str, str]


def assign_ranks(records: Iterable[Row]) -> None:
    """Set ``rank`` of records that are compared with each other, by the rule above.

    Each has ``defense``, ``student_asr`` (%), ``acc_lost`` (points), ``rank_reason`` and ``rows``,
    its measured rows by seed. A record that has a reason already gets the rank None. A record that
    loses too much ACC gets that as its reason.
    """
    eligible = []
    for record in records:
        record["rank"] = None
        if not record["rank_reason"]:
            eligible.append(record)
    best: Row | None = None
    rank = 0
    for place, record in enumerate(sorted(eligible, key=_order), 1):
        if best is None or _loses(record) != _loses(best) or _worse(record, best):
            best, rank = record, place
        record["rank"] = rank
        if _loses(record):
            lost = f"{record['acc_lost']:.1f} points of ACC lost, more than {STOPPED_ACC_LOSS:.0f}"
            record["rank_reason"] = f"{lost}: after all that lose less"


def _loses(record: Row) -> bool:
    return bool(record["acc_lost"] > STOPPED_ACC_LOSS)


def _worse(record: Row, best: Row) -> bool:
    """Whether the seeds that both have show more ASR than the best one's."""
    pairs = common(best["rows"], record["rows"], "student_asr")
    return len(pairs) >= MIN_SEEDS and paired_difference(pairs, "student_asr").low > 0


def _order(record: Row) -> tuple[bool, float, str]:
    return _loses(record), record["student_asr"], str(record["defense"])


def seeds_needed(groups: Iterable[list[Row]]) -> set[Any]:
    """The seeds at which a setting must have been measured to be ranked with these settings: all
    seeds of those that can be ranked.

    The means of two defenses compare only over the same seeds. Much may transfer at one seed, and
    hardly anything at another.

    Args:
        groups: the rows of each setting.
    """
    good = [[row for row in members if row.get("status") == "ok"] for members in groups]
    return {row.get("seed") for rows in good if _conclusive(rows) for row in rows}


def why_unranked(members: list[Row], needed: set[Any]) -> str:
    """Why a setting has no rank, in words. Empty if it has one.

    Args:
        members: its rows.
        needed: see :func:`seeds_needed`.
    """
    good = [row for row in members if row.get("status") == "ok"]
    failed = {row.get("seed"): row.get("status") for row in members if row.get("status") != "ok"}
    if not good:
        return f"not measured: {_seeds(failed)}"
    if not _conclusive(good):
        verdicts = {row.get("verdict") for row in good}
        if verdicts == {"inconclusive"}:
            return "inconclusive at every seed"
        return (
            "no conclusive verdict at any seed"
            if any(verdicts)
            else str(good[0].get("reason") or "no verdict")
        )
    lacking = needed - {row.get("seed") for row in good}
    if lacking:
        missing = {seed: failed.get(seed) or "missing" for seed in lacking}
        return f"measured at fewer seeds than others: {_seeds(missing)}"
    if len(good) < MIN_SEEDS:
        return ONE_SEED
    return ""


def _conclusive(rows: list[Row]) -> bool:
    return any(row.get("verdict") in CONCLUSIVE for row in rows)


def _seeds(states: Mapping[Any, Any]) -> str:
    in_order = sorted(states.items(), key=lambda item: str(item[0]))
    return ", ".join(f"seed {seed} {state}" for seed, state in in_order)


def worst_cases(records: list[Row]) -> list[Row]:
    """One record per defense from the ranked records of all attacks on one pair, see
    :func:`kdbench.report.leaderboard.overall`.

    An attack counts for a defense that has a rank against it. A defense for which fewer attacks
    count than for another one is not ranked. An attack that counts for no defense (nothing
    transferred) costs none a rank. Attacks of one name with other numbers are other attacks, and so
    are defenses.
    """
    attacks: dict[_Numbered, str] = {}
    by_defense: dict[_Numbered, dict[_Numbered, Row]] = {}
    for record in records:
        attack = _numbered(record, "attack")
        attacks[attack] = attack_label(record)
        by_defense.setdefault(_numbered(record, "defense"), {})[attack] = record
    counted = {
        defense: {a: r for a, r in measured.items() if r["rank"] is not None}
        for defense, measured in by_defense.items()
    }
    needed: set[_Numbered] = set().union(*counted.values())
    cases = [
        _worst_case(measured, counted[defense], attacks, needed)
        for defense, measured in by_defense.items()
    ]
    assign_ranks(cases)
    return cases


def _worst_case(
    measured: Mapping[_Numbered, Row],
    counted: Mapping[_Numbered, Row],
    attacks: Mapping[_Numbered, str],
    needed: set[_Numbered],
) -> Row:
    """The record of one defense.

    Args:
        measured: its records by attack.
        counted: those of them that count.
        attacks: every attack, with its label.
        needed: the attacks that count for any defense.
    """
    missing = {
        a: measured[a]["rank_reason"] if a in measured else "not measured"
        for a in sorted(attacks.keys() - counted.keys())
    }
    lacking = [f"{attacks[a]} ({reason})" for a, reason in missing.items() if a in needed]
    first = next(iter(measured.values()))
    case: Row = {
        "defense": first["defense"],
        "defense_digest": first["defense_digest"],
        "changed": changes_text(changes(first, "shared", "defense")),
        "rank_reason": ""
        if counted and not lacking
        else f"no rank against {', '.join(lacking) or 'any attack'}",
        "worst_attack": None,
        "n_attacks": len(counted),
        "attacks": _labels(attacks, sorted(counted)),
        "missing_attacks": _labels(attacks, missing),
        "acc_lost": max((r["acc_lost"] for r in counted.values()), default=None),
        "n_seeds": min(r["n_seeds"] for r in (counted or measured).values()),
        "confinement": confinement_of((counted or measured).values()),
    }
    if not counted:
        return case
    # Of attacks that are equally bad the first by name, so that the order of the rows does not
    # matter.
    worst = max(sorted(counted), key=lambda attack: counted[attack]["student_asr"])
    names = ("student_asr", "rank_low", "rank_high", "verdict", "rows")
    return case | {"worst_attack": attacks[worst]} | {n: counted[worst][n] for n in names}


def _labels(attacks: Mapping[_Numbered, str], chosen: Iterable[_Numbered]) -> str:
    return ", ".join(attacks[attack] for attack in chosen)


def _numbered(record: Row, part: str) -> _Numbered:
    """The method of a record, attack or defense."""
    return str(record[part]), str(record[f"{part}_digest"])
