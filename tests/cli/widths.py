"""What a terminal of some width shows, and whether a word of it is broken."""

from __future__ import annotations

import itertools
import re
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

WIDTHS = pytest.mark.parametrize("width", [80, 120])
#: After these a name or a path may be broken.
_SEPARATOR = re.compile(r"(?<=[-/_.,:;=+|])")
#: Where no line has to be broken.
WIDE = 4000


def terminal(width):
    """A terminal on standard output, without colours."""
    return Console(
        file=sys.stdout,
        width=width,
        force_terminal=True,
        color_system=None,
        highlight=False,
        emoji=False,
    )


def of_width(monkeypatch, width):
    """Commands print to a terminal of that width."""
    monkeypatch.setattr("kdbench.cli.display.make_console", lambda: terminal(width))


def assert_whole(narrow, wide, width):
    """No line is too long, and every word is one of the wide text, or ends at a separator there."""
    for line in narrow.splitlines():
        assert cell_len(line.rstrip()) <= width, line
    pieces = {"...", "|"}
    for word in wide.split():
        parts = _SEPARATOR.split(word)
        for start, end in itertools.combinations(range(len(parts) + 1), 2):
            pieces.add("".join(parts[start:end]))
    broken = [word for word in narrow.split() if word not in pieces]
    assert broken == []
