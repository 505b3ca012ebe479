"""What a hostile process reaches behind each wall: a long list of attempts, as root and as an
ordinary user, with each layer left out in turn."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.untrusted.users import commands, works

#: What each layer alone keeps out: what is reached when it is missing and the others are there.
ONLY_BY = {
    "": set(),
    "namespaces": {"stat", "enter", "see a process", "names of sockets", "ports"},
    "landlock": {"execute what it wrote"},
    # Calls that the kernel looks at, and refuses for other reasons.
    "seccomp": {
        "open by a handle",
        "take a descriptor",
        "host of the machine",
        "mount",
        "unmount",
        "remount",
        "copy a tree",
        "new user namespace",
        "clone into a namespace",
        "enter a namespace",
        "io_uring",
        "bpf",
        "userfaultfd",
        "memory in a file of no name",
        "perf",
        "type into a terminal",
        "kernel's ciphers",
    },
    "proc": set(),
}
#: What succeeds without a wall. Otherwise the attempt would prove nothing.
ANYBODY = {
    *("stat", "read", "read in a child", "read through /proc/self/root", "list", "write", "make"),
    *("truncate", "rename", "link", "chmod", "chmod through a descriptor", "chown", "utime"),
    *("inotify", "enter", "see a process", "signal", "read its environment", "limit it", "pin it"),
    *("slow it", "idle it", "disks of everybody", "trace it", "read its memory"),
    "shared memory by its file",
    *(
        "unix socket",
        "unix datagram",
        "abstract socket",
        "tcp",
        "udp",
        "listen",
        "names of sockets",
        "ports",
    ),
    *("write /tmp", "execute what it wrote", "memory in a file of no name"),
}
ROOT = {
    *("mount", "unmount", "new mounts", "change the root", "trace its parent"),
    *("read its parent's environment", "kernel settings", "change the interpreter"),
    *("change kdbench", "change a package", "compiled files", "change /dev/null", "passwords"),
    *("change /dev/null by its descriptor", "make a device", "write the root"),
}


ALL = "namespaces landlock seccomp"


@functools.cache
def sieges(user):
    """What is reached as this user, by what the wall is without."""
    command = commands().get(user)
    if command is None:
        pytest.skip("only root can run a program as another user")
    if command and not works(command):
        pytest.skip("another user cannot run this interpreter")
    script = [sys.executable, str(Path(__file__).with_name("besieged.py"))]
    ran = subprocess.run(
        [*command, *script, *ONLY_BY, ALL, "all"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)
    assert {result["code"] for result in results.values()} == {0}, ran.stderr
    return results


def siege(user, without):
    return sieges(user)[without]


def _reached(result):
    return {name for name, outcome in result["done"].items() if outcome is True}


@pytest.mark.parametrize("user", ["myself", "nobody"])
@pytest.mark.parametrize("without", ONLY_BY)
def test_a_hostile_process_reaches_nothing(user, without):
    result = siege(user, without)
    for layer in {"namespaces", "landlock", "seccomp"} - {without}:
        if layer not in result["wall"]:
            pytest.skip(f"this kernel gives no {layer}")
    assert _reached(result) <= ONLY_BY[without]


@pytest.mark.parametrize("user", ["myself", "nobody"])
def test_the_attempts_succeed_without_a_wall(user):
    result = siege(user, "all")
    assert result["wall"] == "none"

    root = user == "myself" and os.geteuid() == 0
    assert (ANYBODY | (ROOT if root else set())) - _reached(result) == set()


@pytest.mark.parametrize("user", ["myself", "nobody"])
def test_the_canary_says_what_is_reached(user):
    """The same things that the attempts reach, in the canary's words."""
    result = siege(user, "namespaces")
    if "landlock 7, seccomp" not in result["wall"]:
        pytest.skip("this kernel gives no Landlock 7 or no filter")
    assert result["reached"] == ["stat", "processes"]
    assert result["wall"] == "landlock 7, seccomp (reached: stat, processes)"
    bare = siege(user, ALL)
    assert bare["wall"].startswith("none (reached: stat, open, list, chmod, rename, inotify, ")
    assert {"udp", "mptcp", "signal", "process limits", "shared memory", "keyring"} < set(
        bare["reached"]
    )
    if "namespaces" in siege(user, "")["wall"]:
        assert siege(user, "")["reached"] == []
