"""What an archive may hold, what a reader says of a member, and how an archive is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MIB, GIB = 2**20, 2**30

CHUNK = 2**16
"""The most bytes that a stream hands over at once. So the memory that unpacking takes does not
depend on the archive."""


@dataclass(frozen=True)
class ArchiveLimits:
    """How much an archive may hold. Beyond any of these it is refused."""

    members: int = 300_000
    """Files and folders, with the folders that only the name of another member implies."""
    total: int = 20 * GIB
    """Bytes that it unpacks to. A tar's headers count."""
    member_ratio: int = 200
    """Bytes of a member per compressed byte, where the member is larger than ``member_free``."""
    member_free: int = MIB
    """Bytes of a member that need not keep the ratio. A small image of one colour may well be
    compressed a thousandfold, and a bomb of this size does no harm."""
    total_ratio: int = 100
    """Bytes in all per byte of the archive, beyond ``total_free`` bytes."""
    total_free: int = 16 * MIB
    """Bytes in all that need not keep ``total_ratio``."""
    name: int = 1000
    """Bytes of a member's name in UTF-8."""
    part: int = 255
    """Bytes of a name between two slashes. File systems allow no more."""
    depth: int = 16
    """Folders in a row, with the file itself."""


DEFAULT = ArchiveLimits()


class Refusal(Exception):
    """An archive is refused.

    Args:
        why: the reason, as a sentence about "it".
        member: the name of the member at fault; None where it is the whole archive.
    """

    def __init__(self, why: str, member: str | None = None) -> None:
        super().__init__(why)
        self.why, self.member = why, member


@dataclass(frozen=True)
class Member:
    """One entry of an archive. Its bytes must be taken before the next member is asked for."""

    name: str
    """As it stands in the archive, not yet checked."""
    folder: bool
    size: int
    """Bytes, as the archive declares them."""
    chunks: Iterator[bytes]
    """The plain bytes. Taking them checks them: the iterator raises Refusal where they are damaged,
    a bomb, or not ``size`` bytes."""


class Tally:
    """Adds up the bytes that an archive of ``stored`` bytes unpacks to."""

    def __init__(self, limits: ArchiveLimits, stored: int) -> None:
        self._limits, self._stored, self.bytes = limits, stored, 0

    def add(self, count: int) -> None:
        """Add ``count`` bytes. Raises Refusal once there are more than the limits allow."""
        limits = self._limits
        self.bytes += count
        if self.bytes > limits.total:
            raise Refusal(f"it unpacks to more than {limits.total:,} bytes")
        if self.bytes > max(limits.total_free, limits.total_ratio * self._stored):
            raise Refusal(
                f"it unpacks to more than {limits.total_ratio} times its own {self._stored:,} "
                "bytes, as bombs do"
            )


def check_ratio(name: str, size: int, stored: int, limits: ArchiveLimits) -> None:
    """Refuse a member of ``size`` bytes that takes only ``stored`` bytes in the archive."""
    if size > limits.member_free and size > limits.member_ratio * stored:
        raise Refusal(
            f"it unpacks to more than {limits.member_ratio} times its compressed bytes, as bombs "
            "do",
            name,
        )
