"""What a machine keeps for a run: each file once, and nothing after the run."""

from __future__ import annotations

import hashlib
import os

import pytest

from kdbench.bench.work.remote.blobs import AgentFolder
from kdbench.errors import IntegrityError

DIGEST = hashlib.sha256(b"bytes").hexdigest()
#: A file, and where the coordinator has it. No other machine has it there.
WANTED = {DIGEST: "/nowhere/file"}


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_agents_of_a_run_on_a_machine_share_what_they_were_sent(tmp_path):
    first, second, other = (
        AgentFolder(*names) for names in (("run", "n"), ("run", "n"), ("run", "m"))
    )
    assert first.missing(WANTED) == [DIGEST]
    first.keep(DIGEST, b"by", last=False)
    assert second.missing(WANTED) == [DIGEST]
    first.keep(DIGEST, b"tes", last=True)
    assert (second.missing(WANTED), other.missing(WANTED)) == ([], [DIGEST])
    assert second.path(DIGEST).read_bytes() == b"bytes"
    first.close()
    assert second.path(DIGEST).exists(), "the second still needs it"
    second.close()
    other.close()
    assert [path.name for path in (tmp_path / f"kdbench-node-{os.getuid()}").iterdir()] == ["lock"]


def test_bytes_of_another_digest_are_refused():
    folder = AgentFolder("run", "n")
    with pytest.raises(IntegrityError, match="another digest"):
        folder.keep(DIGEST, b"others", last=True)
    assert folder.missing(WANTED) == [DIGEST]
    folder.close()


def test_what_a_killed_agent_left_is_removed_by_the_next(tmp_path):
    killed = AgentFolder("old", "n")
    killed.keep(DIGEST, b"bytes", last=True)
    os.close(killed._lock)  # as the kernel does it
    living = AgentFolder("living", "n")
    later = AgentFolder("new", "n")
    assert not killed.shared.exists()
    assert living.own.exists()
    later.close()
    living.close()


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    folder = tmp_path / f"kdbench-node-{os.getuid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(IntegrityError, match="not a folder of this user alone"):
        AgentFolder("run", "n")


def test_a_file_that_both_machines_see_is_not_sent(tmp_path):
    seen, other = tmp_path / "seen", tmp_path / "other"
    seen.write_bytes(b"bytes")
    other.write_bytes(b"others")
    folder = AgentFolder("run", "n")
    assert folder.missing({DIGEST: str(other)}) == [DIGEST], "another file of that name"
    os.mkfifo(tmp_path / "pipe")
    assert folder.missing({DIGEST: str(tmp_path / "pipe")}) == [DIGEST]
    assert folder.missing({DIGEST: str(seen)}) == []
    assert folder.path(DIGEST).read_bytes() == b"bytes"
    folder.close()


def test_what_was_wanted_longest_ago_goes_where_files_grow_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.bench.work.remote.blobs.MOST_BYTES", 10)
    folder = AgentFolder("run", "n")

    def give(content):
        digest = hashlib.sha256(content).hexdigest()
        if folder.missing({digest: "/nowhere"}):
            folder.keep(digest, content, last=True)
        os.utime(folder.path(digest), (0, len(os.listdir(folder.blobs))))
        return digest

    used = give(b"used by a job")
    os.link(folder.path(used), tmp_path / "input")
    first, second = give(b"first"), give(b"other")
    assert folder.missing({first: "/nowhere"}) == [], "it is wanted again, so it stays"
    give(b"third")
    assert set(os.listdir(folder.blobs)) >= {used, first}
    assert second not in os.listdir(folder.blobs)
    folder.close()
