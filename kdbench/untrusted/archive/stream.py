"""Decompressing, a chunk at a time and within the archive's limits."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from kdbench.untrusted.archive.limits import CHUNK, MIB, Refusal, Tally

PIECE = 2**14
"""The most compressed bytes that are read at once."""

# Bytes. Enough for xz -9, whose dictionary has 64 MiB; a hostile stream may ask for 4 GiB.
_XZ_MEMORY = 80 * MIB

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
"""The first bytes of a compressed tar, and the kind of compression."""


class Decoder(Protocol):
    """The interface that the decompressors of bz2 and lzma share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Deflate:
    """zlib's decompressor with the interface of the others.

    Args:
        wbits: -15 for bare deflate, 31 for gzip with its checksum.
    """

    def __init__(self, wbits: int) -> None:
        self._inner, self.needs_input = zlib.decompressobj(wbits), True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        plain = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        # A full chunk may have left more bytes inside zlib, which come out without new input.
        self.needs_input = not self._inner.unconsumed_tail and len(plain) < max_length
        return plain


def decoder(kind: str) -> Decoder:
    """A new decoder for one stream of ``kind``: gzip, bzip2, xz, or deflate as in zip."""
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    if kind == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    return Deflate({"gzip": 31, "deflate": -15}[kind])


def decoded(pieces: Iterator[bytes], kind: str, *, single: bool) -> Iterator[bytes]:
    """The plain bytes, in chunks of at most CHUNK bytes.

    Args:
        pieces: the compressed bytes.
        kind: as for :func:`decoder`.
        single: whether there must be one stream only, and not several in a row.

    Raises:
        Refusal: the data is damaged, does not end, or something that is no stream follows its end.
    """
    # Parallel compressors such as pigz write several streams in a row, which make up one file.
    current, ended = None, False
    for piece in pieces:
        data = piece
        while data:
            if ended and single:
                raise Refusal("something follows the end of its compressed data")
            current = current or decoder(kind)
            yield from _through(current, data)
            data = b""
            if current.eof:
                data, current, ended = current.unused_data, None, True
    if current is not None:
        raise Refusal("its compressed data ends too early; it is truncated")


def _through(current: Decoder, data: bytes) -> Iterator[bytes]:
    while True:
        try:
            plain = current.decompress(data, CHUNK)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
            raise Refusal(
                f"its compressed data is damaged, or something follows its end ({error})"
            ) from error
        if plain:
            yield plain
        # The decoder keeps what it has not used yet; the next turn takes it from there.
        data = b""
        if current.eof or current.needs_input:
            return


class TarStream:
    """The plain bytes of a tar, compressed or not. It is read once, from front to back."""

    def __init__(self, file: BinaryIO, tally: Tally, kind: str | None) -> None:
        self.fed = 0
        """Bytes of the archive that were read so far. The decoder may not have used the last PIECE
        of them yet."""
        self._file, self._tally = file, tally
        self._buffer, self._used = b"", 0
        self._plain = decoded(self._pieces(), kind, single=False) if kind else self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        while piece := self._file.read(PIECE):
            self.fed += len(piece)
            yield piece

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes, at most CHUNK. There are fewer only at the end."""
        parts, missing = [], count
        while missing:
            if self._used == len(self._buffer):
                self._buffer, self._used = next(self._plain, b""), 0
                self._tally.add(len(self._buffer))
                if not self._buffer:
                    break
            parts.append(self._buffer[self._used : self._used + missing])
            self._used += len(parts[-1])
            missing -= len(parts[-1])
        return b"".join(parts)

    def exactly(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises Refusal where the archive ends before."""
        plain = self.read(count)
        if len(plain) < count:
            raise Refusal(
                "it ends in the middle of a member, or without the zero blocks that end a tar; it "
                "is truncated"
            )
        return plain
