"""From measurements to one row of results.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.bench.plan.plan import CONTROLS, JUDGING, Cell
from kdbench.bench.work.job import Outcome
from kdbench.metrics import Evaluation, Rate
from kdbench.report.columns import COLUMNS, SCHEMA
from kdbench.report.verdict import transfer, verdict

#: What is known of a measurement: its facts, or how the stage that was to make it ended.
Measured = Mapping[str, Any] | Outcome


def row(
    cell: Cell, measured: Mapping[str, Measured], facts: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """(the row, whether it is final). A row that misses something because a stage failed is not:
    the next run tries again.

    Args:
        measured: role -> see Measured, for every role of the cell. facts: columns that the
            measurements do not hold.
    """
    found: dict[str, Any] = dict.fromkeys(COLUMNS) | {"schema": SCHEMA} | cell.names | dict(facts)
    failed = next(
        (e for role, e in measured.items() if role not in CONTROLS and isinstance(e, Outcome)), None
    )
    if failed is not None:
        return found | {"status": failed.status, "reason": failed.reason}, False
    found["status"] = "ok"
    if "asr" not in _facts(measured["student"]):
        return found | _accuracies(measured), True
    known = {
        role: Evaluation.from_facts(facts)
        for role, facts in measured.items()
        if not isinstance(facts, Outcome)
    }
    found |= {"n_test": known["student"].acc.total, "n_asr": known["student"].asr.total}
    for role in ("teacher", "student"):
        for metric in ("acc", "asr", "ra", "base"):
            found |= _rate(f"{role}_{metric}", getattr(known[role], metric))
    for role in ("source", "cleansed"):
        if role in known:
            found |= {
                f"{role}_acc": known[role].acc.percent,
                f"{role}_asr": known[role].asr.percent,
            }
    for role in ("source", "teacher", "cleansed"):
        if role in known:
            variance = _facts(measured[role])["variance"]
            found |= {
                f"{role}_variance": _mean(variance["clean"]),
                f"{role}_variance_triggered": _mean(variance["triggered"]),
            }
    judged, final = _judge(known, measured)
    found |= judged
    alone = measured.get("alone")
    if isinstance(alone, Outcome):
        return found | {
            "reason": f"{found['reason']}; control C2 {alone.status}: {alone.reason}"
        }, False
    if "alone" in known:
        found |= _rate("alone_acc", known["alone"].acc) | _rate("alone_asr", known["alone"].asr)
    return found, final


def _facts(measured: Measured) -> Mapping[str, Any]:
    assert not isinstance(measured, Outcome)
    return measured


def _accuracies(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The columns of an imported teacher's cell, which has no trigger."""
    found: dict[str, Any] = {
        "reason": "no verdict: nobody knows an imported teacher's trigger; ACC only"
    }
    rates = {role: Rate(*_facts(facts)["acc"]) for role, facts in measured.items()}
    found["n_test"] = rates["student"].total
    for role in ("teacher", "student"):
        found |= _rate(f"{role}_acc", rates[role])
    if "cleansed" in rates:
        found["cleansed_acc"] = rates["cleansed"].percent
    return found


def _judge(
    known: Mapping[str, Evaluation], measured: Mapping[str, Measured]
) -> tuple[dict[str, Any], bool]:
    """The columns of the controls and what follows from them. A control that failed costs the
    verdict, not the row."""
    if JUDGING[0] not in measured:
        return {"reason": "no verdict: the controls were skipped"}, True
    found: dict[str, Any] = {}
    for role in JUDGING:
        control = measured[role]
        if isinstance(control, Outcome):
            found["reason"] = f"no verdict: a control {control.status}: {control.reason}"
        else:
            found |= _rate(f"{role}_acc", known[role].acc) | _rate(f"{role}_asr", known[role].asr)
    if "reason" in found:
        return found, False
    student, c1, c3 = known["student"], known["clean_teacher"], known["undefended"]
    moved = transfer(student.asr_hits, c1.asr_hits, c3.asr_hits)
    judged, reason = verdict(moved.transferred, moved.removed, c3.acc.percent - student.acc.percent)
    found |= {
        "transferred": moved.transferred,
        "transferred_low": moved.transferred_interval[0],
        "transferred_high": moved.transferred_interval[1],
        "removed": moved.removed,
        "verdict": judged,
        "reason": reason,
    }
    if moved.removed_interval is not None:
        found |= {
            "removed_low": moved.removed_interval[0],
            "removed_high": moved.removed_interval[1],
        }
    return found, True


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _rate(name: str, rate: Rate) -> dict[str, Any]:
    """The columns of one rate; see kdbench.report.columns."""
    low, high = rate.interval
    return {name: rate.percent, f"{name}_low": low, f"{name}_high": high, f"{name}_hits": rate.hits}
