"""Making foreign text harmless: names of files, messages of plugins, whatever a stranger wrote.

A character that a terminal could obey, or that nobody sees, becomes the escape that Python's
``repr`` has for it: ``\\x1b``, ``\\u202e``. A byte E9 of a name that is not UTF-8 is ``\\udce9``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import Any


def strip_control(value: Any) -> str:
    """A stranger's sentences on one line: each kind of blank and of a line's end is a space."""
    text = str(value)
    if text.isprintable():
        return text
    return shown("".join(" " if c.isspace() else c for c in text))


def shown(name: Any) -> str:
    """The name of a file, or a message with such names. It can be told from every other name."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def shown_name(name: str) -> str:
    """The same for a name among other words: in quotes where it would be read wrongly."""
    text = shown(name)
    return text if text and text == name.strip() else f"'{text}'"


def command_line(words: Iterable[str]) -> str:
    """A command that runs in bash as it is shown, whatever is in its words."""
    return " ".join(shlex.quote(word) if word.isprintable() else _quoted(word) for word in words)


def _quoted(word: str) -> str:
    plain = "".join(c if c.isprintable() and c not in "'\\" else _bytes(c) for c in word)
    return f"$'{plain}'"


def _bytes(character: str) -> str:
    # Octal, since more hexadecimal digits may follow in the word.
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
