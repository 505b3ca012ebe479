"""Weights as people really have them: what training scripts, sites and tools put around them.

Most files are read in this process, by the same functions that the confined one calls.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import pathlib
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from types import SimpleNamespace

import numpy
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torch.nn.utils import prune

from kdbench.errors import IntegrityError, UsageError
from kdbench.untrusted.weights import kinds, weights
from tests.untrusted.weights.files import expected_tensors, read
from tests.untrusted.weights.good import good


def _import(path):
    """(weights, what was found) of a file, as the confined process reads it."""
    expected, kind = expected_tensors(), kinds.kind_of(path)
    found = weights.find(weights.load_checkpoint(path, kind), expected, kind)
    return weights.to_weights(found.state, expected)[0], found


def _refused(path):
    with pytest.raises(IntegrityError) as caught:
        _import(path)
    return str(caught.value)


def _behind(*prefixes, state=None):
    state = good() if state is None else state
    return {f"{prefix}{name}": t for prefix in prefixes for name, t in state.items()}


def _parted(body, head):
    return {(head if name.startswith("fc") else body) + name: t for name, t in good().items()}


def _profiled():
    levels = {name.rpartition(".")[0] for name in good()} | {"", "group", "group.0"}
    words = ("total_ops", "total_params")
    return {
        f"{level}.{word}".lstrip("."): torch.zeros(1).double() for level in levels for word in words
    }


def _metadata():
    state = OrderedDict(good())
    state._metadata = OrderedDict({"": {"version": 1}, "fc": {"version": 1}})
    return state


def _optimizer():
    states = {i: {"step": torch.tensor(3.0), "exp_avg": t} for i, t in enumerate(good().values())}
    return {"state": states, "param_groups": [{"lr": 0.1, "params": list(states)}]}


#: What torch.save gets, of which the weights come in.
READ = {
    "plain": good,
    "with _metadata": _metadata,
    "Lightning": lambda: {
        "epoch": 3,
        "pytorch-lightning_version": "2.1",
        "state_dict": _behind("model."),
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [_optimizer()],
        "hyper_parameters": {"lr": 0.1},
    },
    "DDP": lambda: {"state_dict": _behind("module.")},
    "torch.compile": lambda: _behind("_orig_mod."),
    "DDP of compiled": lambda: _behind("module._orig_mod."),
    "compiled DDP": lambda: _behind("_orig_mod.module."),
    "compiled DDP in Lightning": lambda: {"state_dict": _behind("model._orig_mod.module.")},
    "FSDP in parts": lambda: {
        name.replace("group.", "group._fsdp_wrapped_module."): t for name, t in good().items()
    },
    "net.": lambda: {"net": _behind("net.")},
    "encoder.": lambda: _behind("encoder."),
    "the second of a Sequential": lambda: _behind("1."),
    "backbone. and head.": lambda: _parted("backbone.", "head."),
    "DataParallel of the body only": lambda: _parted("module.", ""),
    "no counters, behind module.": lambda: {
        name: t for name, t in _behind("module.").items() if "num_batches" not in name
    },
    "model_state_dict": lambda: {"model_state_dict": good(), "optimizer_state_dict": _optimizer()},
    "net": lambda: {"net": good(), "acc": 95.3, "epoch": 199},
    "weights": lambda: {"weights": good(), "hyper": {"depth": 10}},
    "mmcv": lambda: {
        "meta": {"mmcv_version": "1.7", "CLASSES": ["a"], "hook_msgs": {}},
        "state_dict": _behind("backbone."),
        "optimizer": _optimizer(),
    },
    "YOLO style": lambda: {"model": None, "ema": good(), "updates": 12},
    "timm without args": lambda: {"epoch": 1, "arch": "wrn", "state_dict": good(), "metric": 0.9},
    "an average beside": lambda: {"state_dict": good(), "ema_state_dict": _behind("module.")},
    "average alone": lambda: {"ema_state_dict": _behind("module.")},
    "teacher and student": lambda: {"teacher": {"x": torch.zeros(3)}, "student": good()},
    "THOP": lambda: {**good(), **_profiled()},
    "THOP behind module.": lambda: {**_behind("module."), **_behind("module.", state=_profiled())},
    "THOP at the top of DDP": lambda: {**_behind("module."), "total_ops": torch.zeros(1)},
    "numbers among the tensors": lambda: {**good(), "epoch": 3, "acc": 0.5, "arch": "wrn"},
    "half": lambda: {k: t.half() if t.is_floating_point() else t for k, t in good().items()},
    "channels last": lambda: {
        k: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
        for k, t in good().items()
    },
    "parameters": lambda: {
        k: nn.Parameter(t) if t.is_floating_point() else t for k, t in good().items()
    },
    "a tied tensor": lambda: {"a": good(), "b": {"x": good()["fc.bias"]}},
    "numpy beside, as plain numbers": lambda: {
        "state_dict": good(),
        "best": float(numpy.float64(1)),
    },
}


@pytest.mark.parametrize("name", READ)
def test_wrappings_come_off(tmp_path, name):
    torch.save(READ[name](), tmp_path / "x.pth")
    state, _ = _import(tmp_path / "x.pth")
    for key, tensor in good().items():
        if "num_batches" not in key:
            expected = tensor.half().float() if name == "half" else tensor
            assert torch.equal(state[key], expected), key


def test_tensors_that_were_on_a_gpu_come_in(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(good(), tmp_path / "x")
    assert b"cuda:0" in (tmp_path / "x").read_bytes()
    assert torch.equal(_import(tmp_path / "x")[0]["fc.bias"], good()["fc.bias"])


def test_safetensors_called_pth_with_notes_in_its_header_come_in(tmp_path):
    save_file(good(), tmp_path / "x.pth", metadata={"format": "pt", "note": "x" * 1000})
    assert torch.equal(_import(tmp_path / "x.pth")[0]["fc.bias"], good()["fc.bias"])


def test_the_summary_says_what_was_done(tmp_path):
    content = {**READ["DataParallel of the body only"](), "total_ops": torch.zeros(1)}
    torch.save({"state_dict": content, "ema": good()}, tmp_path / "x")
    foreign = read(tmp_path / "x")
    assert foreign.changes() == [
        "taken out of 'state_dict'",
        "'module.' removed from some names",
        "1 value left out: no weights",
        "'ema' left out, which would fit as well",
    ]
    assert torch.equal(foreign.state["fc.bias"], good()["fc.bias"])


def _normed(function):
    network = nn.ModuleDict({"fc": nn.Linear(64, 10)})
    function(network["fc"])
    return {**{k: t for k, t in good().items() if not k.startswith("fc.")}, **network.state_dict()}


def _without(name):
    return {key: t for key, t in good().items() if key != name}


#: What torch.save gets, and parts of what is said of it.
REFUSED = {
    "the network twice": (
        lambda: _behind("encoder_q.", "encoder_k."),
        ["2 times, behind 'encoder_q.' and 'encoder_k.'"],
    ),
    "an average in the same table": (
        lambda: {**good(), **_behind("ema.")},
        ["2 times, behind no prefix and 'ema.'"],
    ),
    "a loss beside": (
        lambda: {"state_dict": {**_behind("model."), "criterion.weight": torch.ones(10)}},
        ["all names of the network are there behind 'model.', and 1 more ('criterion.weight')"],
    ),
    "a loss beside, without a prefix": (
        lambda: {**good(), "criterion.weight": torch.ones(10)},
        ["all names of the network are there, and 1 more ('criterion.weight')"],
    ),
    "normalised inside": (
        lambda: {
            **_behind("model."),
            "normalize.mean": torch.ones(3),
            "normalize.std": torch.ones(3),
        },
        ["behind 'model.'", "it normalises images itself"],
    ),
    "another name of the head": (
        lambda: {k.replace("fc.", "head."): t for k, t in _behind("backbone.").items()},
        ["2 missing ('fc.weight', 'fc.bias')", "'backbone.head.weight' for 'fc.weight'"],
    ),
    "a new weight norm": (
        lambda: _normed(nn.utils.parametrizations.weight_norm),
        ["remove_parametrizations"],
    ),
    "a new spectral norm": (
        lambda: _normed(nn.utils.parametrizations.spectral_norm),
        ["remove_parametrizations"],
    ),
    "a spectral norm": (lambda: _normed(nn.utils.spectral_norm), ["remove_spectral_norm"]),
    "pruned": (
        lambda: _normed(lambda m: prune.l1_unstructured(m, "weight", 0.5)),
        ["torch.nn.utils.prune.remove"],
    ),
    "an adapter": (lambda: {**good(), "fc.lora_A.weight": torch.ones(4, 64)}, ["LoRA"]),
    "a quantised layer": (
        lambda: {
            **_without("fc.weight"),
            "fc.scale": torch.ones(1),
            "fc.zero_point": torch.ones(1),
        },
        ["quantised"],
    ),
    "one layer more inside": (
        lambda: {**good(), "group.0.0.se.weight": torch.ones(4)},
        ["1 unknown ('group.0.0.se.weight'); is --model the right one?"],
    ),
    "one layer less": (lambda: _without("fc.bias"), ["1 missing ('fc.bias'); is --model"]),
    "two averages": (
        lambda: {"model": good(), "model_ema": good()},
        ["networks: model, model_ema"],
    ),
    "a head of 1000 classes": (
        lambda: {**good(), "fc.weight": torch.ones(1000, 64), "fc.bias": torch.ones(1000)},
        ["'fc.weight' is of the shape [1000, 64]", "--num-classes 1000"],
    ),
    "a wider network": (
        lambda: {k: t.repeat(2, *[1] * (t.dim() - 1)) if t.dim() else t for k, t in good().items()},
        ["(of other shapes: "],
    ),
    "another first layer": (
        lambda: {**good(), "stem.weight": torch.ones(16, 3, 7, 7)},
        ["'stem.weight' is of the shape [16, 3, 7, 7]", "[16, 3, 3, 3] is expected; are --model"],
    ),
    "a list of tensors": (lambda: list(good().values()), ["holds a 'list'"]),
    "an optimizer only": (lambda: {"optimizer": _optimizer()}, ["no tensors by name"]),
    "nothing": (dict, ["no tensors by name"]),
    "sparse": (lambda: {**good(), "fc.weight": good()["fc.weight"].to_sparse()}, ["sparse"]),
    "a Namespace": (
        lambda: {"state_dict": good(), "args": argparse.Namespace(lr=0.1)},
        ["argparse.Namespace", "if you trust the file", "add_safe_globals([argparse.Namespace])"],
    ),
    "two kinds of a Namespace": (
        lambda: {"model": good(), "args": argparse.Namespace(x=SimpleNamespace(lr=0.1))},
        ["types.SimpleNamespace", "add_safe_globals"],
    ),
    "numbers of NumPy": (
        lambda: {"net": good(), "acc": numpy.float64(0.5), "epoch": numpy.int64(3)},
        ["multiarray.scalar", "If you trust the file", "weights_only=False"],
    ),
    "a path and a defaultdict": (
        lambda: {"model": good(), "out": pathlib.Path("x"), "log": defaultdict(list)},
        ["If you trust the file"],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_said_by_name(tmp_path, name):
    make, says = REFUSED[name]
    torch.save(make(), tmp_path / "x.pth")
    text = _refused(tmp_path / "x.pth")
    assert len(text) <= 600, "the door cuts longer ones"
    for words in says:
        assert words in text


#: Those whose message has a command, and which of the two networks it keeps.
_MENDED = (
    "the network twice",
    "an average in the same table",
    "a loss beside",
    "a loss beside, without a prefix",
    "normalised inside",
    "another name of the head",
    "a Namespace",
    "two kinds of a Namespace",
    "numbers of NumPy",
    "a path and a defaultdict",
)


def _run(text, path, capsys):
    """Run the command of a message in this process, as a shell would hand it to Python."""
    (command,) = re.findall(r'python -c ".*"', text)
    _, option, code = shlex.split(command.replace("'FILE'", repr(path.name)))
    assert option == "-c"
    exec(compile(code, "command", "exec"), {})


@pytest.mark.parametrize("name", _MENDED)
def test_the_command_of_a_message_makes_a_file_that_comes_in(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    torch.save(REFUSED[name][0](), path)
    try:
        _run(_refused(path), path, capsys)
    finally:
        torch.serialization.clear_safe_globals()
    state, _ = _import(tmp_path / "weights.pth")
    assert torch.equal(state["fc.weight"], good()["fc.weight"])


def test_the_command_for_safetensors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file({**_behind("q."), **_behind("k.")}, tmp_path / "x")
    _run(_refused(tmp_path / "x"), tmp_path / "x", capsys)
    assert torch.equal(_import(tmp_path / "weights.safetensors")[0]["fc.bias"], good()["fc.bias"])


def test_a_name_out_of_the_file_ends_no_quotation(tmp_path):
    for word in ('a".', "a`id`.", "$(id)."):
        torch.save({**_behind(word), **_behind("k.")}, tmp_path / "x")
        text = _refused(tmp_path / "x")
        assert "python -c" not in text
        assert "do that in Python" in text


@pytest.mark.parametrize("harm", ["posix system", "builtins eval", "timm load", "os Path"])
def test_a_file_that_may_run_code_gets_no_advice_to_load_it(tmp_path, harm):
    module, _, name = harm.partition(" ")
    pickled = f"\x80\x02cargparse\nNamespace\n0c{module}\n{name}\n.".encode("latin-1")
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", b"3\n")
    text = _refused(tmp_path / "x")
    assert "it refers to 'argparse.Namespace'" in text
    assert "torch.load" not in text


class Net(nn.Module):
    """A network of a training script."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)


