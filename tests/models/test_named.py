"""A stored network is the network of its name, or it is refused; nothing of it is imported."""

from __future__ import annotations

import json
import struct
import sys
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from kdbench.errors import ContractError, IntegrityError
from kdbench.models import ModelSource, create_model
from kdbench.models.builtin import MODELS
from kdbench.models.files import load_module, save_module
from kdbench.models.named import (
    NetworkFacts,
    check_network,
    check_network_file,
    is_known,
    named_facts,
)
from kdbench.models.structure import file_packages
from kdbench.models.views import Edited, Pruned
from kdbench.models.wrn import WideResNet

CLASSES, SIZE = 4, 16


class Disguised(WideResNet):
    """The named network with a method of its own. Another package's class in this test."""

    def features(self, x, edit=None):
        raise AssertionError("it was run")


def network(name="wrn10_1"):
    return create_model(name, CLASSES, image_size=SIZE).eval()


def facts(name="wrn10_1"):
    return named_facts(name, CLASSES, SIZE)


@pytest.mark.parametrize("name", ["wrn10_1", "resnet20", "timm/resnet18", "torchvision/resnet18"])
def test_a_trained_network_is_the_one_of_its_name(tmp_path, name):
    model = create_model(name, CLASSES, image_size=32)
    model.set_normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    model.train()(torch.rand(8, 3, 32, 32))
    model.eval().requires_grad_(False)
    model.to(memory_format=torch.channels_last)
    save_module(model, tmp_path / "a")
    wanted = named_facts(name, CLASSES, 32)
    check_network_file(tmp_path / "a", wanted)
    check_network(model, name, CLASSES, 32)
    assert file_packages(tmp_path / "a") == frozenset()
    assert wanted.bytes <= (tmp_path / "a").stat().st_size


def test_facts_come_back_from_another_process():
    wanted = facts()
    assert NetworkFacts.model_validate_json(wanted.model_dump_json()) == wanted
    for wrong in ({"structure_digest": "x"}, {"tensors": {"a": ["F32", [-1]]}}, {"more": 1}):
        told = json.loads(wanted.model_dump_json()) | wrong
        with pytest.raises(ValidationError):
            NetworkFacts.model_validate_json(json.dumps(told))


def test_known_networks():
    assert is_known("wrn10_1")
    assert is_known("timm/resnet18")
    assert not is_known("mine")
    assert not is_known("mine/resnet18")


def test_another_network_is_refused(tmp_path):
    """B26: a student that is another network than its row says."""
    other = network("wrn16_1")
    save_module(other, tmp_path / "a")
    with pytest.raises(IntegrityError, match=r"holds no wrn10_1: .*named 'wrn16_1'"):
        check_network_file(tmp_path / "a", facts())
    with pytest.raises(ContractError, match=r"no wrn10_1: name is 'wrn16_1'.*return the wrn10_1"):
        check_network(other, "wrn10_1", CLASSES, SIZE)
    wider = create_model("wrn10_1", CLASSES + 1).eval()
    save_module(wider, tmp_path / "b")
    with pytest.raises(IntegrityError, match="holds no wrn10_1"):
        check_network_file(tmp_path / "b", facts())


def test_a_class_of_a_plugin_is_refused_and_not_imported(tmp_path, monkeypatch):
    """B1: the right numbers, with code of a plugin around them."""
    model = network()
    model.__class__ = Disguised
    save_module(model, tmp_path / "a")
    assert file_packages(tmp_path / "a") == {"tests"}
    monkeypatch.setitem(sys.modules, "tests.models.test_named", Touched("tests.models.test_named"))
    with pytest.raises(IntegrityError, match="Disguised"):
        check_network_file(tmp_path / "a", facts())
    with pytest.raises(IntegrityError, match="none of the packages"):
        load_module(tmp_path / "a")
    with pytest.raises(ContractError, match=r"\(class\) is '.*Disguised'"):
        check_network(model, "wrn10_1", CLASSES, SIZE)


