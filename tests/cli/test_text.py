"""Names of files and text of the program under other locales."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kdbench.cli.text import prepare_text
from tests.cli.calls import RUN, call

#: A locale in which Python takes names of files for ASCII.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
_SAYS = (
    "import sys\nfrom kdbench.cli.text import prepare_text\nprepare_text()\n"
    "print(sys.getfilesystemencoding(), ascii(sys.argv[1:]), sys.argv[1])"
)


def python(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, check=False, env=kept | environment
    )


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        (ASCII, rb"\xe9"),
        (ASCII | {"PYTHONIOENCODING": "latin-1"}, b"\xe9"),
        ({"LC_ALL": "C.UTF-8"}, "é".encode()),
        ({"PYTHONIOENCODING": "ascii"}, rb"\xe9"),
    ],
)
def test_names_are_utf_8_whatever_the_locale_is(environment, shown):
    done = python("-c", _SAYS, "é", "two words", **environment)
    assert done.stdout.strip() == rb"utf-8 ['\xe9', 'two words'] " + shown, done.stderr


def test_a_command_under_another_locale(tmp_path):
    done = python("-m", "kdbench", "leaderboard", str(tmp_path / "é"), **ASCII)
    assert done.returncode == 2
    # click writes UTF-8 where a stream says that it is ASCII.
    assert "/é does not exist" in done.stderr.decode()


def test_somebody_who_wants_no_utf_8_gets_none():
    done = python("-X", "utf8=0", "-c", _SAYS, "x", **ASCII)
    assert done.stdout.startswith(b"ascii "), done.stderr


def test_a_terminal_that_cannot_show_a_character_gets_an_escape(monkeypatch, tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        prepare_text()
        print("é\udce9")
    assert (tmp_path / "out").read_bytes() == b"\\xe9\\udce9\n"


def test_a_message_shows_a_name_with_escapes(tmp_path):
    path = tmp_path / os.fsdecode(b"a\nb\xe9\x1b")
    result = call("leaderboard", str(path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path}/a\\nb\\udce9\\x1b does not exist; name")
    result = call("compare", "a", "b", "\x1b[2J\udce9")
    assert "\x1b" not in result.stderr
    assert r"\x1b[2J\udce9" in result.stderr
    assert r"--\x1b" in call("--\x1b").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["new-plugin", "attack", "mine", "--out", "x" * 300],
        ["store", "ls", "--store", "x" * 300],
        [*RUN, "--out", "x/" * 3000],
    ],
)
def test_a_path_that_is_too_long_is_refused(arguments, fake_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "File name too long" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_name_that_is_not_utf_8_is_in_no_spec(tmp_path):
    result = call("plan", *RUN[1:], "--dataset", "imagefolder:caf\udce9", "--toml")
    assert result.exit_code == 2
    assert r"caf\udce9" in result.stderr


def test_a_plugin_in_a_folder_that_is_not_utf_8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("new-plugin", "attack", "mine", "--out", "caf\udce9\n")
    assert result.exit_code == 0, result.output
    assert r"pip install -e $'caf\351\012'" in result.stdout
    assert os.path.isdir(b"caf\xe9\n/src/kdbench_mine")
