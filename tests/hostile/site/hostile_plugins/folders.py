"""A job that puts links and pipes where folders and files were."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from hostile_kit import defense, folders, forge, leave, link_to, named, replace

from kdbench.hookspecs import hookimpl

HINTS = {}
#: Every folder that a coordinator may look into, delete, or write to.
NAMES = ("out", "in", "plugins", "tmp", "checkpoints", "traces")


def link_folders():
    """Every folder of the job becomes a link to the user's."""
    here = Path.cwd()
    for folder in folders():
        for name in NAMES:
            if folder.name not in NAMES:
                replace(folder / name, link_to(HINTS["user"]))
    with contextlib.suppress(OSError):
        os.rename(here, here.with_name(f"{here.name}.moved"))
        here.symlink_to(HINTS["user"])


def linked_folders(student, setting):
    link_folders()
    leave()


def linked_folders_late(student, setting):
    """As soon as the results lie there. The process ends as if nothing had been."""
    forge(lambda outcome: outcome.update(files=[]), link_folders)


def crash(student, setting):
    """What the next attempt writes before it starts would be written through links."""
    for folder in folders():
        if folder.name not in NAMES:
            replace(folder / "plugins", link_to(HINTS["user"]))
            for name in ("task.json", "order.json", "log.txt", "log"):
                replace(folder / name, link_to(f"{HINTS['user']}/notes.txt"))
    os.kill(os.getpid(), signal.SIGKILL)


def crash_with_links(student, setting):
    """Nothing is what it was."""
    link_folders()
    os.kill(os.getpid(), signal.SIGKILL)


def crash_with_checkpoints(student, setting):
    """The checkpoints, which the next attempt goes on from, are pipes, links and endless."""
    for folder in folders():
        if folder.name == "checkpoints":
            replace(folder / "fit-1.safetensors", os.mkfifo)
            replace(folder / "fit-2.safetensors", link_to(f"{HINTS['user']}/private.key"))
            replace(folder / "fit-3.safetensors", link_to(HINTS["user"]))
            with contextlib.suppress(OSError), (folder / "fit-4.safetensors").open("wb") as file:
                file.truncate(24 << 30)
    os.kill(os.getpid(), signal.SIGKILL)


ACTS = [linked_folders, linked_folders_late, crash, crash_with_links, crash_with_checkpoints]


@hookimpl
def kdbench_defenses():
    return [defense("folders", named(ACTS))]
