"""make uses the interpreter that it is asked for, or says why not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def interpreter(path: Path, version: str) -> Path:
    """A program that says that it is Python of some version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


def make(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = ["make", "-s", "-C", str(ROOT), "interpreter", *map(str, arguments)]
    # Without what a make around the tests tells the ones that it calls.
    names = {"PYTHON", "VENV", "SEED", "MAKEFLAGS", "MAKEOVERRIDES"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_another_interpreter_than_the_one_there_is_refused(tmp_path):
    interpreter(tmp_path / "venv" / "bin" / "python", "3.12.1")
    other = interpreter(tmp_path / "other", "3.13.0")
    done = make(f"VENV={tmp_path / 'venv'}", f"PYTHON={other}")
    assert done.returncode != 0
    assert "has Python 3.12.1, and PYTHON is 3.13.0. Say VENV=another-folder" in done.stderr


def test_the_same_interpreter_and_a_new_folder_are_taken(tmp_path):
    interpreter(tmp_path / "venv" / "bin" / "python", "3.12.1")
    same = interpreter(tmp_path / "same", "3.12.1")
    for venv in ("venv", "another"):
        done = make(f"VENV={tmp_path / venv}", f"PYTHON={same}")
        assert (done.returncode, done.stderr) == (0, "")


def test_an_interpreter_that_is_not_there_is_an_error(tmp_path):
    interpreter(tmp_path / "venv" / "bin" / "python", "3.12.1")
    assert make(f"VENV={tmp_path / 'venv'}", f"PYTHON={tmp_path / 'absent'}").returncode != 0


def test_what_is_there_needs_no_interpreter(tmp_path):
    interpreter(tmp_path / "venv" / "bin" / "python", "3.12.1")
    assert make(f"VENV={tmp_path / 'venv'}").returncode == 0
