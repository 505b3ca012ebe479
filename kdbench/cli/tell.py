"""What a command says beside its result goes to standard error."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import IO

import click

from kdbench.untrusted.text import strip_control

#: Columns that words need at least, whatever is asked for.
_LEAST_WIDTH = 40


def named_width() -> int:
    """The columns that $COLUMNS asks for. 0: it says nothing."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        return 0
    return max(_LEAST_WIDTH, columns) if columns > 0 else 0


def tell(line: str) -> None:
    """Print one line to standard error, without what a terminal could obey."""
    click.echo(in_words(strip_control(line), sys.stderr), err=True)


def in_words(text: str, stream: IO[str]) -> str:
    """A text for a stream. Where that is a terminal, its lines break between words.

    A line that begins with two spaces is a command. It stays whole, so that it can be copied.
    """
    try:
        terminal = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError):  # it has no descriptor, or is closed
        terminal = 0
    if not terminal:
        return text
    width = named_width() or terminal
    return "\n".join(
        line if line.startswith("  ") else _wrapped(line, width) for line in text.split("\n")
    )


def _wrapped(line: str, width: int) -> str:
    """A word that is longer than the terminal is wide stays whole, too."""
    lines = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines or [line])
