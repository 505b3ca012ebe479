"""The columns of results.csv. One row per cell; percentages are 0-100; an empty cell means "not
measured"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = 4


def _rate(name: str, text: str) -> dict[str, str]:
    """A rate's four columns; the count is out of n_test for ACC and out of n_asr for the others."""
    return {
        name: text,
        f"{name}_low": "lower end of its 95 % Wilson interval, %",
        f"{name}_high": "upper end, %",
        f"{name}_hits": "the images counted",
    }


def _variance(name: str, whose: str) -> dict[str, str]:
    text = (
        "mean over 100 non-target test images of the variance of the last group's features within "
        "each"
    )
    return {
        f"{name}_variance": f"{whose}: {text}",
        f"{name}_variance_triggered": "the same, triggered",
    }


COLUMNS: dict[str, str] = {
    "schema": "version of this list of columns",
    "status": "ok; or failed (an error), diverged, crashed (a signal, an exit), timeout, out of "
    "memory",
    "reason": "why the cell failed, or why the verdict is what it is, or missing",
    "dataset": "dataset name",
    "attack": "attack name",
    "defense": "defense name",
    "distiller": "distiller name",
    "teacher": "teacher architecture",
    "student": "student architecture",
    "preset": "preset name",
    "seed": "root seed",
    "n_test": "test images (ACC is out of these)",
    "n_asr": "test images outside the target class, of the attack's source classes if it has any "
    "(ASR, RA, BASE)",
    **_rate("teacher_acc", "backdoored teacher, % of untriggered test images classified correctly"),
    **_rate(
        "teacher_asr", "backdoored teacher, % of triggered non-target images given the target class"
    ),
    **_rate(
        "teacher_ra",
        "backdoored teacher, % of triggered non-target images still given their true class",
    ),
    **_rate(
        "teacher_base",
        "backdoored teacher, % of untriggered non-target images given the target class",
    ),
    **_rate("student_acc", "student, as teacher_acc"),
    **_rate("student_asr", "student, as teacher_asr"),
    **_rate("student_ra", "student, as teacher_ra"),
    **_rate("student_base", "student, as teacher_base"),
    **_rate("clean_teacher_acc", "control C1: ACC of the student of the clean teacher"),
    **_rate(
        "clean_teacher_asr", "control C1: ASR of the student of the clean teacher, same trigger"
    ),
    **_rate(
        "undefended_acc",
        "control C3: ACC of the student of the backdoored teacher without a defense",
    ),
    **_rate("undefended_asr", "control C3: its ASR"),
    **_rate(
        "alone_acc",
        "control C2: ACC of the student trained without a teacher, as long as in distillation",
    ),
    **_rate("alone_asr", "control C2: its ASR with the same trigger"),
    "source_acc": "the clean teacher itself: ACC",
    "source_asr": "the clean teacher itself: ASR with this trigger",
    "cleansed_acc": "the teacher that the student was distilled from, after the defense's first "
    "step: ACC; empty without one",
    "cleansed_asr": "the same: ASR",
    **_variance("source", "the clean teacher"),
    **_variance("teacher", "the backdoored teacher"),
    **_variance(
        "cleansed",
        "the teacher that the student was distilled from, after the defense's first step",
    ),
    "transferred": "C3 - C1, percentage points of ASR",
    "transferred_low": "lower end of the 95 % paired bootstrap interval over test images",
    "transferred_high": "upper end",
    "removed": "100 (C3 - ASR) / (C3 - C1), %",
    "removed_low": "lower end of the 95 % paired bootstrap interval over test images",
    "removed_high": "upper end",
    "verdict": "stopped, partly, not stopped or inconclusive",
    "wall_s": "seconds of every stage this cell rests on, controls left out, shared stages counted "
    "in full, when they were run",
    "peak_mem_mb": "largest peak memory of these stages (host on a CPU, device on a GPU), MiB",
    "device": "cpu or the name of the GPU",
    "numerics": "arithmetic of the matrix work, memory layout and, on a CPU, number of threads",
    "kdbench_version": "version of kdbench",
    "torch_version": "version of torch",
    "plugins": "distributions and versions of the plugins used; what a method is known to fail of "
    "the conformance kit",
    "target_class": "the attacker's target",
    "clean_fraction": "the defender's share of the training images, 0-1",
    "teacher_sha256": "SHA-256 of the backdoored teacher's weights file in the store",
    "student_sha256": "SHA-256 of the student's",
    "dataset_digest": "SHA-256 of the dataset",
    "config_digest": "SHA-256 of every resolved number that this cell depends on: dataset, preset, "
    "methods, machine, software",
}


def conclusive_removed(row: Mapping[str, Any]) -> float | None:
    """``removed`` as it may be shown or averaged: None where the row is inconclusive, since a share
    of next to nothing is any number at all."""
    return None if row.get("verdict") == "inconclusive" else row.get("removed")
