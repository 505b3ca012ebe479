"""Compressed bytes to plain ones, a chunk at a time, with the archive's limits kept."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from kdbench.untrusted.archive.limits import CHUNK, MIB, Refusal, Tally

PIECE = 2**14
"""Compressed bytes read at once."""

# Enough for xz -9, whose dictionary has 64 MiB. A stream may ask for 4 GiB.
_XZ_MEMORY = 80 * MIB

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
"""How a compressed tar begins."""


class Decoder(Protocol):
    """What bz2's and lzma's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Deflate:
    """zlib's decompressor with the interface of the others. wbits: -15 for bare deflate, 31 for
    gzip with its checksum."""

    def __init__(self, wbits: int) -> None:
        self._inner, self.needs_input = zlib.decompressobj(wbits), True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(found) < max_length
        return found


def decoder(kind: str) -> Decoder:
    """A fresh decoder for one stream: gzip, bzip2, xz, or deflate as in zip."""
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    if kind == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    return Deflate({"gzip": 31, "deflate": -15}[kind])


def decoded(pieces: Iterator[bytes], kind: str, *, single: bool) -> Iterator[bytes]:
    """The plain bytes of one stream, or (unless ``single``) of several in a row, in chunks of at
    most CHUNK bytes.

    Raises Refusal for damage, a stream that does not end, and whatever follows the end and is no
    stream.
    """
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
            found = current.decompress(data, CHUNK)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
            raise Refusal(
                f"its compressed data is damaged, or something follows its end ({error})"
            ) from error
        if found:
            yield found
        data = b""
        if current.eof or current.needs_input:
            return


class TarStream:
    """The plain bytes of a tar, compressed or not, read forwards once."""

    def __init__(self, file: BinaryIO, tally: Tally, kind: str | None) -> None:
        self.fed = 0
        """Bytes of the archive that were read so far; the decoder may not have used the last PIECE
        of them."""
        self._file, self._tally = file, tally
        self._buffer, self._used = b"", 0
        self._plain = decoded(self._pieces(), kind, single=False) if kind else self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        while piece := self._file.read(PIECE):
            self.fed += len(piece)
            yield piece

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes (at most CHUNK); fewer only at the end."""
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
        """The next ``count`` bytes, or Refusal where the archive ends before."""
        found = self.read(count)
        if len(found) < count:
            raise Refusal(
                "it ends in the middle of a member, or without the zero blocks that end a tar; it "
                "is truncated"
            )
        return found
