"""What a machine keeps of the files that were sent to it: each once, by its digest.

    TEMPORARY/kdbench-node-UID/RUN-NODE/        a folder for each run and machine
        blobs/DIGEST                            read only
        AGENT/  lock  jobs/  outbox/            a folder for each agent, locked while it lives

All agents of a run on a machine share the files. Where they grow too large, those go that were
wanted longest ago. The last agent that ends removes all. What was left by agents that were killed
is removed by the next agent that begins.
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
from collections.abc import Iterator, Mapping
from pathlib import Path

from kdbench.errors import IntegrityError
from kdbench.untrusted.box import copy_file, remove_tree

#: Bytes of files that a machine keeps for a run, besides those that a job uses.
MOST_BYTES = 20 << 30
#: The largest file that is copied from a folder which both machines see.
_MOST_COPIED = 1 << 40
_LOCK, _JOBS, _BLOBS, _OUTBOX = "lock", "jobs", "blobs", "outbox"


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
        self.outbox = self.own / _OUTBOX
        self.blobs = self.shared / _BLOBS
        self.blobs.mkdir(exist_ok=True, mode=0o700)
        #: Digests of the files of the next job, and of those that are on their way.
        self._wanted: set[str] = set()
        self._coming: dict[str, hashlib._Hash] = {}

    def missing(self, wanted: Mapping[str, str]) -> list[str]:
        """Digests of those files that are not here, and that this machine does not see itself.

        Args:
            wanted: digest -> where the coordinator has these bytes. The same file may be seen here,
                in a folder that the two share. The digest of a copy shows whether it is.
        """
        self._wanted, self._coming = set(wanted), {}
        return [digest for digest, path in wanted.items() if not self._has(digest, Path(path))]

    def keep(self, digest: str, piece: bytes, *, last: bool) -> None:
        """Keep the next piece of the bytes that have a digest.

        Args:
            last: they are complete with it.

        Raises:
            IntegrityError: they have another digest.
            OSError: the disk is full.
        """
        part = self._part(digest)
        if digest not in self._coming:
            self._coming[digest] = hashlib.sha256()
            part.unlink(missing_ok=True)
        self._coming[digest].update(piece)
        with part.open("ab") as file:
            file.write(piece)
        if last:
            self._take(digest, self._coming.pop(digest).hexdigest())

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

    # -- inside --------------------------------------------------------------------------------

    def _has(self, digest: str, path: Path) -> bool:
        with contextlib.suppress(OSError):
            os.utime(self.blobs / digest)
            return True
        with contextlib.suppress(OSError, IntegrityError):
            self._part(digest).unlink(missing_ok=True)
            copied = copy_file(
                path.parent, path.name, self._part(digest), _MOST_COPIED, shared=True, mode=0o600
            )
            self._take(digest, copied.sha256)
            return True
        return False

    def _part(self, digest: str) -> Path:
        return self.own / f"{digest}.part"

    def _take(self, digest: str, found: str) -> None:
        """Give a complete file its name."""
        part = self._part(digest)
        if found != digest:
            part.unlink()
            raise IntegrityError(f"what came as {digest[:12]} has another digest")
        part.chmod(0o444)
        part.replace(self.blobs / digest)
        self._make_room()

    def _make_room(self) -> None:
        """Delete what was wanted longest ago, and that no job uses."""
        with _locked(self.shared.parent / _LOCK):
            kept = [(path, path.stat()) for path in self.blobs.iterdir()]
            kept.sort(key=lambda each: each[1].st_mtime)
            # A job's input is a further name of the same file.
            free = [(p, facts) for p, facts in kept if facts.st_nlink == 1]
            size = sum(facts.st_size for _, facts in free)
            for path, facts in free:
                if size > MOST_BYTES and path.name not in self._wanted:
                    path.unlink()
                    size -= facts.st_size


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
