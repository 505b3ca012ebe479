"""What a command says on standard error breaks between words in a terminal."""

from __future__ import annotations

import io
import os

import pytest

from kdbench.cli.tell import in_words

termios = pytest.importorskip("termios")


@pytest.fixture
def terminal():
    """A terminal of 40 columns."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    with os.fdopen(theirs, "w") as stream:
        yield stream
    os.close(ours)


TEXT = "a sentence of many words, and a path: /data/experiments/of-many/runs/2026/one/more"


def test_a_terminal_gets_lines_of_whole_words(terminal):
    lines = in_words(TEXT, terminal).split("\n")
    assert " ".join(lines) == TEXT
    assert [len(line) for line in lines if len(line) > 40] == [len(TEXT.split()[-1])]


def test_columns_says_how_wide_a_terminal_is_taken_for(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = in_words("many words " * 20, terminal).split("\n")
    assert 40 < max(map(len, lines)) <= 60


def test_a_command_stays_whole(terminal):
    command = "  kdbench run --attack badnets --pair wrn16_2-wrn16_1 --out runs/one"
    assert in_words(f"To go on:\n{command}", terminal) == f"To go on:\n{command}"


def test_a_file_gets_one_line(tmp_path):
    assert in_words(TEXT, io.StringIO()) == TEXT
    with (tmp_path / "log").open("w") as stream:
        assert in_words(TEXT, stream) == TEXT
    assert in_words(TEXT, stream) == TEXT  # it is closed
