"""From measurements to one row of results.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.bench.plan.plan import CHECKS, CONTROLS, VERDICT_CONTROLS, Cell
from kdbench.bench.work.job import Outcome
from kdbench.metrics import Evaluation, Rate
from kdbench.report.columns import COLUMNS, SCHEMA
from kdbench.report.flagged import target_flagged
from kdbench.report.remarks import remark_of
from kdbench.report.verdict import transfer, verdict

#: The facts of a measurement, or the outcome of the stage that failed to make it.
Measured = Mapping[str, Any] | Outcome


def row(
    cell: Cell,
    measured: Mapping[str, Measured],
    facts: Mapping[str, Any],
    trained: Mapping[str, Any],
) -> tuple[dict[str, Any], bool]:
    """(the row, whether it is final).

    A row that lacks something because a stage failed is not final: the next run tries again.

    Args:
        cell: which row.
        measured: by role, for every role of the cell.
        facts: columns that the measurements do not hold.
        trained: numbers that trainings state. The row of a failed cell has none.
    """
    columns: dict[str, Any] = dict.fromkeys(COLUMNS) | {"schema": SCHEMA} | cell.names | dict(facts)
    failed = next(
        (e for role, e in measured.items() if role not in CONTROLS and isinstance(e, Outcome)), None
    )
    if failed is not None:
        return columns | {"status": failed.status} | _why("stage_failed", failed.reason), False
    columns |= {"status": "ok"} | dict(trained)
    # Without a trigger, as for an imported teacher, nothing but accuracy was measured.
    if "asr" not in _facts(measured["student"]):
        return columns | _accuracies(measured), True
    columns["target_flagged"] = target_flagged(columns["flagged_classes"], columns["target_class"])
    columns["held_out_acc"] = Rate(*_facts(measured[CHECKS["clean"]])["acc"]).percent
    known = {
        role: Evaluation.from_facts(facts)
        for role, facts in measured.items()
        if role not in CHECKS.values() and not isinstance(facts, Outcome)
    }
    columns |= {"n_test": known["student"].acc.total, "n_asr": known["student"].asr.total}
    for role in ("teacher", "student"):
        for metric in ("acc", "asr", "ra", "base"):
            columns |= _rate(f"{role}_{metric}", getattr(known[role], metric))
    for role in ("clean", "cleansed"):
        if role in known:
            columns |= {
                f"{role}_acc": known[role].acc.percent,
                f"{role}_asr": known[role].asr.percent,
            }
    for role in ("clean", "teacher", "cleansed"):
        if role in known:
            variance = _facts(measured[role])["variance"]
            columns |= {
                f"{role}_variance": _mean(variance["clean"]),
                f"{role}_variance_triggered": _mean(variance["triggered"]),
            }
    if not cell.controls:
        return columns | _why("controls_skipped", "no verdict: the controls were skipped"), True
    columns |= _rates_of_controls(known) | _judge(known, measured)
    return _with_c2(columns, measured["c2"])


def _why(code: str, reason: str) -> dict[str, Any]:
    """The columns of a reason. The table of columns lists the codes."""
    return {"reason": reason, "reason_code": code}


def _facts(measured: Measured) -> Mapping[str, Any]:
    """The facts of a measurement that is known not to have failed."""
    assert not isinstance(measured, Outcome)
    return measured


def _accuracies(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The columns of an imported teacher's cell, which has no trigger."""
    reason = "no verdict: nobody knows an imported teacher's trigger; ACC only"
    teacher = _facts(measured["teacher"])
    remark, sentence = remark_of(tuple(teacher["acc"]), teacher.get("outputs", {}))
    columns = _why("imported_teacher", f"{reason}; {sentence}" if sentence else reason)
    columns["teacher_remark"] = remark
    rates = {role: Rate(*_facts(facts)["acc"]) for role, facts in measured.items()}
    columns["n_test"] = rates["student"].total
    for role in ("teacher", "student"):
        columns |= _rate(f"{role}_acc", rates[role])
    if "cleansed" in rates:
        columns["cleansed_acc"] = rates["cleansed"].percent
    return columns


def _rates_of_controls(known: Mapping[str, Evaluation]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for role in CONTROLS:
        if role in known:
            columns |= _rate(f"{role}_acc", known[role].acc) | _rate(f"{role}_asr", known[role].asr)
    if "c2" in known and "c3" in known:
        columns["gain"] = known["c3"].acc.percent - known["c2"].acc.percent
    if "c3" in known:
        columns["dormant"] = known["c3"].asr.percent - known["teacher"].asr.percent
    return columns


def _judge(known: Mapping[str, Evaluation], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The columns that follow from the controls.

    Without one of the controls there is no verdict, but there is still a row.
    """
    failed = [c for role in VERDICT_CONTROLS if isinstance(c := measured[role], Outcome)]
    if failed:
        reason = f"no verdict: a control {failed[-1].status}: {failed[-1].reason}"
        return _why("control_failed", reason)
    student, c1, c3 = known["student"], known["c1"], known["c3"]
    moved = transfer(student.asr_hits, c1.asr_hits, c3.asr_hits)
    lost = c3.acc.percent - student.acc.percent
    judged, reason = verdict(moved.transferred, moved.removed, lost, c1.asr.percent)
    columns = {
        "transferred": moved.transferred,
        "transferred_low": moved.transferred_interval[0],
        "transferred_high": moved.transferred_interval[1],
        "removed": moved.removed,
        "verdict": judged,
    }
    if moved.removed_interval is not None:
        columns |= {
            "removed_low": moved.removed_interval[0],
            "removed_high": moved.removed_interval[1],
        }
    return columns | _why("few_transferred" if judged == "inconclusive" else "judged", reason)


def _with_c2(columns: dict[str, Any], c2: Measured) -> tuple[dict[str, Any], bool]:
    """(the row, whether it is final) once control C2 is known. The verdict does not need C2."""
    final = columns["reason_code"] != "control_failed"
    if not isinstance(c2, Outcome):
        return columns, final
    reason = f"{columns['reason']}; control C2 {c2.status}: {c2.reason}"
    return columns | _why("c2_failed" if final else "control_failed", reason), False


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _rate(name: str, rate: Rate) -> dict[str, Any]:
    """The columns of one rate. See kdbench.report.columns."""
    low, high = rate.interval
    return {name: rate.percent, f"{name}_low": low, f"{name}_high": high, f"{name}_hits": rate.hits}
