"""A job that says what is not so, or says it so that whoever listens breaks."""

from __future__ import annotations

import os
import sys

from hostile_kit import HOLE, defense, flood, folders, forge, leave, link_to, replace, results, say

from kdbench.hookspecs import hookimpl

HINTS = {}


def facts(**values):
    return lambda outcome: outcome["facts"].update(values)


def files(*names):
    return lambda outcome: outcome.update(files=list(names))


def no_files(student, setting):
    forge(files())


def manifest(student, setting):
    def write():
        for path in results("manifest.json"):
            path.write_text("{}")

    forge(files("model.safetensors", "manifest.json"), write)


def a_list_for_a_word(student, setting):
    forge(facts(confinement=["x"]))


def nested(student, setting):
    forge(facts(deep=HOLE))


def sparse(student, setting):
    def stretch():
        for path in results():
            os.truncate(path, 24 << 30)

    forge(facts(), stretch)


def escape(student, setting):
    text = "cpu \x1b]0;renamed\x07\x1b[2J"
    forge(lambda outcome: outcome.update(device=text, facts={**outcome["facts"], "device": text}))


def boast(student, setting):
    def change(outcome):
        outcome.update(seconds=-1e300, peak_mb=1e300)
        outcome["facts"].update(confinement="landlock 99", device="H9000")

    forge(change)


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
    flood(b"x" * (1 << 16), seconds=3.0)


def silent(student, setting):
    leave()


ACTS = [
    no_files,
    manifest,
    a_list_for_a_word,
    nested,
    sparse,
    escape,
    boast,
    wait_for_outcome,
    wait_for_log,
    wait_for_result,
    linked_log,
    linked_result,
    garble,
    pour,
    silent,
]


@hookimpl
def kdbench_defenses():
    return [defense("red", {act.__name__: act for act in ACTS})]
