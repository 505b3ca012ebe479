"""Which numbers a row was made with, and which rows may stand together.

A row has a digest for each part of its numbers: the part that all attacks and defenses share, the
attack's, and the defense's. Attacks are summarised together where the shared numbers are the same.
Defenses are ranked together where the attack's numbers are the same too. Seeds are averaged where
all numbers are the same, which ``setting_digest`` says. A file of an older schema recorded no
digest. Its rows stand together with rows of the same schema only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdbench.errors import ConfigError
from kdbench.report.columns import Row

#: Rows with these names in common share the numbers of dataset, preset and distillation.
SHARED = ("dataset", "distiller", "teacher", "student", "preset")
#: Rows with these names in common are ranked together.
TASK = ("dataset", "attack", "distiller", "teacher", "student", "preset")
#: Each part of the numbers, with the names that promise it. Its digest is in column
#: ``PART_digest``.
PARTS = {"shared": SHARED, "attack": (*SHARED, "attack"), "defense": (*SHARED, "defense")}
DIGESTS = tuple(f"{part}_digest" for part in PARTS)

#: The same, and last all numbers together: those of the seeds of one setting.
_CHECKED = {**PARTS, "setting": (*SHARED, "attack", "defense")}

#: The part of a number by the first word of its name. Every other number is shared.
_PART_OF = {
    "attack": "attack",
    "imported": "attack",
    "poison": "attack",
    "target_class": "attack",
    "defense": "defense",
    "repair": "defense",
}
#: How the attack of a row with an imported teacher begins.
_IMPORTED = "imported:"
_SEPARATOR = "; "
#: Numbers that a message names.
_NAMED = 20


def dataset_family(name: str) -> str:
    """The dataset of which a dataset holds a part: ``gtsrb`` for ``gtsrb-subset``."""
    return name.removesuffix("-subset")


def part_of(number: str) -> str:
    """The part of :data:`PARTS` to which a number belongs, by its name (``defense.nad.beta``)."""
    return _PART_OF.get(number.partition(".")[0], "shared")


def changes_text(entries: Iterable[str]) -> str | None:
    """The column ``changed`` of entries like ``distill.epochs=20``."""
    return _SEPARATOR.join(sorted(entries)) or None


def changes(row: Row, *parts: str) -> list[str]:
    """The numbers of some parts, or of all, that a row's names do not promise."""
    entries = [entry for entry in (row.get("changed") or "").split(_SEPARATOR) if entry]
    return [entry for entry in entries if not parts or part_of(entry.partition("=")[0]) in parts]


def made_with(row: Row, digest: str) -> str:
    """A row's digest, or the schema of the file that recorded none."""
    return str(row.get(digest) or f"schema {row.get('schema')}")


def defense_label(row: Row) -> str:
    """The defense with the numbers that its name does not promise: ``robustkd [m_max=0.3]``."""
    return _label(row, "defense")


def attack_label(row: Row) -> str:
    """The attack with the numbers that its name does not promise."""
    return _label(row, "attack")


def shared_label(row: Row) -> str:
    """The shared numbers that the names do not promise, as `` [distill.epochs=20]``, or nothing.
    It stands behind the names."""
    return _in_brackets(changes(row, "shared"))


def _label(row: Row, part: str) -> str:
    name = row[part]
    entries = [entry.removeprefix(f"{part}.{name}.") for entry in changes(row, part)]
    return f"{name}{_in_brackets(entries)}"


def _in_brackets(entries: Sequence[str]) -> str:
    return f" [{_SEPARATOR.join(entries)}]" if entries else ""


def told_apart(
    labels: Iterable[str], records: Iterable[Row], digests: tuple[str, ...]
) -> list[str]:
    """The labels. Labels that are the same get the digests or the schema that differ."""
    labels = list(labels)
    times = Counter(labels)
    numbers = [
        ", ".join(dict.fromkeys(made_with(record, digest)[:12] for digest in digests))
        for record in records
    ]
    return [
        f"{label} ({text})" if times[label] > 1 else label
        for label, text in zip(labels, numbers, strict=True)
    ]


def check_numbers(rows: Iterable[tuple[Row, Path, int]]) -> None:
    """Refuse two sets of numbers under one name.

    Args:
        rows: each with its file and line.

    Raises:
        ConfigError: rows that would be averaged, ranked or paired were made with other numbers.
            The message names the numbers, the files and the lines.
    """
    firsts: dict[tuple[Any, ...], tuple[Row, Path, int]] = {}
    for row, path, line in rows:
        for part, names in _CHECKED.items():
            key = (part, *(row[name] for name in names))
            first, there, at = firsts.setdefault(key, (row, path, line))
            if made_with(first, f"{part}_digest") != made_with(row, f"{part}_digest"):
                shared = " / ".join(str(row[name]) for name in names)
                a, b = difference_in_words(first, row, *([part] if part in PARTS else []))
                raise ConfigError(
                    f"{shared} was measured with other numbers: {a} in {there}, line {at}, and {b} "
                    f"in {path}, line {line}; use runs with the same numbers, or add --split to "
                    "show them as settings of their own"
                )


def difference_in_words(a: Row, b: Row, *parts: str) -> tuple[str, str]:
    """For each of two rows the numbers that the other has not, of some parts or of all."""
    of_a, of_b = (dict.fromkeys(changes(row, *parts)) for row in (a, b))
    only = [entry for entry in of_a if entry not in of_b], [e for e in of_b if e not in of_a]
    return _words(a, only[0], any(only), *parts), _words(b, only[1], any(only), *parts)


def _words(row: Row, only: list[str], named: bool, *parts: str) -> str:
    if row.get("setting_digest") is None:
        return f"numbers that schema {row.get('schema')} did not record"
    if only:
        more = f" and {len(only) - _NAMED} more" if len(only) > _NAMED else ""
        return _SEPARATOR.join(only[:_NAMED]) + more
    if named:
        return "what the names promise"
    if "attack" in parts and str(row.get("attack")).startswith(_IMPORTED):
        return f"a teacher with the weights {str(row.get('teacher_sha256'))[:12]}"
    # The two changed the same numbers. Another version promises other ones, or the images differ.
    digest = f"{parts[0]}_digest" if len(parts) == 1 else "setting_digest"
    return f"{digest} {row[digest][:12]} of kdbench {row.get('kdbench_version')}"
