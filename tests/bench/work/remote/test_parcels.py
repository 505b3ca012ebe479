"""Files in pieces."""

from __future__ import annotations

import hashlib

import pytest

from kdbench.bench.work.remote.parcels import Outbox, pieces, receive
from kdbench.errors import IntegrityError
from tests.bench.work.remote.jobs import laid_out


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr("kdbench.bench.work.remote.parcels.PIECE", 4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", [(b"", True)]),
        (b"four", [(b"four", True)]),
        (b"nine long", [(b"nine", False), (b" lon", False), (b"g", True)]),
    ],
)
def test_a_file_is_read_in_pieces(tmp_path, content, expected):
    (tmp_path / "file").write_bytes(content)
    assert list(pieces(tmp_path / "file")) == expected


@pytest.mark.parametrize("content", [b"", b"four", b"nine long"])
def test_a_file_arrives_as_it_was_when_it_was_announced(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(content)
    outbox = Outbox(tmp_path / "outbox")
    parcel = outbox.put(tmp_path / "out", "file", 100)
    (tmp_path / "out" / "file").write_bytes(b"something else")
    assert (parcel.size, parcel.head) == (len(content), content[:4])
    assert parcel.sha256 == hashlib.sha256(content).hexdigest()
    job = laid_out(tmp_path / "job")
    receive(job, "out/model.safetensors", parcel, outbox.piece)
    assert (job.folder / "box/out/model.safetensors").read_bytes() == content
    outbox.drop(parcel)
    assert list((tmp_path / "outbox").iterdir()) == []


def test_what_fits_one_piece_is_not_kept(tmp_path):
    (tmp_path / "file").write_bytes(b"four")
    outbox = Outbox(tmp_path / "outbox")
    outbox.put(tmp_path, "file", 100)
    assert list((tmp_path / "outbox").iterdir()) == []


def test_a_link_and_what_is_too_large_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"four")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    outbox = Outbox(tmp_path / "outbox")
    for name, limit in (("link", 100), ("file", 3)):
        with pytest.raises(IntegrityError):
            outbox.put(tmp_path, name, limit)
    assert list((tmp_path / "outbox").iterdir()) == []
