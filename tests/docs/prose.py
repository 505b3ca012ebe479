"""The sentences of a Markdown page: what a person reads of it, without code, tables and
headings."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
#: Points that end no sentence.
_SHORT = re.compile(
    r"(?<![\w-])(e\.g|i\.e|et al|etc|vs|Fig|Figs|Eq|Eqs|Sec|No|Dr|St|[A-Z])\.(?=\s)"
)
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.) ")
_END = re.compile(r"(?<=[.!?])[)\"*]*\s+(?=[^a-z\s]|kdbench)")


def paragraphs(page: str) -> Iterator[str]:
    """The text blocks of a page, each on one line; an item of a list is a block of its own."""
    block: list[str] = []
    for line in [*_COMMENT.sub("", _FENCE.sub("", page)).splitlines(), ""]:
        code = line.startswith(("    ", "|", "#", "<")) and not (block and line.startswith(" "))
        starts = bool(_ITEM.match(line))
        if (not line.strip() or code or starts) and block:
            yield " ".join(block)
            block = []
        if line.strip() and not code:
            block.append(_ITEM.sub("", line).strip())


def sentences(page: str) -> list[str]:
    """The sentences of a page. A piece of code in a sentence counts as one word."""
    found = []
    for text in paragraphs(page):
        plain = re.sub(r"`[^`]*`", "CODE", text)
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        plain = _SHORT.sub(r"\1", plain.replace("**", ""))
        found += [part.strip() for part in _END.split(plain) if part.strip()]
    return found


def words(sentence: str) -> int:
    return len(re.findall(r"[\w%'’.,/+-]*\w[\w%'’.,/+-]*", sentence))
