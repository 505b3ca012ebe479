"""What a machine keeps of the files that were sent to it: each once, by its digest.

    TEMPORARY/kdbench-node-UID/RUN-NODE/        a folder for each run and machine
        blobs/DIGEST                            read only
        AGENT/  lock  jobs/                     a folder for each agent, locked while it lives

All agents of a run on a machine share the files. The last one that ends removes them. What was left
by agents that were killed is removed by the next agent that begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdbench.errors import IntegrityError
from kdbench.untrusted.box import remove_tree

_LOCK, _JOBS, _BLOBS = "lock", "jobs", "blobs"


class AgentFolder:
    """The folder of an agent, and the files that it shares with its neighbours.

    Args:
        run: a name of the run that no other run has.
        node: a name of the machine in the cluster.

    Raises:
        IntegrityError: somebody else owns the folder of this user.
        OSError: it cannot be made.
    """

    def __init__(self, run: str, node: str) -> None:
        user = Path(tempfile.gettempdir()) / f"kdbench-node-{os.getuid()}"
        _own(user)
        self.shared = user / f"{run}-{node}"
        with _locked(user / _LOCK):
            _remove_left(user)
            self.own = self.shared / secrets.token_hex(8)
            self.own.mkdir(parents=True, mode=0o700)
            self._lock = os.open(self.own / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.blobs = self.shared / _BLOBS
        self.blobs.mkdir(exist_ok=True, mode=0o700)

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that are not here yet."""
        return [digest for digest in digests if not (self.blobs / digest).exists()]

    def keep(self, digest: str, content: bytes) -> None:
        """Keep bytes under their digest.

        Raises:
            IntegrityError: they have another digest.
            OSError: the disk is full.
        """
        if hashlib.sha256(content).hexdigest() != digest:
            raise IntegrityError(f"what came as {digest[:12]} has another digest")
        part = self.own / f"{digest}.part"
        part.write_bytes(content)
        part.chmod(0o444)
        part.replace(self.blobs / digest)

    def path(self, digest: str) -> Path:
        """The file with these bytes."""
        return self.blobs / digest

    def new_job(self) -> Path:
        """A folder for a job, not made yet."""
        (self.own / _JOBS).mkdir(exist_ok=True, mode=0o700)
        return self.own / _JOBS / secrets.token_hex(16)

    def close(self) -> None:
        """Remove what is this agent's, and, if no other one is left, what they share."""
        with _locked(self.shared.parent / _LOCK):
            remove_tree(self.own)
            os.close(self._lock)
            _remove_left(self.shared.parent)


def _own(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise IntegrityError(f"{folder} is not a folder of this user alone; remove it")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_left(user: Path) -> None:
    """Remove the folders of agents that live no more, and of runs that have none left."""
    for shared in (path for path in user.iterdir() if path.is_dir()):
        agents = [path for path in shared.iterdir() if path.name != _BLOBS]
        living = [path for path in agents if _lives(path)]
        for path in agents:
            if path not in living:
                remove_tree(path)
        if not living:
            shutil.rmtree(shared, ignore_errors=True)


def _lives(agent: Path) -> bool:
    try:
        handle = os.open(agent / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
