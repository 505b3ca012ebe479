"""The columns of results.csv: one table, from which reading, writing, checking and the reference
page follow.

One row per cell. Percentages are 0-100. An empty cell means "not measured", or "not recorded" in a
file that is older than the column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from kdbench.report.column import Column, ValueKind
from kdbench.report.words import ANSWERS, REASON_CODES, REMARKS, STATUSES, VERDICTS

SCHEMA = 9

#: The largest whole number of a table, and of a request. It fits into 64 bits, as most programs
#: that read tables and TOML want.
MOST_WHOLE = 2**63 - 1

#: A row of results.csv, or of a table made of it: values by the names of their columns.
Row = dict[str, Any]


def _rate(
    name: str,
    about: str,
    formerly: str = "",
    *,
    since: int = 1,
    interval_since: int = 2,
    with_interval: bool = True,
) -> Iterator[Column]:
    """A rate, its Wilson interval and its count of images. Schema 1 had no counts."""
    parts: list[tuple[str, ValueKind, str, str, int]] = [("", "number", about, "%", since)]
    if with_interval:
        parts += [
            ("_low", "number", "lower end of its 95 % Wilson interval", "%", interval_since),
            ("_high", "number", "upper end", "%", interval_since),
            ("_hits", "whole", "the images counted", "images", max(2, since)),
        ]
    total = "n_test" if name.endswith("_acc") else "n_asr"
    for end, kind, text, unit, first in parts:
        yield Column(
            f"{name}{end}",
            kind,
            text,
            unit,
            since=first,
            formerly=((f"{formerly}{end}", 4),) if formerly else (),
            out_of=total if end == "_hits" else "",
            role="result",
        )


def _variance(name: str, whose: str, formerly: str = "") -> Iterator[Column]:
    text = (
        "mean over 100 non-target test images of the variance of the last group's features within "
        "each"
    )
    for end, about in (("", f"{whose}: {text}"), ("_triggered", "the same, triggered")):
        old = ((f"{formerly}_variance{end}", 4),) if formerly else ()
        yield Column(f"{name}_variance{end}", "number", about, since=4, formerly=old, role="result")


def _bootstrapped(name: str, about: str, unit: str) -> Iterator[Column]:
    end = "end of the 95 % paired bootstrap interval over test images"
    for tail, text in (("", about), ("_low", f"lower {end}"), ("_high", "upper end")):
        yield Column(f"{name}{tail}", "number", text, unit, role="result")


#: Every column that any schema had, in the order in which they are written. The last is a digest,
#: so that a file that was cut off in its last line is noticed.
TABLE: tuple[Column, ...] = (
    Column("schema", "whole", "version of this list of columns", role="origin"),
    Column("status", "word", "how the measurement ended", words=STATUSES, role="result"),
    Column(
        "reason",
        "text",
        "why the cell failed, or why the verdict is what it is, or missing",
        role="result",
    ),
    Column(
        "reason_code", "word", "the same as one word", since=5, words=REASON_CODES, role="result"
    ),
    Column(
        "teacher_remark",
        "word",
        "what the test images say of how an imported teacher is read; empty: nothing speaks "
        "against it",
        since=7,
        words=REMARKS,
        role="result",
    ),
    Column("dataset", "text", "dataset name", role="name"),
    Column("attack", "text", "attack name", role="name"),
    Column("defense", "text", "defense name", role="name"),
    Column("distiller", "text", "distiller name", role="name"),
    Column("teacher", "text", "teacher architecture", role="name"),
    Column("student", "text", "student architecture", role="name"),
    Column("preset", "text", "preset name", role="name"),
    Column("seed", "whole", "root seed", role="name"),
    Column("n_test", "whole", "test images (ACC is out of these)", "images", role="images"),
    Column(
        "n_asr",
        "whole",
        "test images outside the target class, of the attack's source classes if it has any (ASR, "
        "RA, BASE)",
        "images",
        role="images",
    ),
    *_rate("teacher_acc", "backdoored teacher: share of untriggered test images classified right"),
    *_rate(
        "teacher_asr",
        "backdoored teacher: share of triggered non-target images given the target class",
    ),
    *_rate(
        "teacher_ra",
        "backdoored teacher: share of triggered non-target images still given their true class",
        since=2,
    ),
    *_rate(
        "teacher_base",
        "backdoored teacher: share of untriggered non-target images given the target class",
        since=2,
    ),
    *_rate("student_acc", "student, as teacher_acc", interval_since=1),
    *_rate("student_asr", "student, as teacher_asr", interval_since=1),
    *_rate("student_ra", "student, as teacher_ra"),
    *_rate("student_base", "student, as teacher_base"),
    *_rate("c1_acc", "control C1, the student of the clean teacher: ACC", "clean_teacher_acc"),
    *_rate("c1_asr", "control C1: ASR with the same trigger", "clean_teacher_asr"),
    *_rate(
        "c2_acc",
        "control C2, the student trained without a teacher, as long as in distillation: ACC",
        "alone_acc",
        since=4,
        interval_since=4,
    ),
    *_rate(
        "c2_asr", "control C2: ASR with the same trigger", "alone_asr", since=4, interval_since=4
    ),
    *_rate(
        "c3_acc",
        "control C3, the student of the backdoored teacher without a defense: ACC",
        "undefended_acc",
    ),
    *_rate("c3_asr", "control C3: ASR", "undefended_asr"),
    Column(
        "gain",
        "number",
        "C3 - C2, of ACC: what the deployer has of the teacher",
        "points",
        since=8,
        role="result",
    ),
    Column(
        "dormant",
        "number",
        "C3 - teacher, of ASR: what distillation awakens of a backdoor that the teacher hides",
        "points",
        since=9,
        role="result",
    ),
    *_rate("clean_acc", "the clean teacher itself: ACC", "source_acc", with_interval=False),
    *_rate(
        "clean_asr",
        "the clean teacher itself: ASR with this trigger",
        "source_asr",
        with_interval=False,
    ),
    Column(
        "universal",
        "number",
        "the same on the attacker's own images (training images the trigger is for), as the attack "
        "states it; empty: it does not",
        "%",
        since=8,
        role="result",
    ),
    Column(
        "held_out_acc",
        "number",
        "the clean teacher: ACC on training images that nobody was trained on",
        "%",
        since=8,
        role="result",
    ),
    Column(
        "cleansed_acc",
        "number",
        "the teacher that the student was distilled from, after the defense's first step: ACC; "
        "empty without one",
        "%",
        late=True,
        role="result",
    ),
    Column("cleansed_asr", "number", "the same: ASR", "%", late=True, role="result"),
    Column(
        "flagged_classes",
        "text",
        "classes that the defense took for the target of a backdoor, such as 0 7; none: it looked, "
        "and took none for it; empty: it does not look",
        since=9,
        role="result",
    ),
    Column(
        "target_flagged",
        "word",
        "whether the target class is among them",
        since=9,
        words=ANSWERS,
        role="result",
    ),
    *_variance("clean", "the clean teacher", "source"),
    *_variance("teacher", "the backdoored teacher"),
    *_variance(
        "cleansed",
        "the teacher that the student was distilled from, after the defense's first step",
    ),
    *_bootstrapped("transferred", "C3 - C1, of ASR", "points"),
    *_bootstrapped("removed", "100 (C3 - ASR) / (C3 - C1)", "%"),
    Column("verdict", "word", "what the defense did", words=VERDICTS, role="result"),
    Column(
        "wall_s",
        "number",
        "time of every stage this cell rests on, controls left out, shared stages counted in full, "
        "when they were run",
        "s",
        role="free",
        may_differ="a machine that is busy takes longer for the same numbers",
    ),
    Column(
        "peak_mem_mb",
        "number",
        "peak memory of the process so far",
        "MiB",
        until=2,
        role="free",
        may_differ="what else a process held changes no number",
    ),
    Column(
        "peak_mem_mb",
        "number",
        "largest peak memory of these stages (host on a CPU, device on a GPU)",
        "MiB",
        since=3,
        role="free",
        may_differ="what else a process held changes no number",
    ),
    Column("device", "text", "cpu or the name of the GPU", role="origin"),
    Column(
        "confinement",
        "text",
        "what kept the jobs of the defender's side (cleanse, distill, repair) from the attacker's, "
        "and what a trial reached all the same. Several stages may have several, separated by /. "
        "none: nothing did",
        since=6,
        role="free",
        may_differ="a wall changes no number; a row without one is said in a note",
    ),
    Column(
        "numerics",
        "text",
        "arithmetic of the matrix work, memory layout and, on a CPU, number of threads",
        role="origin",
    ),
    Column("kdbench_version", "text", "version of kdbench", role="origin"),
    Column("torch_version", "text", "version of torch", role="origin"),
    Column(
        "plugins",
        "text",
        "distributions and versions of the plugins used; what a method is known to fail of the "
        "conformance kit",
        role="origin",
    ),
    Column("target_class", "whole", "the attacker's target", role="number"),
    Column(
        "clean_fraction",
        "number",
        "the defender's share of the deployer's training images, 0-1",
        role="number",
        is_exact=True,
    ),
    Column(
        "transfer_fraction",
        "number",
        "the deployer's share of the training images that are not held out, 0-1",
        since=8,
        role="number",
        is_exact=True,
    ),
    Column(
        "unlabeled",
        "number",
        "the defender's share, without labels, of the images that are neither held out nor the "
        "deployer's, 0-1; empty: none",
        since=9,
        late=True,
        role="number",
        is_exact=True,
    ),
    Column(
        "software",
        "text",
        "what else computed it, sorted: versions of libraries, and the first 12 digits of the "
        "digests of kdbench's own code and of the code of each method and network that a plugin "
        "brings",
        since=7,
        role="origin",
    ),
    Column(
        "teacher_sha256",
        "digest",
        "SHA-256 of the backdoored teacher's weights file in the store",
        since=3,
        role="result",
    ),
    Column("student_sha256", "digest", "SHA-256 of the student's", since=3, role="result"),
    Column(
        "dataset_digest",
        "digest",
        "SHA-256 of the dataset. Schemas 1 and 2 computed it otherwise, so it compares within them "
        "only",
        role="number",
    ),
    Column(
        "setting_digest",
        "digest",
        "SHA-256 of every number that shapes this cell, but not of the seed, the code, the "
        "software or the machine. Seeds are averaged only where it is equal",
        since=5,
        role="number",
    ),
    Column(
        "shared_digest",
        "digest",
        "the part of these numbers that all attacks and defenses share: images, classes, the "
        "deployer's and the defender's share, the clean teacher's recipe, the distillation",
        since=5,
        role="number",
    ),
    Column(
        "attack_digest",
        "digest",
        "the attack's part: its parameters, its recipe and the target class",
        since=5,
        role="number",
    ),
    Column(
        "defense_digest",
        "digest",
        "the defense's part: its parameters and, where it does anything, the recipe of repairs",
        since=5,
        role="number",
    ),
    Column(
        "changed",
        "text",
        "the numbers that differ from what the names of dataset, preset and methods promise, "
        "sorted",
        since=5,
        role="free",
        may_differ="words for setting_digest, which decides; another version of kdbench "
        "may have other words for the same numbers",
    ),
    Column(
        "preset_remark",
        "text",
        "what the preset is known to get wrong about a method of this row; empty: nothing is known",
        since=8,
        role="free",
        may_differ="a remark changes no number, and a later version of kdbench knows more",
    ),
    Column(
        "config_digest",
        "digest",
        "SHA-256 of every resolved number of the run",
        until=2,
        role="result",
    ),
    Column(
        "config_digest",
        "digest",
        "SHA-256 of everything that this cell depends on: numbers, seed, dataset, code, machine, "
        "software",
        since=3,
        role="result",
    ),
)

#: The columns that are written today, by their names.
COLUMNS: Mapping[str, Column] = MappingProxyType(
    {column.name: column for column in TABLE if column.until is None}
)

#: Every rate that has a count of images, with the column of the total.
RATES: Mapping[str, str] = MappingProxyType(
    {name.removesuffix("_hits"): column.out_of for name, column in COLUMNS.items() if column.out_of}
)


def columns_in(schema: int) -> dict[str, Column]:
    """The columns of a schema by the names that its files have."""
    return {
        column.name_in(schema): column
        for column in TABLE
        if column.since <= schema and (column.until is None or schema <= column.until)
    }


def hits_of(row: Row, rate: str) -> int:
    """The images that a measured rate counts."""
    hits: int | None = row[f"{rate}_hits"]
    # Schema 1 had no counts. Its rates are exact enough to count again.
    return round(row[rate] * row[RATES[rate]] / 100) if hits is None else hits


def conclusive_removed(row: Row) -> float | None:
    """``removed`` as it may be shown or averaged: None where the row is inconclusive.

    A share of next to nothing can be any number.
    """
    return None if row.get("verdict") == "inconclusive" else row.get("removed")