def test_a_whole_network_is_told(tmp_path):
    for content in (Net(), {"model": Net(), "epoch": 3}):
        for as_zip in (True, False):
            torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=as_zip)
            text = _refused(tmp_path / "x")
            assert "perhaps the whole network" in text
            assert "c.state_dict()" in text
            assert "If you trust the file" in text


def _zipped(**members):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return held.getvalue()


def _tarred(content):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        member = tarfile.TarInfo("teacher.pth")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return held.getvalue()


def _torch_bytes():
    held = io.BytesIO()
    torch.save(good(), held)
    return held.getvalue()


_LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n"
_INDEX = {"metadata": {}, "weight_map": {"fc.bias": "model-00001-of-00002.safetensors"}}
#: Bytes in the place of weights, and what they are called.
NONE = {
    "LFS": (_LFS.encode(), "a Git LFS pointer", "git lfs pull"),
    "HTML": (b"\n<!DOCTYPE html><html>Sign in</html>", "a page of HTML", "download"),
    "HTML after a comment": (b"<!-- x --><html>", "a page of HTML", "download"),
    "XML of a bucket": (b'<?xml version="1.0"?><Error>', "a page of HTML", "download"),
    "hub error": (b'{"error":"Repository not found"}', "the answer of a server", "Repository"),
    "hub text": (b"Entry not found", "begins with 'Entry not found'", "download it again"),
    "config": (b'{"architecture": "resnet18"}', "JSON and no weights", "beside it"),
    "index": (json.dumps(_INDEX).encode(), "the index of weights", "glob('model-*-of-*"),
    "gzip": (gzip.compress(b"x"), "gzip", "gunzip"),
    "bzip2": (bz2.compress(b"x"), "bzip2", "unpack it"),
    "xz": (lzma.compress(b"x"), "xz", "unpack it"),
    "tar": (_tarred(_torch_bytes()), "a tar archive", "unpack it"),
    "zip around": (
        _zipped(**{"a/teacher.pth": b"x"}),
        "a zip archive around 'a/teacher.pth'",
        "unpack",
    ),
    "npz": (_zipped(**{"w.npy": b"x"}), "NumPy archive", "state_dict"),
    "keras": (_zipped(**{"config.json": b"", "model.weights.h5": b""}), "Keras", "state_dict"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5", "state_dict"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0", "an ONNX file", "state_dict"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(9), "TensorFlow Lite", "state_dict"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X", "companion file of macOS", "._"),
    "picture": (b"\x89PNG\r\n\x1a\n", "a picture", "name the file"),
    "zeros": (bytes(5000), "only zeros", "download it again"),
    "empty": (b"", "it is empty", "state_dict"),
    "UTF-16": ("\ufeffversion https://git-lfs".encode("utf-16-le"), "Git LFS", "git lfs"),
    "cut zip": (_torch_bytes()[:5000], "cut off", "copy it once more"),
    "cut safetensors": (save(good())[:-100], "cut off", "copy it once more"),
    "cut header": (save(good())[:50], "cut off", "copy it once more"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_weights_is_told_with_a_way_out(tmp_path, name):
    content, what, how = NONE[name]
    (tmp_path / "teacher.pth").write_bytes(content)
    text = _refused(tmp_path / "teacher.pth")
    assert what in text
    assert how in text


def test_parts_of_weights_are_merged_by_the_command_of_the_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = list(good())
    for number, part in enumerate((names[:9], names[9:]), 1):
        path = tmp_path / f"model-0000{number}-of-00002.safetensors"
        save_file({name: good()[name] for name in part}, path)
    (tmp_path / "index").write_text(json.dumps(_INDEX))
    _run(_refused(tmp_path / "index"), tmp_path / "index", capsys)
    assert list(_import(tmp_path / "weights.safetensors")[0]) == names


def test_the_door_names_the_file_its_part_and_what_is_in_a_folder(tmp_path):
    part = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"fc.bias": good()["fc.bias"]}, part)
    with pytest.raises(IntegrityError, match=r"part 1 of 2; all of them: python -c"):
        read(part)
    path = tmp_path / "x.pth"
    torch.save(REFUSED["a Namespace"][0](), path)
    with pytest.raises(IntegrityError, match=re.escape(f"torch.load('{path}'")):
        read(path)
    (tmp_path / "hub").mkdir()
    save_file(good(), tmp_path / "hub" / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"it is a folder.*'model.safetensors'"):
        read(tmp_path / "hub")
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "data.pkl").touch()
    with pytest.raises(IntegrityError, match=r"something unpacked what torch\.save"):
        read(tmp_path / "unpacked")
    with pytest.raises(UsageError, match="it is an address: download it"):
        read("https://huggingface.co/timm/resnet18.a1_in1k")


def test_a_command_runs_as_it_is_printed(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(REFUSED["a Namespace"][0](), path)
    text = _refused(path).replace("'FILE'", repr(str(path)))
    (command,) = re.findall(r'python -c ".*"', text)
    command = command.replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=60)
    assert torch.equal(_import(tmp_path / "weights.pth")[0]["fc.bias"], good()["fc.bias"])
