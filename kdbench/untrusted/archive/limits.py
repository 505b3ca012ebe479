"""What an archive may cost, what its members are to the readers, and how one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MIB, GIB = 2**20, 2**30

CHUNK = 2**16
"""Bytes a stream hands over at once, at most: what unpacking needs in memory does not depend on
what is in the archive."""


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold. Beyond any of these it is refused.

    members: files and folders, those counted that only a name implies. total: bytes that it unpacks
    to (of a tar, headers
    included). member_ratio: bytes of a member to compressed bytes, looked at where a member has
    more than ``member_free`` bytes; total_ratio: bytes in all to bytes of the archive, looked at
    beyond ``total_free`` bytes. Below these a bomb is too small to harm, and a small file of one
    colour may well be compressed a thousandfold. name: bytes of a member's name in UTF-8; part:
    bytes of a name between two slashes, which is what file systems allow; depth: such names in a
    row.
    """

    members: int = 300_000
    total: int = 20 * GIB
    member_ratio: int = 200
    member_free: int = MIB
    total_ratio: int = 100
    total_free: int = 16 * MIB
    name: int = 1000
    part: int = 255
    depth: int = 16


DEFAULT = Limits()


class Refusal(Exception):
    """Why an archive is refused; ``member`` is the name that it gives the member at fault, None for
    the whole of it."""

    def __init__(self, why: str, member: str | None = None) -> None:
        super().__init__(why)
        self.why, self.member = why, member


@dataclass(frozen=True)
class Member:
    """One entry, as a reader gives it: the name as it stands there, and its bytes, which must be
    taken before the next member.

    Taking the bytes checks them: the iterator raises Refusal where they are not ``size`` bytes,
    damaged, or a bomb.
    """

    name: str
    folder: bool
    size: int
    chunks: Iterator[bytes]


class Tally:
    """Adds up what an archive of ``stored`` bytes unpacks to."""

    def __init__(self, limits: Limits, stored: int) -> None:
        self._limits, self._stored, self.bytes = limits, stored, 0

    def add(self, count: int) -> None:
        """Raises Refusal once there is more than the limits allow."""
        limits = self._limits
        self.bytes += count
        if self.bytes > limits.total:
            raise Refusal(f"it unpacks to more than {limits.total:,} bytes")
        if self.bytes > max(limits.total_free, limits.total_ratio * self._stored):
            raise Refusal(
                f"it unpacks to more than {limits.total_ratio} times its own {self._stored:,} "
                "bytes, as bombs do"
            )


def check_ratio(name: str, size: int, stored: int, limits: Limits) -> None:
    """Refuse a member of ``size`` bytes that takes only ``stored`` bytes in the archive."""
    if size > limits.member_free and size > limits.member_ratio * stored:
        raise Refusal(
            f"it unpacks to more than {limits.member_ratio} times its compressed bytes, as bombs "
            "do",
            name,
        )
