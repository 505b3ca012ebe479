"""A mistake inside a plugin is that plugin's, with its file and line, and ends no command badly."""

from __future__ import annotations

import pytest

from kdbench.bench.kinds import Kind
from kdbench.bench.session.processes import Processes
from kdbench.bench.work.executors import child
from kdbench.data import load_dataset
from kdbench.errors import (
    ConfigError,
    ContractError,
    DatasetError,
    PluginLoadError,
    UnknownMethodError,
)
from kdbench.loading.candidates import Plugin
from kdbench.loading.choice import PluginChoice
from kdbench.loading.registry import Registry
from tests.cli.calls import call

#: A dataset whose loader is BODY, on line 15.
DATASET = """
import os, sys
import torch
from kdbench.data import Augmentation, TensorImages, finish
from kdbench.hookspecs import hookimpl
def draw(count, side=16, labels=None, dtype=torch.uint8):
    labels = torch.arange(count) % 3 if labels is None else labels
    return TensorImages(torch.zeros(count, 3, side, side, dtype=dtype), labels)
def good(request, **changes):
    values = dict(name="threes", train=draw(30), test=draw(12), class_names=("a", "b", "c"),
                  mean=(.3,) * 3, std=(.2,) * 3, augmentation=Augmentation(pad=1, flip=True))
    return finish(request, **{**values, **changes})

def load_threes(request):
    BODY

@hookimpl
def kdbench_datasets():
    return {"threes": load_threes}
"""
AT_LINE, AT_LOADER = r"threes\.py:15\)$", r"threes\.py:14\)$"
NAMED = r"dataset 'threes' of local file threes\.py: "


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return request.data_dir / 'x'", f"{NAMED}TypeError: unsupported .*{AT_LINE}"),
        ("raise ValueError('my own')", rf"{NAMED}ValueError: my own .*{AT_LINE}"),
        ("sys.exit(3)", f"{NAMED}SystemExit: 3 .*{AT_LINE}"),
        ("raise KeyboardInterrupt", f"{NAMED}KeyboardInterrupt .*{AT_LINE}"),
        ("return load_threes(request)", f"{NAMED}RecursionError: .*{AT_LINE}"),
        ("return torch.zeros(3) @ torch.zeros(4)", f"{NAMED}RuntimeError: .*{AT_LINE}"),
        ("os._exit(0)", f"its process exited with code 0 while it was asked .*{AT_LOADER}"),
        ("return 3", f"'threes' is a int; return what .* returns .*{AT_LOADER}"),
        ("return good(request, std=(0.0,) * 3)", f"{NAMED}.*greater than 0.*{AT_LOADER}"),
        ("return good(request, mean=(float('nan'),) * 3)", f"finite number.*{AT_LOADER}"),
        ("return good(request, mean=(1, 2))", f"for mean .*{AT_LOADER}"),
        ("return good(request, name='')", f"at least 1 character.*{AT_LOADER}"),
        ("return good(request, class_names=('a', 'b'))", f"from 0 to 1 .*{AT_LOADER}"),
        ("return good(request, test=draw(12, side=20))", f"test images .*{AT_LOADER}"),
        (
            "return good(request, class_names=tuple('x' * 900 for _ in range(30_000)))",
            f"its process said too much while it was asked .*{AT_LOADER}",
        ),
    ],
)
def test_of_a_dataset(load, body, says):
    catalogue = load({"threes": DATASET.replace("BODY", body)})
    with pytest.raises(ContractError, match=says):
        load_dataset("threes", sources=catalogue.datasets)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return request.folder", "dataset 'threes' needs --data-dir"),
        ("return good(request, train=draw(0))", "dataset 'threes' has no train images"),
        (
            "return good(request, train=draw(30, dtype=torch.float32))",
            f"{NAMED}pixels are torch.float32 .*{AT_LOADER}",
        ),
    ],
)
def test_what_kdbench_refuses_of_a_dataset_names_it(load, body, says):
    catalogue = load({"threes": DATASET.replace("BODY", body)})
    with pytest.raises((DatasetError, ConfigError, ContractError), match=says):
        load_dataset("threes", sources=catalogue.datasets)


