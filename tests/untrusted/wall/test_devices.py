"""The wall of a process that computes on a GPU, on a machine that may have none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.untrusted.users import commands, works


@pytest.mark.parametrize("user", ["myself", "nobody"])
def test_behind_the_wall_a_driver_names_its_threads_and_changes_nothing_else(user):
    command = commands().get(user)
    if command is None:
        pytest.skip("only root can run a program as another user")
    if command and not works(command):
        pytest.skip("another user cannot run this interpreter")
    script = str(Path(__file__).with_name("walled_with_devices.py"))
    ran = subprocess.run([*command, sys.executable, script], capture_output=True, text=True)
    if "gives no namespaces" in ran.stderr:
        pytest.skip("this kernel gives no namespaces")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "its thread": True,
        "kernel settings": False,
        "limits of namespaces": False,
        "interrupts": False,
    }
