"""TOML and JSON that somebody else wrote: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date, time
from typing import Any

#: A key of n parts takes n * n steps, and a thousand take no time yet.
_MOST_POINTS = 1000
#: Characters of a line that are looked at for a mistake.
_MOST_LINE = 1000
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
    except tomllib.TOMLDecodeError as error:
        raise ValueError(_explained(text, str(error))) from None
    _check(tables)
    return tables


_WORDS = "null|none|nil|true|false|yes|no|on|off"
#: What people write that is no TOML: a pattern of the line -> what to do.
_MISTAKES = {
    r"[\u201c-\u201f\u2018-\u201b\u00ab\u00bb]": (
        'it has the quotes of a word processor; write " instead'
    ),
    r"=\s*(?i:null|none|nil|~)\s*(#|$)": "TOML has no null; leave the line out",
    r"=\s*(?i:true|false|yes|no|on|off)\s*(#|$)": "write true or false",
    r"^\s*(---|- |[\w.-]+:(\s|$))": "this looks like YAML; write NAME = VALUE",
    rf"=\s*\[?\s*(?!(?i:{_WORDS})\b)[a-zA-Z_]": "write a text in quotes",
    r"=\s*[0-9]+,[0-9]": "write a decimal point",
    r'^"?schema"?[,;\t]': "it is a table of results",
}


def _explained(text: str, error: str) -> str:
    """The message of tomllib, always with a line, and with what to do where that is known."""
    if text.lstrip().startswith("{"):
        return "line 1: it is JSON; a spec is TOML, one NAME = VALUE a line"
    if "\r" in text.replace("\r\n", ""):
        return "its lines end with a lone carriage return; save it with other line ends"
    at = re.search(r"at line ([0-9]+)", error)
    lines = text.split("\n")
    number = int(at[1]) if at else len(text.rstrip().split("\n"))
    error = error.replace("at end of document", f"at the end, line {number}")
    if "overwrite a value" in error:
        return f"{error}: this name has a value already"
    line = lines[number - 1][:_MOST_LINE]
    return "; ".join(
        [error, *(words for form, words in _MISTAKES.items() if re.search(form, line))]
    )


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
    left: list[tuple[Any, int, str]] = [(tables, 0, "")]
    while left:
        value, depth, name = left.pop()
        if depth > _MOST_DEPTH:
            raise _too_deep()
        if isinstance(value, dict):
            left += [(inner, depth + 1, key) for key, inner in value.items()]
        elif isinstance(value, list):
            left += [(inner, depth + 1, name) for inner in value]
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"a whole number in {name} has more than 64 bits")
        elif isinstance(value, date | time):
            raise ValueError(f"{value} is a date or a time; put it in quotes if it is a text")


def _too_deep() -> ValueError:
    return ValueError("tables or lists are nested too deep")
