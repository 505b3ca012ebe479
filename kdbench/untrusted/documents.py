"""TOML and JSON that somebody else wrote: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
import tomllib
from datetime import date, time
from typing import Any

#: A key of n parts takes n * n steps, and a thousand take no time yet.
_MOST_POINTS = 1000
#: Tables and lists in each other. No request has more than five.
_MOST_DEPTH = 32


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises:
        ValueError: it is no TOML, it has a line or a nesting that no person writes, a number of
            more than 64 bits, or a date, which nothing here takes.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MOST_POINTS:
            raise ValueError(f"line {number} has more than {_MOST_POINTS} points")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise _too_deep() from None
    _check(tables)
    return tables


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise _too_deep() from None


def _check(tables: dict[str, Any]) -> None:
    """Look at every value, without recursion."""
    left: list[tuple[Any, int]] = [(tables, 0)]
    while left:
        value, depth = left.pop()
        if depth > _MOST_DEPTH:
            raise _too_deep()
        if isinstance(value, dict):
            left += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            left += [(inner, depth + 1) for inner in value]
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise ValueError("a whole number in it has more than 64 bits")
        elif isinstance(value, date | time):
            raise ValueError(f"{value} is a date or a time; put it in quotes if it is a text")


def _too_deep() -> ValueError:
    return ValueError("tables or lists are nested too deep")
