"""Methods that return another network than the row's, or code in its place: no row believes it."""

from __future__ import annotations

import sys

import pytest

from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.loading.choice import PluginChoice
from kdbench.loading.registry import Registry
from tests.runs import ANY_TEACHER, go

#: Each defense cheats in one way. ``Ran`` counts where its code was run.
PLUGIN = '''
import sys
from dataclasses import replace
import torch
from kdbench_badnets.method import BadNets
from kdbench.defense import Defense
from kdbench.hookspecs import hookimpl
from kdbench.method import Info
from kdbench.models import create_model
from kdbench.models.views import Edited
from kdbench.models.wrn import WideResNet
from kdbench.attack import Trigger


def info(name):
    return Info(name, "t", "a", "v", 2020, "http://x")


def frames():
    frame, names = sys._getframe(), set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


class Forger(WideResNet):
    """Looks for the labels of whoever runs it."""

    def features(self, x, edit=None):
        assert not frames() & {"measure", "evaluate_network", "picture"}, "it runs among labels"
        return super().features(x, edit)


class Disguise(Defense):
    info = info("disguise")

    def repair_student(self, student, teacher, setting):
        student.__class__ = Forger
        return student


class Swap(Defense):
    info = info("swap")

    def repair_student(self, student, teacher, setting):
        return create_model("wrn16_1", setting.num_classes)


class Teacher(Defense):
    info = info("hand_teacher")

    def repair_student(self, student, teacher, setting):
        return teacher.model


class Editor(torch.nn.Module):
    def forward(self, i, g):
        assert not frames() & {"measure", "evaluate_network", "picture"}, "it runs among labels"
        return g


class EditStudent(Defense):
    info = info("edit_student")

    def repair_student(self, student, teacher, setting):
        return Edited(student, Editor()).eval()


class EditTeacher(Defense):
    info = info("edit_teacher")

    def cleanse_teacher(self, teacher, setting):
        return Edited(teacher, Editor()).eval()


class Forge(Defense):
    """Knows how a stage ends, and switches its own check off."""
    info = info("forge")

    def repair_student(self, student, teacher, setting):
        from kdbench.bench.work import workbench
        workbench.check_network = lambda *_, **__: None
        student.__class__ = Forger
        return student


class Inverted(Trigger):
    def forward(self, images):
        assert not frames() & {"measure", "evaluate_network", "picture"}, "it runs among labels"
        return 1 - images


class OwnTrigger(BadNets):
    info = info("own_trigger")

    def implant(self, setting):
        return replace(super().implant(setting), trigger=Inverted())


class OwnTeacher(BadNets):
    info = info("own_teacher")

    def implant(self, setting):
        implanted = super().implant(setting)
        implanted.teacher.__class__ = Forger
        return implanted


@hookimpl
def kdbench_attacks():
    return [OwnTrigger, OwnTeacher]


@hookimpl
def kdbench_defenses():
    return [Disguise, Swap, Teacher, EditStudent, EditTeacher, Forge]
'''


@pytest.fixture
def rows_of(stripes, tmp_path, monkeypatch):
    """Rows of a run of some attacks and defenses, by (attack, defense)."""
    (tmp_path / "cheats.py").write_text(PLUGIN)
    everything = Registry.load(choice=PluginChoice(files=(tmp_path / "cheats.py",)))
    assert everything.broken == {}
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)

    def run(*defenses, attacks=("badnets",), student="wrn10_1"):
        spec = RunSpec(
            attacks=attacks,
            defenses=defenses,
            distillers=("kd",),
            numerics="fp32",
            controls=False,
            threads=1,
            pairs=(("wrn10_1", student),),
            overrides={f"{part}.epochs": "1" for part in ("clean", "poison", "distill")}
            | ANY_TEACHER,
        )
        rows = go(spec, everything, tmp_path / "out")
        return {(row["attack"], row["defense"]): row for row in rows}

    yield run
    sys.modules.pop("kdbench_file_cheats", None)


def test_a_student_is_the_network_of_its_row(rows_of, monkeypatch):
    from kdbench.bench.work import workbench

    monkeypatch.setattr(workbench, "check_network", workbench.check_network)  # put back afterwards
    rows = rows_of("none", "disguise", "swap", "edit_student", "edit_teacher", "forge")
    reasons = {defense: row["reason"] for (_, defense), row in rows.items()}
    statuses = {defense: row["status"] for (_, defense), row in rows.items()}
    failed = dict.fromkeys(("disguise", "swap", "edit_student", "forge"), "failed")
    assert statuses == {"none": "ok", "edit_teacher": "ok", **failed}
    assert "ContractError: the network is no wrn10_1: (class) is" in reasons["disguise"]
    assert "name is 'wrn16_1', where 'wrn10_1' is expected" in reasons["swap"]
    assert "in Edited is another one" in reasons["edit_student"]
    # The check in the stage is a courtesy. The coordinator looks for itself.
    assert "model.safetensors holds no wrn10_1" in reasons["forge"]


def test_a_teacher_is_no_student(rows_of):
    (row,) = rows_of("hand_teacher", student="wrn16_1").values()
    assert row["status"] == "failed"
    assert "name is 'wrn10_1', where 'wrn16_1' is expected" in row["reason"]


def test_an_attack_returns_the_teacher_it_was_given(rows_of):
    rows = rows_of("none", attacks=("own_trigger", "own_teacher"))
    assert rows["own_trigger", "none"]["status"] == "ok"
    assert rows["own_teacher", "none"]["status"] == "failed"
    assert "the network is no wrn10_1: (class) is" in rows["own_teacher", "none"]["reason"]
