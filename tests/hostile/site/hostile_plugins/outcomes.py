"""A job that says what is not so, or says it so that whoever listens breaks."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys

from hostile_kit import (
    HOLE,
    defense,
    descriptors,
    flood,
    folders,
    forge,
    leave,
    link_to,
    named,
    replace,
    results,
    say,
)

from kdbench.hookspecs import hookimpl
from kdbench.training import Step

HINTS = {}


def facts(**values):
    return lambda outcome: outcome["facts"].update(values)


def files(*names):
    """Say which files there are, where an outcome says so."""
    return lambda outcome: outcome.update({"files": list(names)} if "files" in outcome else {})


def no_files(student, setting):
    def remove():
        for path in results():
            path.unlink()

    forge(files(), remove)


def manifest(student, setting):
    def write():
        for path in results("manifest.json"):
            path.write_text("{}")

    forge(files("model.safetensors", "manifest.json"), write)


def other_files(student, setting):
    forge(lambda outcome: outcome.update(files=["../in/student.safetensors", "x/y"]))


def a_list_for_a_word(student, setting):
    forge(facts(confinement=["x"]))


def nested(student, setting):
    forge(facts(deep=HOLE))


def sparse(student, setting):
    """As large as may be."""

    def stretch():
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        for path in results():
            with contextlib.suppress(OSError):
                os.truncate(path, 24 << 30 if most < 0 else min(most, 24 << 30))

    forge(facts(), stretch)


def escape(student, setting):
    forge(known(device="cpu \x1b]0;renamed\x07\x1b[2J"))


def boast(student, setting):
    forge(known(seconds=-1e300, peak_mb=1e300, confinement="landlock 99", device="H9000"))


def known(**values):
    """Say what the coordinator may take from the job. A field that an outcome lacks is a fact."""

    def change(outcome):
        for name, value in values.items():
            (outcome if name in outcome else outcome["facts"])[name] = value

    return change


def boast_in_lines(student, setting):
    say(b'{"hello": "H9000"}\n{"confinement": "landlock 99"}\n{"device": "H9000"}\n')


def steps(student, setting):
    """Of trainings that nobody can have."""
    whole = {"epoch": 1, "epochs": 1, "done": 1, "total": 1, "images": 1, "loss": None}
    for name, value in (("total", 10**3000), ("done", -1), ("epoch", "\x1b[2J"), ("loss", 1e999)):
        with contextlib.suppress(Exception):
            setting.fit.progress.step(Step(**whole | {name: value}))


def wait_for_outcome(student, setting):
    for folder in folders():
        replace(folder / "outcome.json", os.mkfifo)
    os._exit(0)


def wait_for_log(student, setting):
    for folder in folders():
        for name in ("log.txt", "log"):
            replace(folder / name, os.mkfifo)
    os._exit(0)


def wait_for_result(student, setting):
    def block():
        for path in results():
            replace(path, os.mkfifo)

    forge(facts(), block)


def linked_log(student, setting):
    for folder in folders():
        for name in ("log.txt", "log"):
            replace(folder / name, link_to(f"{HINTS['user']}/private.key"))
    sys.stdout.flush()
    os._exit(3)


def linked_result(student, setting):
    def link():
        for path in results():
            replace(path, link_to(f"{HINTS['user']}/private.key"))

    forge(facts(), link)


def garble(student, setting):
    say(b"{")


def pour(student, setting):
    flood(b"x" * (1 << 16), seconds=1.0)


def pour_steps(student, setting):
    """Nothing wrong with any of them."""
    step = {"place": 0, "epoch": 1, "epochs": 1, "done": 1, "total": 9, "images": 1, "loss": None}
    flood((json.dumps(step).encode() + b"\n") * 500, seconds=1.0)


def hand_over(student, setting):
    """Open files for whoever takes what comes with a message."""
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    for number in descriptors():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as line:
            for _ in range(50):
                socket.send_fds(line, [b" "], opened, socket.MSG_DONTWAIT)


def say_twice(student, setting):
    outcome = {"status": "ok", "facts": {}, "reason": ""}
    say(b"".join(json.dumps({"outcomes": [outcome]}).encode() + b"\n" for _ in range(3)))


def silent(student, setting):
    leave()


ACTS = [
    no_files,
    manifest,
    other_files,
    a_list_for_a_word,
    nested,
    sparse,
    escape,
    boast,
    boast_in_lines,
    steps,
    wait_for_outcome,
    wait_for_log,
    wait_for_result,
    linked_log,
    linked_result,
    garble,
    pour,
    pour_steps,
    hand_over,
    say_twice,
    silent,
]


@hookimpl
def kdbench_defenses():
    return [defense("outcomes", named(ACTS))]
