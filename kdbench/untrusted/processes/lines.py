"""Bytes become lines, whatever the sender does."""

from __future__ import annotations

#: Longest line that is kept, in bytes.
LONGEST = 8 << 20


class Lines:
    """Complete lines of a stream that comes in parts.

    A line that is too long is dropped up to its end. Each byte is copied a bounded number of times,
    however small the parts are.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest
        #: How many lines were too long.
        self.dropped = 0
        self._start = bytearray()
        self._dropping = False

    def add(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends."""
        first, *rest = data.split(b"\n")
        if not rest:
            self._keep(first)
            return []
        self._keep(first)
        lines = [] if self._dropping else [bytes(self._start)]
        lines += [line for line in rest[:-1] if len(line) <= self.longest]
        self.dropped += len(rest) - 1 - sum(len(line) <= self.longest for line in rest[:-1])
        self._start, self._dropping = bytearray(), False
        self._keep(rest[-1])
        return lines

    def _keep(self, part: bytes) -> None:
        if self._dropping:
            return
        if len(self._start) + len(part) > self.longest:
            self._start, self._dropping = bytearray(), True
            self.dropped += 1
        else:
            self._start += part
