"""What a command says beside its result goes to standard error."""

from __future__ import annotations

import click

from kdbench.untrusted.text import strip_control


def tell(line: str) -> None:
    """Print one line to standard error, without what a terminal could obey."""
    click.echo(strip_control(line), err=True)
