"""What a machine keeps for a run: each file once, and nothing after the run."""

from __future__ import annotations

import hashlib
import os

import pytest

from kdbench.bench.work.remote.blobs import AgentFolder
from kdbench.errors import IntegrityError

DIGEST = hashlib.sha256(b"bytes").hexdigest()


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_agents_of_a_run_on_a_machine_share_what_they_were_sent(tmp_path):
    first, second, other = (
        AgentFolder(*names) for names in (("run", "n"), ("run", "n"), ("run", "m"))
    )
    assert first.missing([DIGEST]) == [DIGEST]
    first.keep(DIGEST, b"bytes")
    assert (second.missing([DIGEST]), other.missing([DIGEST])) == ([], [DIGEST])
    assert second.path(DIGEST).read_bytes() == b"bytes"
    first.close()
    assert second.path(DIGEST).exists(), "the second still needs it"
    second.close()
    other.close()
    assert [path.name for path in (tmp_path / f"kdbench-node-{os.getuid()}").iterdir()] == ["lock"]


def test_bytes_of_another_digest_are_refused():
    folder = AgentFolder("run", "n")
    with pytest.raises(IntegrityError, match="another digest"):
        folder.keep(DIGEST, b"others")
    assert folder.missing([DIGEST]) == [DIGEST]
    folder.close()


def test_what_a_killed_agent_left_is_removed_by_the_next(tmp_path):
    killed = AgentFolder("old", "n")
    killed.keep(DIGEST, b"bytes")
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
