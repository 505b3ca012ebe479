"""Opening what somebody else chose: never a wait, never more than a size."""

from __future__ import annotations

import os

import pytest

from kdbench.untrusted.files import chunks, open_regular, read_regular, size_in_words
from tests.untrusted.pipes import pipe


def test_a_regular_file_is_read_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link", 10) == b"x" * 10
    with open_regular(tmp_path / "file") as file:
        assert file.name == str(tmp_path / "file")
        assert not os.get_inheritable(file.fileno())
    with pytest.raises(OSError, match="it is larger than 9 bytes"):
        read_regular(tmp_path / "file", 9)
    (tmp_path / "empty").touch()
    assert read_regular(tmp_path / "empty", 0) == b""


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    before = os.listdir("/dev/fd")
    with pipe(tmp_path / "pipe") as path, pytest.raises(OSError, match="it is no regular file"):
        open_regular(path)
    with pytest.raises(OSError, match="it is no regular file"):
        open_regular("/dev/zero")
    with pytest.raises(OSError, match="it is no regular file"):
        open_regular(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        open_regular(tmp_path / "absent")
    assert len(os.listdir("/dev/fd")) == len(before)  # nothing is left open


def test_a_file_that_grows_while_it_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    with open_regular(path) as file:
        pieces = chunks(file)
        assert next(pieces) == b"x" * 10
        with path.open("ab") as more:
            more.write(b"y")
        with pytest.raises(OSError, match="it has more bytes than its size says"):
            next(pieces)


def test_sizes_in_words():
    sizes = (0, 1, 1023, 1 << 10, 1 << 18, 3 << 19, 1 << 30, 1 << 42)
    assert [size_in_words(size) for size in sizes] == [
        *("0 bytes", "1 bytes", "1023 bytes", "1 KiB", "256 KiB", "1.5 MiB", "1 GiB", "4096 GiB")
    ]
