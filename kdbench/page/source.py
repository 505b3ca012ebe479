"""What a page is made of: the rows of runs, and what lies beside them in their folders.

A run's folder may be a stranger's. Its pictures and logs are read without following a link, of a
size that is bounded, and none of them is needed: what cannot be read is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.errors import KdbenchError
from kdbench.page.pictures import Pictures, read_pictures
from kdbench.report.columns import Row
from kdbench.report.merge import merge
from kdbench.report.read import read_results
from kdbench.untrusted.box import file_names, read_file
from kdbench.untrusted.documents import parse_json
from kdbench.untrusted.text import strip_control

#: What lies beside the table of a run.
_RECORD = "run.json"
#: Bytes of a run.json. One of 10,000 cells has about 30 MiB.
_MOST_RECORD = 1 << 26
#: Bytes of a log, logs that are read, and lines of each that are shown.
_MOST_LOG, _MOST_LOGS, _LAST_LINES = 1 << 20, 20, 20
#: Characters of a line that are shown.
_MOST_LINE = 400
#: The name that a run gives to a log: the number of the stage, and its kind.
_LOG = re.compile(r"[0-9]{1,9}-[a-z_]{1,40}\.txt")


@dataclass(frozen=True)
class Log:
    """The end of what a failed stage printed."""

    name: str
    """Of the file, in the run's folder."""
    title: str
    """Of the stage."""
    lines: tuple[str, ...]
    """The last ones, without what a terminal could obey."""


@dataclass(frozen=True)
class Run:
    """One of the runs of a page."""

    name: str
    """Of its folder or file."""
    record: Mapping[str, Any]
    """Its run.json. Empty: there is none that can be read."""
    logs: tuple[Log, ...] = ()
    missing: int = 0
    """Cells of its request that have no row: it was interrupted, or goes on."""


@dataclass(frozen=True)
class Source:
    """What a page is made of."""

    rows: list[Row]
    """Of all runs, each cell once."""
    runs: tuple[Run, ...] = ()
    pictures: Pictures = field(default_factory=Pictures)
    files: tuple[Path, ...] = ()
    """The tables that were read, and the record beside each."""

    @property
    def missing(self) -> int:
        """Cells that were asked for and have no row."""
        return sum(run.missing for run in self.runs)


def read_source(paths: Sequence[Path], split: bool = False) -> Source:
    """Read runs, as :func:`kdbench.report.merge.merge` puts them together.

    Args:
        paths: each a run's folder, or a results.csv. Of a file only the rows are taken.
        split: see there.

    Raises:
        ConfigError: the rows cannot be read, or do not belong together.
    """
    files = [read_results(path) for path in paths]
    folders = [path for path in paths if path.is_dir()]
    runs = [_run(path, len(file.rows)) for path, file in zip(paths, files, strict=True)]
    read = [file.path.with_name(name) for file in files for name in (file.path.name, _RECORD)]
    return Source(merge(files, split), tuple(runs), read_pictures(folders), tuple(read))


def _run(path: Path, rows: int) -> Run:
    if not path.is_dir():
        return Run(f"{path.resolve().parent.name}/{path.name}", {})
    record = _record(path)
    cells = record.get("cells")
    missing = max(0, cells - rows) if isinstance(cells, int) else 0
    return Run(path.resolve().name, record, tuple(_logs(path / "logs")), missing)


def _record(folder: Path) -> Mapping[str, Any]:
    try:
        record = parse_json(read_file(folder, _RECORD, _MOST_RECORD))
    except (OSError, ValueError, KdbenchError):
        return {}
    return record if isinstance(record, dict) else {}


def _logs(folder: Path) -> Iterator[Log]:
    names = [name for name in file_names(folder, 10_000) if _LOG.fullmatch(name)]
    for name in sorted(names, key=lambda name: int(name.partition("-")[0]))[:_MOST_LOGS]:
        try:
            text = read_file(folder, name, _MOST_LOG).decode("utf-8", errors="replace")
        except (OSError, KdbenchError):
            continue
        title, *lines = [strip_control(line)[:_MOST_LINE] for line in text.splitlines()] or [""]
        yield Log(f"logs/{name}", title, tuple(lines[-_LAST_LINES:]))