#: A network that MAKES, on line 11.
NETWORK = """
import sys
from torch import nn
from kdbench.hookspecs import hookimpl
from kdbench.models.base import FeatureModel
class Net(FeatureModel):
    pass

@hookimpl
def kdbench_models():
    return {"net": lambda n, side: MAKES}
"""


@pytest.mark.parametrize(
    ("makes", "says"),
    [
        ("Net(n)", r"TypeError: Can't instantiate abstract class Net .*tap_norms.*net\.py:11\)$"),
        ("1 / 0", r"model 'net' of local file net\.py: ZeroDivisionError: .*net\.py:11\)$"),
        ("sys.exit(1)", r"SystemExit: 1 .*net\.py:11\)$"),
        ("nn.Linear(1, 1)", r"model 'net' is a Linear; derive it .*net\.py:11\)$"),
    ],
)
def test_of_a_network(load, makes, says):
    catalogue = load({"net": NETWORK.replace("MAKES", makes)})
    with pytest.raises(ContractError, match=says):
        catalogue.network("net", 3, 32)


def test_it_is_no_defect_of_kdbench(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK.replace("MAKES", "Net(n)"))
    pair = ("--attack", "lba", "--teacher", "net", "--student", "net")
    ran = call("run", *pair, "--plugin-file", str(tmp_path / "net.py"), "--dry-run")
    assert ran.exit_code == 2
    assert "\nError: model 'net' of local file net.py: TypeError: " in ran.stderr


#: An attack that DOES, on line 8.
ATTACK = """
import sys, torch
from kdbench.attack import Attack
from kdbench.hookspecs import hookimpl
from kdbench.method import Info
class Mine(Attack):
    info = Info("mine", "t", "a", "v", 2020, "http://x")
    def implant(self, setting): DOES
@hookimpl
def kdbench_attacks(): return [Mine]
"""


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("sys.exit(4)", "SystemExit: 4"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("torch.zeros(3) @ torch.zeros(4)", "RuntimeError: inconsistent tensor size"),
    ],
)
def test_of_a_stage_names_file_and_line(tmp_path, does, says):
    (tmp_path / "mine.py").write_text(ATTACK.replace("DOES", does))
    known = Registry.load([], PluginChoice(files=(tmp_path / "mine.py",)))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any of them
        known.get("attack", "mine")().implant(None)
    report = child.ended(caught.value, Kind.BACKDOOR, known.plugins)
    assert report.reason.startswith(says)
    assert report.reason.endswith(" (mine.py:8)")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("dataset", ("--attack", "lba", "--pair", "wrn10_1-wrn10_1", "--dataset", "gone")),
        ("model", ("--attack", "lba", "--pair", "wrn10_1-gone")),
        ("attack", ("--attack", "gone", "--pair", "wrn10_1-wrn10_1")),
        ("defense", ("--attack", "lba", "--defense", "gone", "--pair", "wrn10_1-wrn10_1")),
        ("distiller", ("--attack", "lba", "--distiller", "gone", "--pair", "wrn10_1-wrn10_1")),
    ],
)
def test_an_unknown_name_may_be_a_broken_plugins(monkeypatch, kind, options):
    broken = Plugin("gone", "m", "kdbench-gone", "1.0", status="broken", cause="ImportError: no")
    known = Registry.load(choice=PluginChoice())
    known.plugins.append(broken)
    monkeypatch.setattr(Processes, "answers", lambda self: vars(self).setdefault("registry", known))
    ran = call("plan", *options)
    assert ran.exit_code == 2
    assert f"unknown {kind} 'gone'" in ran.stderr
    assert "It may belong to a plugin that could not be loaded: gone (kdbench-gone 1.0)" in (
        ran.stderr
    )


def test_an_unknown_preset_is_no_plugins():
    broken = Plugin("gone", "m", "kdbench-gone", "1.0", status="broken", cause="ImportError: no")
    known = Registry(plugins=[broken])
    assert known.hinted(UnknownMethodError("unknown preset 'x'; known: quick")) is None
    assert isinstance(known.hinted(UnknownMethodError("unknown model 'x'")), PluginLoadError)
