"""make uses the interpreter that it is asked for, or says why not. The demo runs a small pair, then
says what comes, then runs a deep one."""

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


def make(*arguments: object, goal: str = "interpreter") -> subprocess.CompletedProcess[str]:
    words = ["make", "-s", "-C", str(ROOT), goal, *map(str, arguments)]
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


@pytest.fixture
def demo(tmp_path):
    """Runs ``make demo`` with a program that says what it is asked, and returns the lines."""
    program = tmp_path / "venv" / "bin" / "kdbench"
    program.parent.mkdir(parents=True)
    (tmp_path / "venv" / ".installed").touch()

    def run(script: str = "") -> tuple[int, list[str]]:
        program.write_text(
            '#!/bin/sh\necho "asked $*"\n'
            'test "$1" = plan && printf "17 stages\\nestimate: about 9 min\\nnothing was run\\n"\n'
            f"{script}\nexit 0\n"
        )
        program.chmod(0o755)
        done = make(f"VENV={tmp_path / 'venv'}", goal="demo")
        return done.returncode, done.stdout.splitlines()

    return run


ASKED = "asked run --attack lba --defense robustkd --pair"
HOW = " --threads 1 --jobs 2"


def test_the_demo_runs_a_small_pair_says_what_comes_and_runs_a_deep_one(demo):
    code, lines = demo()
    assert code == 0
    first, last = f"{ASKED} wrn16_2-wrn16_1{HOW}", f"{ASKED} pyramid200-pyramid110{HOW}"
    assert [line for line in lines if line.startswith("asked run")] == [first, last]
    between = "\n".join(lines[lines.index(first) + 1 : lines.index(last)])
    assert "kdbench run --attack lba --defense robustkd --pair pyramid200-pyramid110" in between
    assert "Ctrl-C is safe" in between
    assert "estimate: about 9 min" in between
    assert "nothing was run" not in between


def test_the_demo_goes_on_without_an_estimate_and_ends_where_a_run_fails(demo):
    assert demo('test "$1" = plan && exit 1')[1][-1] == f"{ASKED} pyramid200-pyramid110{HOW}"
    code, lines = demo('test "$1" = run && exit 1')
    assert code != 0
    assert not any("pyramid200" in line for line in lines)
