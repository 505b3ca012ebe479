"""The folders of jobs: one with a random name for each attempt, made anew.

    ROOT/jobs/1234.../  in/         inputs, read only
                        plugins/    one-off plugins, read only
                        box/        all that the job may write: out/ checkpoints/ traces/ tmp/

The name tells nothing of the stage. Whatever a job left in its box is hostile: it is read through
:mod:`kdbench.untrusted.box`, and never written into. The workspace of the stage remembers the name
of the last folder, so that the next attempt goes on at its checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from kdbench._files import write_atomically
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.care import LAST_JOB, last_job
from kdbench.bench.work.job import (
    BOX,
    CHECKPOINT_NAME,
    CHECKPOINTS,
    IN,
    MOST_CHECKPOINT_BYTES,
    OUT,
    PLUGINS,
    TEMPORARY,
    TRACES,
)
from kdbench.errors import IntegrityError
from kdbench.untrusted.box import copy_file, file_names, prune, remove_tree

#: Names that are looked at where checkpoints lie.
_MOST_NAMES = 10_000
#: A job may have left millions of files. What cannot be removed in so many seconds is left to
#: ``kdbench store gc``.
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class JobFolders:
    """Makes and removes the folders of the jobs of a store.

    The caller holds the lock of each stage that it names.
    """

    store: Store
    #: Whether nobody else computes a stage that this run has locked. Where locks do not work, the
    #: last job of a stage may be another run's, and at work. So it is left alone.
    alone: bool = True
    #: Stage -> the folder that was made for it here.
    made: dict[str, Path] = field(default_factory=dict)

    def make(self, key: str) -> Path:
        """A new folder for a stage, with the checkpoints of its last attempt.

        Raises:
            OSError: the disk is full.
        """
        last = last_job(self.store, key)
        folder = self.store.jobs / secrets.token_hex(16)
        folder.mkdir(parents=True, mode=0o700)
        try:
            for name in (IN, PLUGINS, BOX):
                (folder / name).mkdir(mode=0o700)
            for name in (OUT, CHECKPOINTS, TRACES, TEMPORARY):
                (folder / BOX / name).mkdir(mode=0o700)
            if last is not None:
                _copy_checkpoints(last / BOX / CHECKPOINTS, folder / BOX / CHECKPOINTS)
            self._remember(key, folder)
            self.made[key] = folder
        except BaseException:
            remove_tree(folder)
            raise
        if last is not None and self.alone:
            remove_tree(last, _PATIENCE_S)
        return folder

    def _remember(self, key: str, folder: Path) -> None:
        self.store.workspace(key).mkdir(parents=True, exist_ok=True)
        note = self.store.workspace(key) / LAST_JOB
        write_atomically(note, lambda path: path.write_text(folder.name, encoding="ascii"))

    def keep_checkpoints(self, key: str) -> None:
        """Remove what the last job of a stage used and left, but not its checkpoints."""
        folder = self._ours(key)
        if folder is None:
            return
        prune(folder, lambda name, _: name == BOX, _PATIENCE_S)
        prune(folder / BOX, lambda name, _: name == CHECKPOINTS, _PATIENCE_S)
        # A link that a job left is followed by nobody, but by the tools of the user perhaps.
        prune(folder / BOX / CHECKPOINTS, _may_be_checkpoint, _PATIENCE_S)
        with contextlib.suppress(OSError):
            os.utime(self.store.workspace(key) / LAST_JOB)  # it is kept from today on

    def remove(self, key: str) -> None:
        """Remove all that is left of the jobs of a stage."""
        folder = self._ours(key)
        if folder is not None:
            remove_tree(folder, _PATIENCE_S)
        if self.alone:
            remove_tree(self.store.workspace(key))

    def _ours(self, key: str) -> Path | None:
        """The folder of the last job of a stage that nobody else uses."""
        return self.made.get(key) or (last_job(self.store, key) if self.alone else None)


def _may_be_checkpoint(name: str, facts: os.stat_result) -> bool:
    alone = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
    return alone and CHECKPOINT_NAME.fullmatch(name) is not None


def _copy_checkpoints(source: Path, target: Path) -> None:
    """Copy what may be checkpoints. One that cannot be copied is lost, and nothing else is."""
    left = MOST_CHECKPOINT_BYTES
    for name in file_names(source, _MOST_NAMES):
        if CHECKPOINT_NAME.fullmatch(name):
            with contextlib.suppress(OSError, IntegrityError):
                left -= copy_file(source, name, target / name, left, mode=0o600).bytes
