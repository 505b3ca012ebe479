"""A job without places, so that another machine can lay it out: JSON, and files by their digests.

Everything that travels is bytes. A file is named by its SHA-256, so that a machine which has it
already is not sent it again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench.bench.kinds import Kind
from kdbench.bench.store.artefacts import file_digest
from kdbench.bench.work.job import (
    BOX,
    CHECKPOINTS,
    IN,
    OUT,
    PLUGINS,
    TEMPORARY,
    TRACES,
    Companion,
    Job,
)

#: What of a job's folder travels.
_TRAVELS = (IN, PLUGINS, f"{BOX}/{CHECKPOINTS}")
#: What a companion is told that is a path.
_PATHS = ("file", "plugins")


@dataclass(frozen=True)
class Bundle:
    """A job, and the jobs beside it, without places."""

    #: A record each, in strict JSON. Paths in it are relative to the folder of its job.
    records: tuple[dict[str, Any], ...]
    #: Digest -> where the coordinator has these bytes.
    blobs: dict[str, Path]


class Packer:
    """Packs jobs. It remembers the digests of files, since many jobs see the same images."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], str] = {}

    def pack(self, job: Job) -> Bundle:
        """The bundle of a job that was laid out here.

        Raises:
            OSError: one of its files cannot be read.
        """
        blobs: dict[str, Path] = {}
        return Bundle(tuple(self._record(one, blobs) for one in (job, *job.beside)), blobs)

    def _record(self, job: Job, blobs: dict[str, Path]) -> dict[str, Any]:
        files = {}
        for name in _names(job.folder):
            files[name] = digest = self._digest(job.folder / name)
            blobs[digest] = job.folder / name
        return {
            "key": job.key,
            "kind": str(job.kind),
            "title": job.title,
            "task": {**job.task, "folder": ""},
            "files": files,
            "folders": [str(p.relative_to(job.folder)) for p in _folders(job.folder / PLUGINS)],
            "reads": {str(path): listing(path) for path in job.reads},
            "companions": [_without_places(each, job.folder) for each in job.companions],
            "limit_bytes": job.limit_bytes,
        }

    def _digest(self, path: Path) -> str:
        facts = path.stat()
        known = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if known not in self._known:
            self._known[known] = file_digest(path)
        return self._known[known]


def unpack(record: Mapping[str, Any], folder: Path, blobs: Mapping[str, Path]) -> Job:
    """Lay a job out in a folder, as the coordinator did.

    Args:
        record: of a bundle.
        folder: does not exist yet.
        blobs: digest -> a file of this machine with these bytes, which nobody writes.

    Raises:
        OSError: the disk is full.
    """
    folder.mkdir(parents=True, mode=0o700)
    boxes = [f"{BOX}/{name}" for name in (OUT, CHECKPOINTS, TRACES, TEMPORARY)]
    for name in (IN, PLUGINS, BOX, *boxes, *record["folders"]):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    for name, digest in record["files"].items():
        if name.startswith(f"{IN}/"):
            # The job sees a further name of the same bytes, and may read it only.
            os.link(blobs[digest], folder / name)
        else:
            shutil.copyfile(blobs[digest], folder / name)
    return Job(
        record["key"],
        Kind.named(record["kind"]),
        record["title"],
        folder,
        {**record["task"], "folder": str(folder)},
        tuple(map(Path, record["reads"])),
        tuple(_placed(each, folder) for each in record["companions"]),
        limit_bytes=record["limit_bytes"],
    )


def beside(jobs: list[Job]) -> Job:
    """The first of several jobs, with the others beside it."""
    return replace(jobs[0], beside=tuple(jobs[1:]))


def absent(record: Mapping[str, Any]) -> list[str]:
    """Paths outside its folder that a job has to open, and that this machine lacks or has with
    other files in them."""
    return [path for path, digest in record["reads"].items() if listing(Path(path)) != digest]


def listing(path: Path) -> str:
    """A digest of the names and sizes of the files at and below a path. Empty: it is not there.

    It tells another data set from the same. It does not notice another picture of the same size.
    """
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        name = str(file.relative_to(path)) if file != path else ""
        line = f"{name}\0{file.stat().st_size}\0"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _names(folder: Path) -> Iterator[str]:
    """The files of a job's folder that travel, by their relative names."""
    for part in _TRAVELS:
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                yield str(path.relative_to(folder))


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_dir())


def _without_places(companion: Companion, folder: Path) -> dict[str, Any]:
    order = dict(companion.order)
    for name in _PATHS:
        order[name] = os.path.relpath(order[name], folder)
    return {
        "name": companion.name,
        "entry": companion.entry,
        "order": order,
        "reads": [os.path.relpath(path, folder) for path in companion.reads],
    }


def _placed(record: Mapping[str, Any], folder: Path) -> Companion:
    order = {**record["order"]}
    for name in _PATHS:
        order[name] = str(folder / order[name])
    reads = tuple(folder / path for path in record["reads"])
    return Companion(record["name"], record["entry"], order, reads)
