"""Cheats in everything at once, in all three steps."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from hostile_kit import ActParams, flood, folders, forge, info, link_to, replace, results, say
from hostile_plugins import folders as hostile_folders
from hostile_plugins import imports, neighbours, networks, processes, searching, system

from kdbench.defense import Defense
from kdbench.hookspecs import hookimpl
from kdbench.method import Variant
from kdbench.models.views import Edited

HINTS = {}
for module in (hostile_folders, imports, neighbours, networks, processes, searching, system):
    module.HINTS.update(HINTS)
imports.in_the_users_name()
imports.rewrite_tables()
imports.tell_jobs()


class Cheat(networks.Cheat):
    """A network that looks for the labels."""


def reach():
    """Everything outside of the job."""
    for act in system.ACTS:
        with contextlib.suppress(RuntimeError):
            act(None, None)
    with contextlib.suppress(RuntimeError):
        imports.listen(None, None)
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


class Everything(Defense):
    info = info("everything")
    Params = ActParams
    variants = {
        name: Variant(name, {"act": name})
        for name in ("teacher", "editor", "objective", "student", "outcome", "crash")
    }

    def steps(self):
        step = {"teacher": "cleanse_teacher", "editor": "cleanse_teacher", "objective": "objective"}
        return frozenset([step.get(self.params.act, "repair_student")])

    def cleanse_teacher(self, teacher, setting):
        reach()
        if self.params.act == "editor":
            return Edited(teacher, networks.Searching())
        teacher.__class__ = Cheat
        return teacher

    def objective(self, teacher, student, setting):
        reach()
        return neighbours.Zero(student)

    def repair_student(self, student, teacher, setting):
        reach()
        if self.params.act == "student":
            student.__class__ = Cheat
        if self.params.act == "outcome":
            forge(spoil, break_files)
            say(b'{"exit": 0}\n{"hello": "\x1b[2J"}\n')
        if self.params.act == "crash":
            flood(b"{" * (1 << 16), seconds=1.0)
            time.sleep(0.1)
            hostile_folders.crash(student, setting)
        return student


@hookimpl
def kdbench_defenses():
    return [Everything]
