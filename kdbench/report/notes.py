"""What a reader must know of rows that were measured apart and are ranked together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdbench.report.columns import COLUMNS, Row
from kdbench.report.confinement import without_wall
from kdbench.report.paired import GROUP, grouped
from kdbench.report.preset_remarks import remark_lines
from kdbench.report.read import in_words
from kdbench.report.settings import TASK
from kdbench.report.software import differing
from kdbench.report.words import REMARKS
from kdbench.report.worth import no_reason_to_distil

_CELL = ("dataset", "attack", "distiller", "teacher", "student", "seed")
_NUMBERS = ("schema", "shared_digest", "attack_digest")
#: The same for every defense of a cell, as long as attack, recipe, machine and software are the
#: same.
_SHARED = ("teacher_sha256", "c1_asr_hits", "c3_acc_hits", "c3_asr_hits")
#: What is the same for all rows of a task: they have the same test images.
_IMAGES = tuple(name for name, column in COLUMNS.items() if column.role == "images")
#: Differences that a note names.
_NAMED = 8


def notes(rows: list[Row], compared: Sequence[Any]) -> list[str]:
    """Reservations about a ranking, one a line.

    Args:
        compared: the :func:`kdbench.report.paired.comparisons` of ``rows``.
    """
    reservations = []
    if not compared and any(
        len(grouped(group, ("defense",))) > 1 for group in grouped(rows, GROUP).values()
    ):
        reservations.append(
            "comparisons of two defenses need two seeds at which both were measured, and there are "
            "none"
        )
    differences = differing(rows)
    for name, values in list(differences.items())[:_NAMED]:
        reservations.append(f"the rows differ in {name}: {_few(values)}")
    if len(differences) > _NAMED:
        reservations.append(f"the rows differ in {_few(list(differences)[_NAMED:])}, too")
    if "schema" in differences:
        reservations.append("rows of two schemas are neither averaged nor ranked together")
    reservations += _other_images(rows)
    for words, members in without_wall(rows).items():
        defenses = sorted({str(row["defense"]) for row in members})
        reservations.append(f"{len(members)} of {len(rows)} rows {words}: {_few(defenses)}")
    remarked = [row for row in rows if row.get("teacher_remark")]
    for (word,), members in grouped(remarked, ("teacher_remark",)).items():
        teachers = sorted({str(row["attack"]) for row in members})
        reservations.append(
            f"{len(members)} of {len(rows)} rows have a teacher that seems to be read wrongly "
            f"({REMARKS[word]}): {_few(teachers)}"
        )
    reservations += no_reason_to_distil(rows)
    reservations += remark_lines(rows)
    apart = _measured_apart(rows)
    if apart:
        reservations.append(
            "defenses that are ranked together met different teachers or controls, so their tasks "
            f"differed: {_few(apart)}"
        )
    return reservations


def _other_images(rows: list[Row]) -> list[str]:
    """Tasks whose rows were not measured on the same number of images."""
    reservations = []
    for task, members in grouped(rows, GROUP).items():
        for name in _IMAGES:
            counts = sorted({row[name] for row in members if row.get(name) is not None})
            if len(counts) > 1:
                named = " / ".join(map(str, task[1 : len(TASK) + 1]))
                words = _few([str(count) for count in counts])
                reservations.append(f"{named}: the rows differ in {name}: {words}")
    return reservations


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _measured_apart(rows: list[Row]) -> list[str]:
    """The cells whose defenses met different backdoored teachers or different controls."""
    seen: dict[tuple[Any, ...], dict[str, set[Any]]] = {}
    for row in rows:
        values = seen.setdefault(
            tuple(row.get(name) for name in (*_CELL, *_NUMBERS)), {name: set() for name in _SHARED}
        )
        for name in _SHARED:
            if row.get(name) is not None:
                values[name].add(row[name])
    apart = [
        cell[: len(_CELL)]
        for cell, values in seen.items()
        if any(len(of_column) > 1 for of_column in values.values())
    ]
    return [in_words(cell) for cell in apart]
