"""The commands that a page shows: in its code blocks, and in the middle of a sentence."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDES = sorted(set(DOCS.glob("*.md")) - {DOCS / "reference.md"})
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
] + GUIDES

_BLOCK = re.compile(r"^```(\w*)\n(?:# (\S+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^ {4}(?:nohup |\.venv/bin/)?kdbench ((?:.*\\\n)*.*)$", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`kdbench ([^`]+)`(?!`)")
#: What ends a command in a shell.
_ENDS = {">", "|", "&", ";", "&&"}


def files(page: str) -> dict[str, str]:
    """The files that a page holds: blocks of code whose first line is a comment with a path."""
    return {path: text for _, path, text in _BLOCK.findall(page) if path}


def without_code(page: str) -> str:
    return _BLOCK.sub("", page)


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command of kdbench, without comments, redirections and ``...``."""
    text = without_code(page)
    for shown in [*_LINE.findall(text), *_INLINE.findall(text)]:
        words = shlex.split(shown.replace("\\\n", " "), comments=True)
        end = next((at for at, word in enumerate(words) if word in _ENDS), len(words))
        yield [word for word in words[:end] if word != "..."]
