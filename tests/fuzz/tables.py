"""Results of a run, and what programs and people make of them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.values import NUMBERS, WORDS

_CELLS = [
    *(text for texts in NUMBERS.values() for text in texts),
    *(text for texts in WORDS.values() for text in texts if text.isascii() and len(text) < 99),
    *("0.1234567890123456789", "TRUE", "#REF!", "01.02.2026"),
]


def _records(table: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(table.decode(), newline="")))


def _written(records: list[list[str]], **options: Any) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows(records)
    return file.getvalue()


#: What a program does to a table while every value stays.
KEPT = (
    lambda table: table,
    lambda table: b"\xef\xbb\xbf" + table,
    lambda table: table.replace(b"\r\n", b"\n"),
    lambda table: _written(_records(table), quoting=csv.QUOTE_ALL).encode(),
    lambda table: table.rstrip(b"\r\n"),
)
_CHANGED = (
    lambda table: _written(_records(table), delimiter=";").encode(),
    lambda table: _written(_records(table), delimiter="\t").encode(),
    lambda table: _written(_records(table), delimiter=";").replace(".", ",").encode(),
    lambda table: table.decode().encode("utf-16"),
    lambda table: table[:-30],
    lambda table: table + table,
    lambda table: b"",
    lambda table: table.split(b"\n")[0],
    lambda table: b"PK\3\4" + table,
    lambda table: b"<html>" + table,
    lambda table: table.replace(b",,", b", ,"),
    lambda table: table.replace(b",0,", b",0.0,"),
)


@st.composite
def tables(draw: st.DrawFn, table: bytes) -> bytes:
    """A changed results.csv."""
    records = _records(table)
    for _ in range(draw(st.integers(0, 3))):
        line = draw(st.integers(0, len(records) - 1))
        what = draw(st.integers(0, 9))
        if what < 6:
            at = draw(st.integers(0, len(records[line]) - 1))
            records[line][at] = draw(st.sampled_from(_CELLS) | st.text(max_size=5))
        elif what == 6:
            records[line] = records[line][: draw(st.integers(0, len(records[line])))]
        elif what == 7:
            records.append(list(records[line]))
        elif what == 8:
            order = draw(st.permutations(range(len(records[0]))))
            records = [[r[at] for at in order] if len(r) == len(order) else r for r in records]
        else:
            records[line].append("more")
    text = _written(records)
    changed = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        with contextlib.suppress(UnicodeDecodeError, csv.Error):
            changed = draw(st.sampled_from(KEPT + _CHANGED))(changed)
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(changed)))
        changed = changed[:at] + draw(st.binary(max_size=3)) + changed[at:]
    return changed


def paths_in(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values of a JSON document."""
    if not isinstance(value, dict | list):
        return [before]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [before, *(path for key, part in inner for path in paths_in(part, (*before, key)))]


@st.composite
def records(draw: st.DrawFn, record: bytes) -> bytes:
    """A changed run.json."""
    value = json.loads(record)
    path = draw(st.sampled_from(paths_in(value)[1:]))
    at = value
    for key in path[:-1]:
        at = at[key]
    odd = [None, True, 0, -1, 1.5, 2**70, "", "x", [], {}, ["badnets"], {"a": 1}, "1" * 5000]
    if draw(st.booleans()):
        at[path[-1]] = draw(st.sampled_from(odd))
    else:
        del at[path[-1]]
    changed = json.dumps(value).encode()
    if draw(st.integers(0, 5)) == 0:
        changed = draw(
            st.sampled_from([b"", changed[:-5], b"\xef\xbb\xbf" + changed, b"[" * 9999, b"NaN"])
        )
    return changed
