"""One-off plugins: a file of one's own."""

import json
import os

import pandas
import pytest

from kdbench import __version__
from kdbench.errors import UsageError
from kdbench.loading.candidates import describe_file
from kdbench.loading.choice import PluginChoice
from kdbench.loading.registry import Registry
from tests.cli.calls import call
from tests.loading.strangers import GOOD, SMALL, install, kdbench

#: Its trigger is a class of the file, which every later stage has to find again.
OWN = """
import torch
from kdbench.attack import Attack, Backdoor, Trigger
from kdbench.hookspecs import hookimpl
from kdbench.method import Info

class Bright(Trigger):
    def forward(self, images):
        images = images.clone()
        images[:, :, -3:, -3:] = 1
        return images

class Own(Attack):
    info = Info("own", "t", "a", "v", 2020, "http://x")
    def implant(self, setting):
        return Backdoor(setting.teacher, Bright(), setting.target_class)

@hookimpl
def kdbench_attacks():
    return [Own]
"""


def test_a_file_runs_from_end_to_end(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    ran = call(
        "run",
        "--plugin-file",
        str(tmp_path / "own.py"),
        "--attack",
        "own",
        "--defense",
        "finetune",
        *SMALL,
        "--set",
        "repair.epochs=1",
        "--no-controls",
        "--out",
        str(tmp_path / "o"),
        "--quiet",
    )
    assert ran.exit_code == 0, ran.output
    (row,) = pandas.read_csv(tmp_path / "o" / "results.csv").to_dict("records")
    assert row["status"] == "ok"
    assert row["plugins"] == f"kdbench {__version__}; local file own.py"
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["plugins"]["attack.own"].startswith("local file own.py ")
    assert {p.name for p in (tmp_path / "o").glob("trigger-*.png")}


def test_its_source_is_part_of_what_it_computes(tmp_path):
    path = tmp_path / "own.py"

    def origin(text):
        path.write_text(text)
        return Registry.load([], PluginChoice(files=(path,))).methods["attack"]["own"].origin

    first = origin(OWN)
    assert origin(OWN) == first
    assert origin(OWN + "# a comment") == first
    assert origin(OWN + "CHANGED = True") != first


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent.py", "cannot be read: No such file"),
        ("Own.py", "must be NAME.py"),
        ("own.txt", "must be NAME.py"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, name, says):
    if name != "absent.py":
        (tmp_path / name).write_text(OWN)
    with pytest.raises(UsageError, match=says):
        Registry.load([], PluginChoice(files=(tmp_path / name,)))


def test_a_pipe_or_a_device_is_no_plugin(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "zero.py").symlink_to("/dev/zero")
    for name in ("pipe.py", "zero.py"):
        with pytest.raises(UsageError, match="no regular file"):
            describe_file(tmp_path / name)


def test_a_file_takes_nobodys_name(tmp_path):
    install(tmp_path, "good", GOOD.replace("NAME", "good"))
    (tmp_path / "good.py").write_text(OWN)
    ran = kdbench(tmp_path, "plugins", "--json", "--plugin-file", tmp_path / "good.py")
    found = {
        p["distribution"]: p["cause"]
        for p in json.loads(ran.stdout)["plugins"]
        if p["name"] == "good"
    }
    assert "the name 'good' is also defined by kdbench-good;" in found["local file good.py"]
    assert "the entry point 'good' is also defined by local file good.py;" in found["kdbench-good"]


def test_a_broken_file_says_where(tmp_path):
    (tmp_path / "own.py").write_text("x = 1\nraise ValueError('no')")
    (plugin,) = Registry.load([], PluginChoice(files=(tmp_path / "own.py",))).plugins
    assert plugin.status == "broken"
    assert plugin.cause == f"ValueError: no ({tmp_path / 'own.py'}:2)"


#: Name of a plugin file -> (its text, what is said of it). Beside each lies helpers.py.
BROKEN_FILES = {
    "syntax": (b"def (", "SyntaxError: invalid syntax (syntax.py, line 1)"),
    "empty": (b"", "it implements no hook; is @kdbench.hookspecs.hookimpl missing?"),
    "windows": (b"\xef\xbb\xbfx = 1\r\n1 / 0\r\n", "ZeroDivisionError: division by zero ("),
    "utf16": ("x = 1".encode("utf-16"), "null bytes"),
    "leaves": (b"import sys\nsys.exit(3)", "SystemExit: 3 ("),
    "stops": (b"raise KeyboardInterrupt", "KeyboardInterrupt ("),
    "signature": (
        b"from kdbench.hookspecs import hookimpl\n@hookimpl\ndef kdbench_attacks(x): return []",
        "PluginValidationError: ",
    ),
    "absent": (b"import nothing_there", "No module named 'nothing_there' ("),
    "neighbour": (b"import helpers", "No module named 'helpers' ("),
    "relative": (b"from . import helpers", "attempted relative import"),
    "data": (b"open(__file__.replace('data.py', 'helpers.py'))", "FileNotFoundError: "),
}
ALONE = "; a plugin file stands alone; make a package with kdbench new-plugin"


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_is_named_must_load(tmp_path, name):
    text, says = BROKEN_FILES[name]
    (tmp_path / "helpers.py").write_text("")
    path = tmp_path / f"{name}.py"
    path.write_bytes(text)
    ran = call("list", "presets", "--plugin-file", str(path))
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"Error: --plugin-file {path}: ")
    assert says in ran.stderr
    assert (ALONE in ran.stderr) == (name in ("neighbour", "relative", "data"))


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "--attack", "lba", "--pair", "wrn10_1-wrn10_1"),
        ("run", "--attack", "lba", "--pair", "wrn10_1-wrn10_1", "--dry-run"),
        ("run", "--attack", "lba", "--pair", "wrn10_1-wrn10_1", "--executor=inline", "--store=s"),
        ("check", "lba"),
        ("list",),
        ("reproduce", "table3", "--dry-run"),
        ("import-teacher", "x.pth", "--model", "wrn10_1", "--dataset", "signs"),
    ],
)
def test_in_every_command(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("1 / 0")
    ran = call(*command, "--plugin-file", "mine.py")
    assert (ran.exit_code, ran.stdout) == (2, ""), ran.output
    assert "mine.py: ZeroDivisionError: division by zero (" in ran.stderr
    assert "mine.py:1)" in ran.stderr


def test_plugins_shows_it_and_goes_on(tmp_path):
    (tmp_path / "mine.py").write_text("1 / 0")
    ran = call("plugins", "--plugin-file", str(tmp_path / "mine.py"))
    assert ran.exit_code == 0
    assert "mine (local file mine.py) is broken: ZeroDivisionError" in ran.stdout


def test_of_two_files_with_one_name_neither_is_taken(tmp_path):
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "own.py").write_text(OWN)
    twice = PluginChoice(files=(tmp_path / "own.py", tmp_path / "sub" / "own.py"))
    with pytest.raises(UsageError, match="have the same name; rename one"):
        Registry.load([], twice)
    same = PluginChoice(files=(tmp_path / "own.py", tmp_path / "sub" / ".." / "own.py"))
    assert [plugin.status for plugin in Registry.load([], same).plugins] == ["ok"]


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "pack.py").mkdir()
    with pytest.raises(UsageError, match="is a folder; name one file"):
        describe_file(tmp_path / "pack.py")


def test_an_installed_one_that_is_broken_is_told_in_one_line(tmp_path):
    install(tmp_path, "worse", "1 / 0")
    ran = kdbench(tmp_path, "plan", "--attack", "lba", "--pair", "wrn10_1-wrn10_1")
    assert ran.returncode == 0
    (line,) = ran.stderr.splitlines()
    assert line.startswith("plugin worse (kdbench-worse 0.3) could not be loaded: ZeroDivisionErr")
