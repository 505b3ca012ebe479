"""Merges the rows of several results.csv, and refuses those that do not belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, Row
from kdbench.report.read import UNSTEADY, ResultsFile, cell_key, in_words, short
from kdbench.report.settings import DIGESTS, TASK, check_numbers, made_with
from kdbench.report.tables import cell

#: Since this schema two digests of a dataset are equal exactly if the images are.
_DATASET_DIGEST_SINCE = 3


def check_datasets(files: Iterable[ResultsFile], split: bool = False) -> None:
    """Refuse two datasets under one name.

    Args:
        split: refuse them only where the rows do not say with which numbers they were made.

    Raises:
        ConfigError: rows of one dataset name have two digests.
    """
    first: dict[Any, tuple[Any, Path]] = {}
    for file in files:
        for row in file.rows:
            key = (row["dataset"], row["schema"] < _DATASET_DIGEST_SINCE)
            key += (made_with(row, "shared_digest"),) if split else ()
            digest, path = first.setdefault(key, (row["dataset_digest"], file.path))
            if digest != row["dataset_digest"]:
                raise ConfigError(
                    f"dataset {row['dataset']!r} has other images in {path} ({str(digest)[:12]}) "
                    f"than in {file.path} ({str(row['dataset_digest'])[:12]}), so their numbers "
                    "are not comparable; use runs with the same sizes and --data-seed"
                )


def merge(files: Sequence[ResultsFile], split: bool = False) -> list[Row]:
    """The rows of several runs as those of one run. A cell that several files hold with the same
    numbers counts once.

    Args:
        split: take rows of one name that were made with other numbers for rows of other settings,
            instead of refusing them.

    Raises:
        ConfigError: the files mix presets, or datasets under one name. Or what is ranked together
            has several numbers, target classes or shares of images. Or two files disagree
            about a cell, in a number or in the parameters. The message names the files.
    """
    _check_presets(files)
    check_datasets(files, split)
    if not split:
        check_numbers(located(files))
    cells: dict[tuple[Any, ...], tuple[Row, str]] = {}
    conditions: dict[tuple[Any, ...], tuple[Row, str]] = {}
    for row, path, line in located(files):
        where = f"{path}, line {line}"
        numbers = [made_with(row, digest) for digest in DIGESTS] if split else []
        first, there = cells.setdefault((*cell_key(row), *numbers), (row, where))
        _check_same(first, row, there, where)
        task = (*(row[name] for name in TASK), *numbers[:2])  # all but the defense's
        first, there = conditions.setdefault(task, (row, where))
        _check_conditions(first, row, there, where)
    return [row for row, _ in cells.values()]


def located(files: Iterable[ResultsFile]) -> Iterator[tuple[Row, Path, int]]:
    """Every row with its file and line."""
    for file in files:
        for row, line in zip(file.rows, file.lines, strict=True):
            yield row, file.path, line


def _check_presets(files: Iterable[ResultsFile]) -> None:
    presets: dict[Any, Path] = {}
    for file in files:
        for row in file.rows:
            presets.setdefault(row["preset"], file.path)
    if len(presets) > 1:
        named = "; ".join(f"{preset!r} in {path}" for preset, path in presets.items())
        raise ConfigError(
            f"presets are never ranked together; asked for were {named}; rank the runs of one "
            "preset at a time"
        )


def _check_conditions(first: Row, row: Row, there: str, where: str) -> None:
    # Rows of an older schema have no digest that would tell.
    for name in ("target_class", "clean_fraction", "transfer_fraction", "unlabeled"):
        # Shares were rounded until schema 6.
        exact = first["schema"] == row["schema"]
        if cell(first[name], exact) != cell(row[name], exact):
            group = " / ".join(str(row[part]) for part in TASK)
            raise ConfigError(
                f"{group}: {name} is {first[name]} in {there}, and {row[name]} in {where}, so "
                "their tasks differed; rank the two apart"
            )


def _check_same(first: Row, row: Row, there: str, where: str) -> None:
    different = [name for name in COLUMNS if name not in UNSTEADY and first[name] != row[name]]
    if not different:
        return
    named = in_words(cell_key(row))
    # Other digests or versions explain why the numbers differ, so the message names these.
    if "config_digest" in different:
        others = [name for name in different if COLUMNS[name].kind in ("text", "digest")]
        others = [name for name in others if name not in ("config_digest", "reason")]
        hint = f" (also different: {', '.join(others)})" if others else ""
        raise ConfigError(
            f"{named}: other parameters, machine or software in {there}, than in {where}: "
            f"config_digest differs{hint}; leave one of the two files out"
        )
    name = different[0]
    more = f", and {len(different) - 1} more columns" if len(different) > 1 else ""
    values = f"{short(first[name])} in {there}, and {short(row[name])} in {where}"
    raise ConfigError(f"{named}: {name} is {values}{more}; leave one of the two files out")
