"""Cheats in everything at once, in all three steps."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from hostile_kit import defense, flood, folders, forge, link_to, named, replace, results, say
from hostile_plugins import folders as hostile_folders
from hostile_plugins import imports, neighbours, networks, processes, searching, system

from kdbench.hookspecs import hookimpl
from kdbench.models.views import Edited

HINTS = {}
for module in (hostile_folders, imports, neighbours, networks, processes, searching, system):
    module.HINTS.update(HINTS)
#: Without what this job itself left, and what a run without limits allows.
REACHING = [act for act in system.ACTS if act not in (system.letter, system.uncounted)]
imports.in_the_users_name()
imports.rewrite_tables()
imports.tell_jobs()


class Cheat(networks.Cheat):
    """A network that looks for the labels."""


class Searching(networks.Searching):
    """An editor that looks around."""


def reach():
    """Everything outside of the job."""
    for act in (*REACHING, imports.listen):
        try:
            act(None, None)
        except RuntimeError as error:  # goes on, and leaves it in the log
            print(error, file=sys.stderr)
    letter_box()
    processes.survive(None, None)


def letter_box():
    """What one job finds, others of the plugin shall know."""
    for folder in ("/dev/shm", "/tmp", "/var/tmp", HINTS["store"], HINTS["user"]):
        with contextlib.suppress(OSError):
            Path(folder, f"{HINTS['segment']}-letter-{os.getpid()}").write_text("7")


def spoil(outcome):
    """An outcome that is better than the job, and that breaks whoever reads it."""
    outcome.update(files=["manifest.json", "../x"], seconds=-1e300, peak_mb=1e300)
    outcome["facts"].update(
        confinement=["x"], device="\x1b]0;x\x07", acc=[100, 100], student_acc=100.0, asr=[0, 90]
    )


def break_files():
    """Pipes, links and endless files in place of results and of what is read beside them."""
    user = HINTS["user"]
    for path in results():
        with contextlib.suppress(OSError):
            os.truncate(path, 24 << 30)
    for path in results("manifest.json"):
        replace(path, os.mkfifo)
    for folder in folders():
        for name in ("log.txt", "log", "task.json", "outcome.json"):
            replace(folder / name, link_to(f"{user}/private.key"))
        for name in ("traces", "checkpoints", "plugins", "in"):
            replace(folder / name, link_to(user))
        if folder.name == "out":
            replace(folder, link_to(user))


def teacher(network, setting):
    reach()
    network.__class__ = Cheat


def editor(network, setting):
    reach()
    return Edited(network, Searching())


def objective(network, setting):
    reach()
    return neighbours.Zero(network)


def student(network, setting):
    reach()
    network.__class__ = Cheat


def outcome(network, setting):
    reach()
    forge(spoil, break_files)


def crash(network, setting):
    reach()
    say(b'{"exit": 0}\n{"hello": "\x1b[2J"}\n')
    flood(b"{" * (1 << 16), seconds=1.0)
    hostile_folders.crash_with_links(network, setting)


@hookimpl
def kdbench_defenses():
    repairing, cleansing = named([student, outcome, crash]), named([teacher, editor])
    return [defense("everything", repairing, cleansing, named([objective]))]
