"""Networks and triggers as files: the same behaviour, the same bytes, and no door for code."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from kdbench.errors import ContractError, IntegrityError
from kdbench.models import create_model
from kdbench.models.files import load_module, save_module
from kdbench.models.views import Edited
from kdbench.triggers import PatchTrigger

PLUGINS = ("kdbench_robustkd", "kdbench_htba")


def images(n=3, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name", ["wrn10_1", "resnet56", "pyramid110", "timm/resnet18", "torchvision/resnet18"]
)
def test_a_network_comes_back_the_same(tmp_path, name):
    torch.manual_seed(0)
    model = create_model(name, 4, image_size=32)
    model.set_normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    model.train()(images(8, 32))  # moves the batch norms' statistics
    save_module(model.eval(), tmp_path / "a", {"x": 1})
    back, record = load_module(tmp_path / "a")
    assert record == {"x": 1}
    assert not back.training
    assert type(back) is type(model)
    assert torch.equal(back(images(3, 32)), model(images(3, 32)))
    assert [n for n, _ in back.named_modules()] == [n for n, _ in model.named_modules()], (
        "the order is part of a network"
    )
    assert [(n, t.shape) for n, t in back.state_dict().items()] == [
        (n, t.shape) for n, t in model.state_dict().items()
    ]
    save_module(back, tmp_path / "b", {"x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_edited_teacher_and_triggers_come_back(tmp_path):
    from kdbench_htba.method import PlacedPatch
    from kdbench_robustkd.method import Detoxification, RobustKDParams

    model = create_model("wrn10_1", 4)
    starts = {
        i: torch.randn_like(g[:1]) for i, g in enumerate(model.eval().features(images()).groups)
    }
    detox = Detoxification({i: p.detach() for i, p in starts.items()}, RobustKDParams(m_max=0.3))
    edited = Edited(model, detox.requires_grad_(False)).eval()
    save_module(edited, tmp_path / "edited")
    back, _ = load_module(tmp_path / "edited", PLUGINS)
    assert torch.equal(back(images()), edited(images()))
    assert not torch.equal(back(images()), model(images()))
    assert back.pixel_mean is back.model.pixel_mean, "what was one buffer is one"
    assert not any(p.requires_grad for p in back.editor.parameters())
    assert back.editor.params.m_max == 0.3
    for trigger in (
        PatchTrigger(torch.ones(3, 2, 2), (3, 16, 16)),
        PlacedPatch(torch.rand(3, 4, 4), (3, 16, 16)),
    ):
        save_module(trigger, tmp_path / "trigger")
        again, _ = load_module(tmp_path / "trigger", PLUGINS)
        assert torch.equal(again(images()), trigger(images()))


def test_more_than_ten_layers_stay_in_order(tmp_path):
    """All of one shape, so that another order would be another function and no error."""
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(12))).eval()
    save_module(deep, tmp_path / "deep")
    back, _ = load_module(tmp_path / "deep")
    x = torch.rand(2, 3)
    assert torch.equal(back(x), deep(x))
    assert list(back.state_dict()) == list(deep.state_dict())


def test_a_shared_module_stays_one(tmp_path):
    shared = nn.Linear(3, 3)
    save_module(nn.Sequential(shared, nn.ReLU(), shared), tmp_path / "a")
    back, _ = load_module(tmp_path / "a")
    assert back[0] is back[2]


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda *_: None)


class WithFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.activation = torch.relu


def test_what_a_file_cannot_hold_is_named(tmp_path):
    with pytest.raises(ContractError, match="Hooked has hooks"):
        save_module(Hooked(), tmp_path / "a")
    with pytest.raises(ContractError, match=r"WithFunction.activation is a builtin"):
        save_module(WithFunction(), tmp_path / "a")
    changed = create_model("timm/resnet18", 4, image_size=32)
    changed.body.act1 = nn.Identity()
    with pytest.raises(ContractError, match="changed in structure"):
        save_module(changed, tmp_path / "a")


def rewrite(source, target, change):
    with safe_open(source, framework="pt") as file:
        held = json.loads(file.metadata()["kdbench"])
    change(held["structure"])
    save_file(load_file(source), target, metadata={"kdbench": json.dumps(held)})


@pytest.mark.parametrize(
    "name",
    [
        "subprocess:Popen",
        "os:system",
        "builtins:eval",
        "torch:nn.Linear",
        "torch.nnx:Linear",
        "kdbenchx:Evil",
        "kdbench.cli:main",
        "kdbench.attack:Trigger.forward",
        "kdbench_robustkd.method:Detoxification",
        "torch.nn:functional",
        "kdbench.nowhere:Thing",
        ":",
        "",
    ],
)
def test_no_class_from_elsewhere_is_touched(tmp_path, name, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was called"))
    save_module(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a")
    rewrite(tmp_path / "a", tmp_path / "b", lambda top: top.update({"class": name}))
    with pytest.raises(IntegrityError, match="does not hold a module"):
        load_module(tmp_path / "b")


@pytest.mark.parametrize(
    "value",
    [
        {"dataclass": "kdbench.bench.work.executors.local:LocalExecutor", "values": {}},
        {"dataclass": "kdbench.numerics:Numerics", "values": {}},
        {"params": "kdbench.training:Recipe", "values": {}},
        {"params": "kdbench_robustkd.method:RobustKDParams", "values": {}},
        {"dataclass": "torch.nn.parallel.distributed:_MixedPrecision", "values": {}},
    ],
)
def test_nothing_outside_the_callers_packages_is_constructed(tmp_path, value, monkeypatch):
    """A plain attribute of a module cannot construct objects of kdbench or of other plugins."""
    from kdbench import numerics
    from kdbench.bench.work.executors import local

    for cls in (numerics.Numerics, local.LocalExecutor):
        monkeypatch.setattr(cls, "__init__", lambda *_, **__: pytest.fail("it was constructed"))
    save_module(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a")
    rewrite(tmp_path / "a", tmp_path / "b", lambda top: top["plain"].update({"x": value}))
    with pytest.raises(IntegrityError, match="none of the packages"):
        load_module(tmp_path / "b", ("kdbench_htba",))


@pytest.mark.parametrize("name", ["_modules", "_forward_hooks", "training"])
def test_an_attribute_cannot_replace_what_every_module_has(tmp_path, name):
    save_module(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a")
    rewrite(tmp_path / "a", tmp_path / "b", lambda top: top["plain"].update({name: 1}))
    with pytest.raises(IntegrityError, match="no plain attribute"):
        load_module(tmp_path / "b")


@pytest.mark.parametrize(
    "name", ["kdbench.testing.attacks:_RecordingFit", "kdbench.capture:_Flat", "kdbench.cli:main"]
)
def test_only_networks_and_triggers_of_kdbench_are_read(tmp_path, name):
    save_module(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a")
    rewrite(tmp_path / "a", tmp_path / "b", lambda top: top.update({"class": name}))
    with pytest.raises(IntegrityError, match="none of the packages"):
        load_module(tmp_path / "b")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"no safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "b")
    for name in "ab":
        with pytest.raises(IntegrityError):
            load_module(tmp_path / name)
