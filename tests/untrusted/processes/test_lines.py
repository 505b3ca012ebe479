"""Lines of a stream, whatever its parts are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.untrusted.processes.lines import Lines


@settings(deadline=None)  # a loaded machine may take its time
@given(st.lists(st.binary(max_size=12).map(lambda part: part.replace(b"a", b"\n"))), st.data())
def test_parts_make_no_difference(parts, data):
    longest = data.draw(st.integers(0, 10))
    lines = Lines(longest)
    heard = [line for part in parts for line in lines.add(part)]
    *complete, rest = b"".join(parts).split(b"\n")
    assert heard == [line for line in complete if len(line) <= longest]
    too_long = sum(len(line) > longest for line in [*complete, rest])
    assert lines.dropped == too_long


def test_a_line_without_end_is_not_kept():
    lines = Lines(1000)
    for _ in range(100_000):
        assert lines.add(b"x" * 100) == []
    assert len(lines._start) <= 1000
    assert lines.add(b"\nnext\n") == [b"next"]
