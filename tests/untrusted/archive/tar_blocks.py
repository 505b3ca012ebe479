"""Tars made byte by byte, with every field open to lies."""

from __future__ import annotations


def block(
    name: bytes,
    data: bytes = b"",
    kind: bytes = b"0",
    *,
    link: bytes = b"",
    size: bytes | None = None,
    magic: bytes = b"ustar\x0000",
    more: bytes = b"",
) -> bytes:
    """A header and its data. more: what stands from byte 345 on."""
    size = b"%011o\0" % len(data) if size is None else size
    head = name.ljust(100, b"\0") + b"0000644\0" * 3 + size + b"00000000000\0"
    head += b" " * 8 + kind + link.ljust(100, b"\0") + magic.ljust(88, b"\0") + more
    head = head.ljust(512, b"\0")
    head = head[:148] + b"%06o\0 " % sum(head) + head[156:]
    return head + data + bytes(-len(data) % 512)


def tarred(*blocks: bytes, end: bytes = bytes(1024)) -> bytes:
    """A tar of these blocks."""
    return b"".join(blocks) + end


def pax(kind: bytes = b"x", **records: str) -> bytes:
    """An extended header. A dot in a key is written as two underscores."""
    body = b""
    for key, value in records.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record) + len(str(len(record) + 2))
        body += str(length).encode() + record
    return block(b"PaxHeaders/0", body, kind)
