"""Counted things in words."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``1 stage``, ``2 stages``, ``0 classes``, ``3 entries``.

    Args:
        noun: in the singular. Words before it stay as they are: ``other defense``.
    """
    return f"{count} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """A regular noun in the plural."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"
