"""A plugin's network and trigger in whole runs, in processes that a wall stands around."""

from __future__ import annotations

import sys

from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.loading.choice import PluginChoice
from kdbench.loading.registry import Registry
from tests.runs import ANY_TEACHER, go

#: What the spies find ends their stage, and so shows in the row.
PLUGIN = '''
import os
from dataclasses import replace
from pathlib import Path
import torch
from kdbench_badnets.method import BadNets
from kdbench.attack import Trigger
from kdbench.defense import Defense
from kdbench.hookspecs import hookimpl
from kdbench.method import Info


def info(name):
    return Info(name, "t", "a", "v", 2020, "http://x")


def readable(path):
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def look(kept, tells=False):
    """In a companion: its own file is ``kept``, and nothing else of the job is there."""
    if os.environ.get("SPY_INLINE"):
        return
    places = (folder / "in" for folder in Path(__file__).parents)
    inputs = next((p for p in places if readable(p / f"{kept}.safetensors")), None)
    if inputs is None:
        return  # a training, or a check of a method
    others = {"test", "train", "model", "trigger", "clean", "teacher"} - {kept}
    found = [str(p) for name in others if readable(p := inputs / f"{name}.safetensors")]
    for folder in (inputs.parent / "box", inputs.parents[1]):
        try:
            found += [str(p) for p in folder.iterdir() if p != inputs.parent]
        except OSError:
            pass
    if found or tells:
        raise RuntimeError(f"found {found}")
    if Path(os.environ["TMPDIR"]).exists():
        (Path(os.environ["TMPDIR"]) / "mine").write_text("its own folder")


class Editor(torch.nn.Module):
    def __init__(self, tells):
        super().__init__()
        self.tells = tells

    def forward(self, i, g):
        if not self.training and not torch.is_grad_enabled():
            look("model", self.tells)
        return g


class EditTeacher(Defense):
    info = info("edit_teacher")

    def cleanse_teacher(self, teacher, setting):
        from kdbench.models.views import Edited
        return Edited(teacher, Editor(self.info.name == "tell")).eval()


class Tell(EditTeacher):
    """Says what it found even if that is nothing."""
    info = info("tell")


class Inverted(Trigger):
    def forward(self, images):
        look("trigger")
        return 1 - images


class OwnTrigger(BadNets):
    info = info("own_trigger")

    def implant(self, setting):
        return replace(super().implant(setting), trigger=Inverted())


@hookimpl
def kdbench_attacks():
    return [OwnTrigger]


@hookimpl
def kdbench_defenses():
    return [EditTeacher, Tell]
'''


def test_spies_find_their_own_file_only(stripes, tmp_path, monkeypatch):
    (tmp_path / "spies.py").write_text(PLUGIN)
    everything = Registry.load(choice=PluginChoice(files=(tmp_path / "spies.py",)))
    assert everything.broken == {}
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)
    spec = RunSpec(
        attacks=("own_trigger",),
        defenses=("none", "edit_teacher", "tell"),
        distillers=("kd",),
        numerics="fp32",
        controls=False,
        threads=1,
        pairs=(("wrn10_1", "wrn10_1"),),
        overrides={f"{part}.epochs": "1" for part in ("clean", "poison", "distill")} | ANY_TEACHER,
    )
    walled = go(spec, everything, tmp_path / "walled", executor=LocalExecutor(jobs=1))
    *quiet, told = walled
    assert [row["reason"] for row in quiet if row["status"] != "ok"] == []
    assert told["reason"].endswith("in a process of its own, failed: RuntimeError: found []")
    monkeypatch.setenv("SPY_INLINE", "1")
    inline = go(spec, everything, tmp_path / "inline")
    for row, other in zip(quiet, inline, strict=False):
        for column in ("student_acc_hits", "student_asr_hits", "teacher_variance_triggered"):
            assert row[column] == other[column]
    assert len(list((tmp_path / "walled").glob("trigger-*.png"))) == 1
    sys.modules.pop("kdbench_file_spies", None)
