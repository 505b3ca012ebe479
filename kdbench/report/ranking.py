"""Who comes first. Ranks are shared where the seeds cannot tell two defenses apart; whoever was not
measured has none.

The rule, the same for one attack and for the worst case over attacks:

1.  One seed is no ranking: a setting that was not measured at two or more has no rank.
2.  Defenses that lose more than 3 points of ACC against the undefended control come after all that
do not.
3.  Within each of the two classes the mean student_asr over the seeds decides, lowest first.
4.  Ties, as in standard competition ranking (1, 1, 3): in that order, a defense shares the rank of
    the best one of its group unless it is shown to be worse than that; the first that is starts a
    new group, whose rank is its place in the order. Groups never reach across the two classes.

Shown to be worse: the 95 % interval of the difference of their student_asr over the seeds that both
have lies above 0 (touching it is a tie). The difference is paired, seed by seed, since the defenses
of one group share teachers, first weights and batches there
(:func:`kdbench.report.noise.over_seeds`: Student's interval; where the differences do not vary,
that of two proportions at the least certain seed). In the worst case it is that between the two
defenses' worst attacks. Two defenses without two seeds in common, which only different worst
attacks can bring about, tie. The intervals are uncorrected: a rank is a summary, and the corrected
comparisons of every two defenses are in :mod:`kdbench.report.paired`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kdbench.report.paired import common, paired_difference
from kdbench.report.settings import attack_label, changes, changes_text
from kdbench.report.verdict import STOPPED_ACC_LOSS

#: Seeds that a ranking takes: one says nothing of another training.
MIN_SEEDS = 2
ONE_SEED = "one seed is no ranking"
CONCLUSIVE = ("stopped", "partly", "not stopped")
_Numbered = tuple[str, str]


def assign_ranks(records: Iterable[dict[str, Any]]) -> None:
    """Set ``rank`` of records that are compared with each other, by the rule above.

    Each has ``defense``, ``student_asr`` (%), ``acc_lost`` (points), ``rank_reason`` and ``rows``,
    its measured rows by seed. One whose reason is not empty gets None; one that loses too much ACC
    gets that as its reason.
    """
    eligible = []
    for record in records:
        record["rank"] = None
        if not record["rank_reason"]:
            eligible.append(record)
    best: dict[str, Any] | None = None
    rank = 0
    for place, record in enumerate(sorted(eligible, key=_order), 1):
        if best is None or _loses(record) != _loses(best) or _worse(record, best):
            best, rank = record, place
        record["rank"] = rank
        if _loses(record):
            lost = f"{record['acc_lost']:.1f} points of ACC lost, more than {STOPPED_ACC_LOSS:.0f}"
            record["rank_reason"] = f"{lost}: after all that lose less"


def _loses(record: Mapping[str, Any]) -> bool:
    return record["acc_lost"] > STOPPED_ACC_LOSS


def _worse(record: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    """Whether the seeds that both have show more ASR than the best one's."""
    pairs = common(best["rows"], record["rows"], "student_asr")
    return len(pairs) >= MIN_SEEDS and paired_difference(pairs, "student_asr").low > 0


def _order(record: Mapping[str, Any]) -> tuple[bool, float, str]:
    return _loses(record), record["student_asr"], str(record["defense"])


def seeds_needed(settings: Iterable[list[dict[str, Any]]]) -> set[Any]:
    """The seeds that a setting must have been measured at to be ranked with these: all of those
    whose rows can be ranked.

    The means of two defenses compare only over the same seeds: much travels at one seed, hardly
    anything at another.
    """
    good = [[row for row in members if row.get("status") == "ok"] for members in settings]
    return {row.get("seed") for rows in good if _conclusive(rows) for row in rows}


def why_unranked(members: list[dict[str, Any]], needed: set[Any]) -> str:
    """Why a setting has no rank, in words; empty if it has one. ``members``: its rows. ``needed``:
    see seeds_needed."""
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


def _conclusive(rows: list[dict[str, Any]]) -> bool:
    return any(row.get("verdict") in CONCLUSIVE for row in rows)


def _seeds(what: Mapping[Any, Any]) -> str:
    return ", ".join(
        f"seed {seed} {text}" for seed, text in sorted(what.items(), key=lambda item: str(item[0]))
    )


def worst_cases(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per defense from the ranked records of all attacks on one pair; see
    kdbench.report.leaderboard.overall.

    An attack counts for a defense that has a rank against it. A defense for which fewer attacks
    count than for another one is not ranked. An attack that counts for nobody (nothing travelled)
    costs nobody a rank. Attacks, and defenses, of one name with other numbers are others.
    """
    attacks: dict[_Numbered, str] = {}
    by_defense: dict[_Numbered, dict[_Numbered, dict[str, Any]]] = {}
    for record in records:
        attack = _numbered(record, "attack")
        attacks[attack] = attack_label(record)
        by_defense.setdefault(_numbered(record, "defense"), {})[attack] = record
    counted = {
        defense: {a: r for a, r in measured.items() if r["rank"] is not None}
        for defense, measured in by_defense.items()
    }
    needed = set().union(*counted.values())
    cases = []
    for defense, measured in by_defense.items():
        counts = counted[defense]
        # Of attacks that are equally bad the first by name, so that the order of the rows does not
        # matter.
        worst = max(sorted(counts), key=lambda attack: counts[attack]["student_asr"], default=None)
        missing = {
            a: measured[a]["rank_reason"] if a in measured else "not measured"
            for a in sorted(attacks.keys() - counts.keys())
        }
        lacking = [f"{attacks[a]} ({reason})" for a, reason in missing.items() if a in needed]
        first = next(iter(measured.values()))
        case = {
            "defense": first["defense"],
            "defense_digest": first["defense_digest"],
            "changed": changes_text(changes(first, "shared", "defense")),
            "rank_reason": ""
            if counts and not lacking
            else f"no rank against {', '.join(lacking) or 'any attack'}",
            "worst_attack": None if worst is None else attacks[worst],
            "n_attacks": len(counts),
            "attacks": ", ".join(attacks[a] for a in sorted(counts)),
            "missing_attacks": ", ".join(attacks[a] for a in missing),
            "acc_lost": max((r["acc_lost"] for r in counts.values()), default=None),
            "n_seeds": min(r["n_seeds"] for r in (counts or measured).values()),
        }
        if worst is not None:
            case |= {
                name: counts[worst][name]
                for name in ("student_asr", "rank_low", "rank_high", "verdict", "rows")
            }
        cases.append(case)
    assign_ranks(cases)
    return cases


def _numbered(record: Mapping[str, Any], part: str) -> _Numbered:
    """A method of one name and one set of numbers."""
    return str(record[part]), str(record[f"{part}_digest"])
