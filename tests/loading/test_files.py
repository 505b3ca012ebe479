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
