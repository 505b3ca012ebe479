"""By what rows were made, and what that says of them when they stand together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from kdbench.report.columns import COLUMNS, Row

#: The columns that say by what a row was made.
ORIGIN = tuple(name for name, column in COLUMNS.items() if column.role == "origin")
_SEPARATOR = "; "


def software_text(versions: Mapping[str, str]) -> str:
    """The column ``software`` of names with their versions."""
    # What stands between two entries cannot stand within one.
    return _SEPARATOR.join(
        sorted(f"{name}={value}".replace(_SEPARATOR, " ") for name, value in versions.items())
    )


def made_by(row: Row) -> Iterator[tuple[str, str]]:
    """(what, which) of everything that made a row: ``("torch_version", "2.9")``.

    Rows may name different plugins, since they have different defenses. Of two rows that name the
    same one, it can be another version.
    """
    for name in ORIGIN:
        value = row.get(name)
        if value is None:
            if COLUMNS[name].since <= (row.get("schema") or 0):
                continue  # a row that failed does not say it
            yield name, "not recorded"
        elif name == "software":
            for entry in str(value).split(_SEPARATOR):
                what, _, which = entry.partition("=")
                yield f"software {what}", which
        elif name == "plugins":
            for entry in str(value).split(_SEPARATOR):
                what, _, which = entry.partition(" ")
                if which and " " not in which:  # a sentence is about a method, see known_failures
                    yield f"plugin {what}", which
        else:
            yield name, str(value)


def differing(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Everything by which rows were made and in which some of them differ -> the values, sorted."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for what, which in made_by(row):
            values.setdefault(what, set()).add(which)
    return {what: sorted(which) for what, which in values.items() if len(which) > 1}