class Touched(ModuleType):
    """A module of which nothing may be asked."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was asked for")


def test_a_subclass_of_a_librarys_network_is_no_library_network(tmp_path):
    model = create_model("timm/resnet18", CLASSES, image_size=32).eval()
    model.__class__ = type("Evil", (type(model),), {"__module__": "kdbench_evil"})
    save_module(model, tmp_path / "a")
    assert "kdbench_evil" in file_packages(tmp_path / "a")
    with pytest.raises(IntegrityError, match="Evil"):
        check_network_file(tmp_path / "a", named_facts("timm/resnet18", CLASSES, 32))


def held(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["kdbench"])


def rewrite(source, target, change):
    """The file with another header and other tensors, as hostile code may write it."""
    record, tensors = held(source), load_file(source)
    change(record, tensors)
    save_file(tensors, target, metadata={"kdbench": json.dumps(record)})


def tops(**changes):
    return lambda record, tensors: record["structure"].update(changes)


def of_plain(**values):
    return lambda record, tensors: record["structure"]["plain"].update(values)


def of_norm(name, value):
    def change(record, tensors):
        record["structure"]["modules"]["final_norm"]["plain"][name] = value

    return change


def swapped(record, tensors):
    children = record["structure"]["modules"]["group"]["modules"]
    record["structure"]["modules"]["group"]["modules"] = dict(reversed(children.items()))


def shared(record, tensors):
    norm = record["structure"]["modules"]["final_norm"]
    norm["parameters"]["bias"] = norm["parameters"]["weight"]
    del tensors["final_norm.bias"]


def doubled(record, tensors):
    tensors["fc.bias"] = tensors["fc.bias"].double()


def one_more(record, tensors):
    tensors["more"] = torch.zeros(1)


def identity(record, tensors):
    record["structure"]["modules"]["fc"]["class"] = "torch.nn.modules.linear:Identity"


def one_more_module(record, tensors):
    child = json.loads(json.dumps(record["structure"]["modules"]["group"]))
    child["modules"] = {}
    record["structure"]["modules"]["more"] = child


def edited(record, tensors):
    inner = record["structure"]
    record["structure"] = inner | {"class": "kdbench.models.views:Edited"}


def deep(record, tensors):
    node = record["structure"]
    for _ in range(200):
        child = {**node, "modules": {}, "parameters": {}, "buffers": {}, "plain": {}}
        node["modules"]["x"] = child
        node = child


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


ALTERED = {
    "a class of the standard library": tops(**{"class": "subprocess:Popen"}),
    "another class of kdbench": tops(**{"class": "kdbench.models.resnet:ResNet"}),
    "no class": tops(**{"class": 3}),
    "a method as an attribute": of_plain(features="x"),
    "hooks as an attribute": of_plain(_forward_hooks={"dict": []}),
    "a dataclass": of_plain(x={"dataclass": "kdbench.numerics:Numerics", "values": {}}),
    "another list of channels": of_plain(group_channels={"tuple": [1, 2, 3]}),
    "a batch norm that forgets": of_norm("momentum", 1.0),
    "a batch norm of the batch": of_norm("track_running_stats", False),
    "children in another order": swapped,
    "two parameters in one": shared,
    "another type": doubled,
    "one tensor more": one_more,
    "another layer": identity,
    "a part more": one_more_module,
    "an editor": edited,
    "a deep one": deep,
    "a record": lambda record, tensors: record["record"].update(normalization="dataset"),
    "a loop": lambda record, tensors: record["structure"]["modules"].update(fc={"same": ""}),
    "a library inside": lambda record, tensors: record["structure"]["modules"].update(
        fc={"model": ["timm/resnet18", 4, 32], "tensors": {}}
    ),
    "a deep list of frozen parameters": lambda record, tensors: record["structure"].update(
        frozen=[nested(900)]
    ),
    "a deep list of buffers": lambda record, tensors: record["structure"].update(
        transient=nested(900)
    ),
    "a deep attribute": of_plain(x=[[[[[[[[[["x"]]]]]]]]]] * 3),
    "a deeper attribute": lambda record, tensors: record["structure"]["plain"].update(
        x=nested(900)
    ),
    "a library of a strange size": lambda record, tensors: record.update(
        structure={"model": ["timm/resnet18", nested(900), 32], "tensors": {}}
    ),
    "no structure": lambda record, tensors: record.update(structure=[]),
    "a list of lists": lambda record, tensors: record.update(structure={"modules": [[[]]]}),
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_an_altered_file_is_refused(tmp_path, change):
    save_module(network(), tmp_path / "a")
    rewrite(tmp_path / "a", tmp_path / "b", change)
    with pytest.raises(IntegrityError):
        check_network_file(tmp_path / "b", facts())


def test_what_a_training_may_change_is_no_other_network(tmp_path):
    model = network()
    model.fc.requires_grad_(False)
    model.batch_norm = "running"
    save_module(model, tmp_path / "a")
    check_network_file(tmp_path / "a", facts())
    check_network(model, "wrn10_1", CLASSES, SIZE)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' * 100_000,
        b'{"__metadata__":{"kdbench":"1"},"__metadata__":{"kdbench":"2"}}',
        b'{"__metadata__":{"kdbench":"{\\"structure\\":{},\\"structure\\":{},\\"record\\":{}}"}}',
        b'{"__metadata__":{"kdbench":3}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b"[]",
        b"{}",
    ],
)
def test_headers_that_two_readers_may_read_in_two_ways(tmp_path, header):
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header)
    for read in (file_packages, load_module, lambda path: check_network_file(path, facts())):
        with pytest.raises(IntegrityError):
            read(tmp_path / "a")


def test_a_header_without_end_is_not_read(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(1 << 41)
    with pytest.raises(IntegrityError, match="are allowed"):
        file_packages(tmp_path / "a")


class Editor(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(1))

    def forward(self, i, g):
        return g + self.p


def test_an_edited_teacher_is_the_network_behind_an_editor_of_its_defense(tmp_path):
    both = {"wrappers": (Edited, Pruned), "packages": {"tests"}}
    teacher = Edited(network(), Editor()).to(memory_format=torch.channels_last).eval()
    save_module(teacher, tmp_path / "a")
    check_network_file(tmp_path / "a", facts(), **both)
    check_network(teacher, "wrn10_1", CLASSES, SIZE, wrappers=(Edited,))
    assert file_packages(tmp_path / "a") == {"tests"}
    with pytest.raises(IntegrityError, match="not the package of the defense"):
        check_network_file(tmp_path / "a", facts(), wrappers=(Edited,), packages={"kdbench_x"})
    with pytest.raises(IntegrityError, match="holds no wrn10_1"):
        check_network_file(tmp_path / "a", facts(), wrappers=(Pruned,), packages={"tests"})
    with pytest.raises(IntegrityError, match="around wrn16_1"):
        check_network_file(tmp_path / "a", facts("wrn16_1"), **both)
    other = Edited(network("wrn16_1"), Editor())
    other.name = "wrn10_1"
    save_module(other, tmp_path / "b")
    with pytest.raises(IntegrityError, match="holds no wrn10_1"):
        check_network_file(tmp_path / "b", facts(), **both)
    with pytest.raises(ContractError, match="no wrn10_1"):
        check_network(other, "wrn10_1", CLASSES, SIZE, wrappers=(Edited,))
    with pytest.raises(ContractError, match="in Edited is another one"):
        check_network(teacher, "wrn10_1", CLASSES, SIZE)


def test_a_pruned_network_needs_no_plugin(tmp_path):
    model = Pruned(network(), torch.ones(64), "tap").eval()
    save_module(model, tmp_path / "a")
    check_network_file(tmp_path / "a", facts(), wrappers=(Pruned,))
    assert file_packages(tmp_path / "a") == frozenset()
    again, _ = load_module(tmp_path / "a")
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["plain"].update(more=1),
        lambda s: s["buffers"].update(more="kept"),
        lambda s: s["modules"].update(more=None),
        lambda s: s["modules"].update(model={"same": ""}),
        lambda s: s["modules"].update(model=None),
        lambda s: s["modules"]["model"]["modules"]["fc"]["parameters"].update(weight="kept"),
        lambda s: s["plain"].update(name="wrn16_1"),
    ],
)
def test_a_wrapper_is_as_it_is_made(tmp_path, change):
    save_module(Pruned(network(), torch.ones(64), "tap").eval(), tmp_path / "a")
    rewrite(tmp_path / "a", tmp_path / "b", lambda record, tensors: change(record["structure"]))
    with pytest.raises(IntegrityError):
        check_network_file(tmp_path / "b", facts(), wrappers=(Pruned,))


def test_a_plugins_own_network_is_held_against_its_own_facts(tmp_path):
    sources = {**MODELS, "mine": ModelSource(lambda classes, size: Mine("mine", 10, 1, classes))}
    wanted = named_facts("mine", CLASSES, SIZE, sources)
    save_module(create_model("mine", CLASSES, sources=sources).eval(), tmp_path / "a")
    check_network_file(tmp_path / "a", wanted)
    assert file_packages(tmp_path / "a") == {"tests"}
    with pytest.raises(IntegrityError):
        check_network_file(tmp_path / "a", facts())


class Mine(WideResNet):
    """A network that a plugin brings."""
