"""What was run: command, request, digests, plugins, software, and how to cite it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdbench.page.cite import kdbench_entry, paper_entry
from kdbench.page.head import few
from kdbench.page.record import command_of, day_of, described, table, tables, texts
from kdbench.page.source import Run, Source
from kdbench.report.columns import Row
from kdbench.report.software import made_by

#: Values of a column that are named.
_NAMED = 8


@dataclass(frozen=True)
class Origin:
    """What a run's record says of how it was made."""

    name: str
    command: str
    """Empty here and in ``spec``: the record does not say."""
    spec: str
    """The request as TOML, as ``kdbench plan --toml`` prints it."""
    facts: Sequence[tuple[str, str]]
    plugins: Sequence[tuple[str, str]]
    """(method, where it is from and the digest of its source)."""
    recorded: bool
    """Whether there is a run.json."""


@dataclass(frozen=True)
class Origins:
    """The origin of a page."""

    runs: Sequence[Origin]
    shared: Sequence[tuple[str, str]]
    """What the rows say themselves: (what, its values)."""
    bibtex: str


def origins_of(source: Source) -> Origins:
    """Where the rows of a page are from."""
    papers = {
        name: paper_entry(name.partition(".")[2] or name, table(paper))
        for run in source.runs
        for name, paper in table(run.record.get("papers")).items()
    }
    entries = [kdbench_entry(), *dict.fromkeys(filter(None, papers.values()))]
    return Origins(list(map(_origin, source.runs)), _made_by(source.rows), "\n\n".join(entries))


def _origin(run: Run) -> Origin:
    record = run.record
    return Origin(
        run.name,
        command_of(run),
        "".join(texts(record.get("spec"))),
        list(dict.fromkeys(_facts(run))),
        [(str(name), str(of)) for name, of in table(record.get("plugins")).items()],
        bool(record),
    )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    record = run.record
    if day := day_of(run):
        yield "started", day
    for name, about in described(record):
        yield f"dataset {name}", about
    for dataset in tables(record.get("datasets")):
        yield (
            f"images of {' '.join(texts(dataset.get('name')))}",
            " ".join(texts(dataset.get("digest"))),
        )
    for name in ("device", "machine", "numerics", "confinement", "config_digest", "commit", "note"):
        if value := ", ".join(texts(record.get(name))):
            yield name, value
    versions = table(record.get("versions"))
    if versions:
        yield "software", ", ".join(f"{name} {version}" for name, version in versions.items())


def _made_by(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """By what the rows were made, each value once."""
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for what, which in made_by(row):
            values.setdefault(what, {})[which] = None
    return [(what, few(list(which), _NAMED)) for what, which in values.items()]
