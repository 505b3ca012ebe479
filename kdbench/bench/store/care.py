"""Care of a store: what of it is damaged, and what nobody needs."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdbench.bench.kinds import Kind
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.manifest import MANIFEST
from kdbench.bench.store.teachers import named_keys
from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, columns_in
from kdbench.report.consistency import check_row

#: In the workspace of a stage: the name of the folder of its last job.
LAST_JOB = "job"
_JOB = re.compile(r"[0-9a-f]{32}")
_DAY = 86400.0
#: Days that an imported teacher without a name is kept after a run last asked for it.
_NAMELESS_DAYS = 7


def last_job(store: Store, key: str) -> Path | None:
    """The folder of a stage's last job. None where there was none."""
    try:
        name = (store.workspace(key) / LAST_JOB).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return store.jobs / name if _JOB.fullmatch(name) else None


def verify(store: Store) -> tuple[int, list[str]]:
    """Look for damage: (how many artefacts are whole, keys of those that were put aside).

    Every file is compared with its SHA-256, and the rates of every row with its counts.
    """
    whole, damaged = 0, []
    for key in list(store):
        manifest = store.verified(key)
        if manifest is not None and manifest.kind == "row" and not _is_sound(manifest.facts):
            store.put_aside(key)
            manifest = None
        if manifest is None:
            damaged.append(key)
        else:
            whole += 1
    return whole, damaged


def _is_sound(facts: dict[str, Any]) -> bool:
    """Whether the rates of a row are what its counts say."""
    row = facts.get("row")
    if not isinstance(row, dict):
        return False
    try:
        # An older version kept a row without the columns that are younger.
        younger = dict.fromkeys(COLUMNS.keys() - columns_in(row["schema"]).keys())
        check_row("", younger | row, row.keys())
    except (ConfigError, LookupError, TypeError):
        return False
    return True


def garbage(store: Store, days: float, unused_days: float | None = None) -> list[Path]:
    """What may be deleted: leftovers of stages that are done, work and jobs that nobody took up for
    ``days``, what was put aside, old locks that nobody holds, and, on demand, artefacts that no run
    asked for in ``unused_days``. An imported teacher stays as long as it has a name."""
    entries = [*_work(store, days * _DAY), *_entries(store.vault / "damaged")]
    entries += [path for path in _entries(store.vault / "staging") if _age(path) > _DAY]
    for path in _entries(store.vault / "locks"):
        # Not a young one: between making the file and locking it, it is nobody's, and somebody's
        # next.
        if _age(path) > _DAY and not _is_held(store, path.stem):
            entries.append(path)
    if unused_days is not None:
        entries += _unused(store, unused_days * _DAY)
    return entries


def _work(store: Store, seconds: float) -> Iterator[Path]:
    """Workspaces of stages that are done or were left, and the folders of their jobs. Also jobs
    that no workspace knows."""
    known = set()
    for folder in _entries(store.vault / "work"):
        job = last_job(store, folder.name)
        if job is not None:
            known.add(job)
        if _is_held(store, folder.name):
            continue
        if _age(folder, folder / LAST_JOB) > seconds or store.find(folder.name) is not None:
            yield folder
            if job is not None and job.is_dir():
                yield job
    for job in _entries(store.jobs):
        if job not in known and _age(job) > seconds:
            yield job


def _unused(store: Store, seconds: float) -> Iterator[Path]:
    named = named_keys(store)
    for key in store:
        manifest = store.find(key)
        if manifest is None:  # put aside by now
            continue
        least = seconds
        if manifest.kind == Kind.IMPORTED:
            # It cannot be computed again. A run that began before its name was removed needs it.
            if named is None or key in named:
                continue
            least = max(seconds, _NAMELESS_DAYS * _DAY)
        if _age(store.folder(key) / MANIFEST) > least:
            yield store.folder(key)


def _is_held(store: Store, key: str) -> bool:
    lock = store.lock(key)
    if lock is None:
        return True
    lock.release()
    return False


def _age(*paths: Path) -> float:
    """Seconds since the latest change of what is there of these."""
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.lstat().st_mtime)
    return time.time() - max(times, default=0.0)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
