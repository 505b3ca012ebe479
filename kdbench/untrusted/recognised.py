"""Files in the place of a text: what they are, so that a message can say it."""

from __future__ import annotations

import codecs

#: A file that begins with these bytes -> what it is.
_BEGINS = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a spreadsheet's own file (.xls)",
    b"\x1f\x8b": "packed with gzip",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ\x00": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\x89PNG": "a binary file (a PNG image)",
    b"\xff\xd8\xff": "a binary file (a JPEG image)",
    b"%PDF": "a PDF",
    b"{\\rtf": "a document of a word processor (.rtf)",
    b"version https://git-lfs": "a Git LFS pointer (run `git lfs pull`)",
}
_UTF_16 = 'in UTF-16 ("Unicode text" of a spreadsheet or an editor)'
#: Longer first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "in UTF-32",
    codecs.BOM_UTF32_BE: "in UTF-32",
    codecs.BOM_UTF16_LE: _UTF_16,
    codecs.BOM_UTF16_BE: _UTF_16,
}
_ZIP = b"PK\x03\x04"
#: Bytes at a file's beginning that are looked at.
_BEGINNING = 4096


def foreign_form(data: bytes) -> str:
    """What a file is that should be a text in UTF-8, in words after "it is". Empty: such a text."""
    head = data[:_BEGINNING]
    if head.startswith(_ZIP):
        return _of_zip(data)
    for table in (_MARKS, _BEGINS):
        for begin, words in table.items():
            if head.startswith(begin):
                return words
    if b"\0" in head:
        # Of plain letters in UTF-16, every second byte is 0.
        halves = head[::2], head[1::2]
        wide = len(head) % 2 == 0 and any(half.count(0) > len(half) // 2 for half in halves)
        return _UTF_16 if wide else "a binary file"
    start = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<table", b"<meta", b"<style")):
        return "an HTML page"
    if start.startswith(b"<?xml"):
        return "XML"
    return "a binary file" if b"\0" in data else ""


def _of_zip(data: bytes) -> str:
    if b"application/vnd.oasis.opendocument" in data[:_BEGINNING]:
        return "a spreadsheet's own file (.ods)"
    # The list of what is in it stands at the end.
    names = data[:_BEGINNING] + data[-_BEGINNING:]
    if b"xl/" in names:
        return "a spreadsheet's own file (.xlsx)"
    return "a document of a word processor (.docx)" if b"word/" in names else "a zip archive"


def decoded(data: bytes) -> str:
    """A text in UTF-8, with or without the mark that some editors put before it.

    Raises:
        ValueError: it is none. The message says what it is, and names the line.
    """
    if form := foreign_form(data):
        raise ValueError(f"line 1: it is {form}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: it is a binary file or not in UTF-8 (byte 0x{data[error.start]:02x})"
        ) from None
