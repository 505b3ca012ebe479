"""What the command line says of the networks of a request."""

from __future__ import annotations

from collections.abc import Iterable

import click

from kdbench.untrusted.text import strip_control


def spelled(name: str) -> str:
    """The network's name as kdbench spells it. A message says so where that differs."""
    from kdbench.models import plain_name
    from kdbench.untrusted.weights import hub

    name, note = plain_name(name)
    if note:
        click.echo(strip_control(note), err=True)
    if not name.startswith(hub.PREFIX):
        return name
    model = hub.architecture(name)
    click.echo(
        f"{name} is {model}; it is trained from fresh weights (its own come in by kdbench "
        "import-teacher)",
        err=True,
    )
    return model


def say_notes(notes: Iterable[str]) -> None:
    """What makes no sense in the groups of the networks."""
    for note in notes:
        click.echo(
            strip_control(f"note: {note}; `kdbench list models NAME` shows the groups"), err=True
        )
