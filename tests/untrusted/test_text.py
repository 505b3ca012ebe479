"""Foreign text on a terminal, and words of a command that is copied from it."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdbench.untrusted.text import command_line, shown, shown_name, strip_control

NAMES = {
    "café": "café",
    os.fsdecode(b"caf\xe9"): r"caf\udce9",
    "a\nb\tc": r"a\nb\tc",
    "\x1b[2J": r"\x1b[2J",
    "a\u202eb": r"a\u202eb",
    "a\u00a0": r"a\xa0",
    "\u200b": r"\u200b",
    "\x7f\x85": r"\x7f\x85",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_with_escapes(name):
    assert shown(name) == NAMES[name]


def test_a_name_among_words_has_quotes_where_it_would_be_read_wrongly():
    names = ["café", "a b", "ant ", "", "a\tb", os.fsdecode(b"\xe9")]
    assert [shown_name(name) for name in names] == [
        *("café", "a b", "'ant '", "''", r"'a\tb'", r"'\udce9'")
    ]


def test_sentences_keep_their_blanks():
    assert strip_control("two\nlines,\ta\u00a0tab \x1b[2J") == r"two lines, a tab \x1b[2J"


words = st.lists(st.binary(min_size=1).filter(lambda b: b"\0" not in b).map(os.fsdecode))


@settings(max_examples=30, deadline=None)
@example(["a b", "it's", "back\\slash\n", "\udce91", "\x1b[2J", "$HOME", "%s", "é\u202e"])
@given(words)
def test_a_command_that_is_shown_runs_as_it_is(arguments):
    line = command_line(["printf", r"%s\0", *arguments])
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[: len(arguments)] == [os.fsencode(a) for a in arguments]
