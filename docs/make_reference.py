"""Writes docs/reference.md from the program: ``python docs/make_reference.py``. A test fails when
the page is out of date."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from kdbench import errors, hookspecs
from kdbench.bench.run.profile import PROFILE_COLUMNS
from kdbench.cli import _COMMANDS, _exit_code, main
from kdbench.loading.answers import kind_word
from kdbench.report.column import ROLES, Column
from kdbench.report.columns import COLUMNS, SCHEMA
from kdbench.report.paired import COLUMNS as PAIRED
from kdbench.testing.kit import every_check

PATH = Path(__file__).with_name("reference.md")
VARIABLES = {
    "KDBENCH_STORE": "folder of what was computed; `--store` wins",
    "KDBENCH_CACHE": "folder of decoded images and unpacked archives",
    "KDBENCH_LOAD_PLUGINS": "the only plugins to load, by plugin or distribution, separated by "
    "commas; empty for none",
}


def reference() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Written by `python docs/make_reference.py` from the program itself; do not edit.",
    ]
    parts += [*_commands(), *_variables(), *_hooks(), *_checks(), *_columns(), *_errors()]
    return "\n\n".join(parts) + "\n"


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join(
        [
            *lines,
            *(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows),
        ]
    )


def _text(doc: str | None) -> str:
    """A docstring as a paragraph."""
    return " ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split())


def _commands() -> Iterator[str]:
    yield "## Commands"
    context = click.Context(main)
    for name in sorted(_COMMANDS):
        command = main.get_command(context, name)
        assert command is not None
        yield from _command(f"kdbench {name}", command)


def _command(name: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        for subcommand, inner in sorted(command.commands.items()):
            yield from _command(f"{name} {subcommand}", inner)
        return
    arguments = " ".join(
        p.make_metavar(click.Context(command))
        for p in command.params
        if isinstance(p, click.Argument)
    )
    yield f"### `{' '.join(filter(None, [name, arguments]))}`"
    yield inspect.cleandoc(command.help or "").replace("\b\n", "")
    options = [p for p in command.params if isinstance(p, click.Option)]
    if options:
        rows = (
            record
            for p in options
            if (record := p.get_help_record(click.Context(command))) is not None
        )
        yield _table(("option", ""), ((f"`{option}`", text) for option, text in rows))


def _variables() -> Iterator[str]:
    yield "## Environment variables"
    yield _table(("variable", ""), ((f"`{name}`", text) for name, text in VARIABLES.items()))


def _hooks() -> Iterator[str]:
    yield f"## Hooks, `kdbench_api` {hookspecs.API_VERSION}"
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("kdbench_")}
    yield _table(("hook", ""), ((f"`{name}`", _text(hook.__doc__)) for name, hook in hooks.items()))


def _checks() -> Iterator[str]:
    yield "## Checks of the conformance kit"
    yield _table(
        ("check", "of", "asks that"),
        ((f"`{c.name}`", ", ".join(map(kind_word, c.kinds)), c.text) for c in every_check()),
    )


def _columns() -> Iterator[str]:
    yield f"## Columns of results.csv, schema {SCHEMA}"
    yield (
        "A file of an older schema is read under these names. What it has no column for is empty. "
        "`since` is the schema in which a column came."
    )
    yield "What the commands do where rows differ in a column follows from its role:"
    yield "\n".join(f"- {role}: {text}" for role, text in ROLES.items())
    header = ("column", "kind", "unit", "role", "since", "before schema 5", "")
    yield _table(header, (_column(column) for column in COLUMNS.values()))
    yield "## Columns of paired.csv"
    rows = ((f"`{c.name}`", c.kind, c.unit, c.explained()) for c in PAIRED.values())
    yield _table(("column", "kind", "unit", ""), rows)
    yield "## Columns of profile/stages.csv"
    yield _table(("column", ""), ((f"`{name}`", text) for name, text in PROFILE_COLUMNS.items()))


def _column(column: Column) -> tuple[str, ...]:
    older = ", ".join(f"`{name}`" for name, _ in column.formerly)
    name, since = f"`{column.name}`", str(column.since)
    text = column.explained()
    if column.may_differ:
        text += f". Rows may differ in it: {column.may_differ}"
    return name, column.kind, column.unit, str(column.role), since, older, text


def _errors() -> Iterator[str]:
    yield "## Errors"
    classes = [
        c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.KdbenchError)
    ]
    yield _table(
        ("error", "exit code", ""),
        ((f"`{c.__name__}`", str(_exit_code(c(""))), _text(c.__doc__)) for c in classes),
    )


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")
