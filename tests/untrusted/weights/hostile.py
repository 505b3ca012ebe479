"""More than sixty files that must not be imported, each built by a few lines. Weights are those of
wrn10_1 with ten classes.

A builder gets the path to write and a second path, the canary: a payload that runs creates it.
``HOSTILE[name].why`` is part of the message that refuses the file, so that it is refused for what
is wrong with it and not for a flaw of this module.
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import os
import pathlib
import pickle
import runpy
import struct
import subprocess
import tarfile
import timeit
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from kdbench.models import create_model

MODEL, CLASSES, SIZE = "wrn10_1", 10, 32
Build = Callable[[Path, Path], None]
SAFE_READER = "weights-only reader refuses it"


@dataclass(frozen=True)
class Hostile:
    """build: writes the file. why: see above. suffix: what the file is called. runs: its payload
    works if it is unpickled."""

    build: Build
    why: str
    suffix: str = ".pth"
    runs: bool = False


HOSTILE: dict[str, Hostile] = {}


def hostile(
    name: str, why: str, suffix: str = ".pth", *, runs: bool = False
) -> Callable[[Build], Build]:
    def keep(build: Build) -> Build:
        assert name not in HOSTILE
        HOSTILE[name] = Hostile(build, why, suffix, runs)
        return build

    return keep


@cache
def _weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(create_model(MODEL, CLASSES).state_dict())


def good() -> dict[str, Tensor]:
    """Weights that would be accepted, to be spoilt."""
    return {name: tensor.clone() for name, tensor in _weights().items()}


# -- payloads ----------------------------------------------------------------------------------
#
#


class Call:
    """Pickled, it is a call: whoever unpickles it gets its result."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.made_of = function, arguments

    def __reduce__(self) -> tuple:
        return self.made_of


def _creates(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


def _script(canary: Path) -> str:
    script = canary.with_suffix(".py")
    script.write_text(_creates(canary))
    return str(script)


def _touch(canary: Path) -> str:
    return f"touch {canary}"


_CALLS: dict[str, Callable[[Path], Call]] = {
    "os.system": lambda canary: Call(os.system, _touch(canary)),
    "eval": lambda canary: Call(eval, _creates(canary)),
    "exec": lambda canary: Call(exec, _creates(canary)),
    "subprocess": lambda canary: Call(subprocess.check_call, ["touch", str(canary)]),
    "open": lambda canary: Call(open, str(canary), "w"),
    "runpy": lambda canary: Call(runpy.run_path, _script(canary)),
    "importlib": lambda canary: Call(
        importlib._bootstrap._call_with_frames_removed, exec, _creates(canary)
    ),
    "pickle in a pickle": lambda canary: Call(
        pickle.loads, pickle.dumps(Call(os.system, _touch(canary)))
    ),
    "pathlib": lambda canary: Call(pathlib.Path.touch, Call(pathlib.PosixPath, str(canary))),
    "timeit": lambda canary: Call(timeit.timeit, _creates(canary), "pass", timeit.default_timer, 1),
    "map": lambda canary: Call(list, Call(map, exec, [_creates(canary)])),
}
for _name, _call in _CALLS.items():

    @hostile(f"reduce: {_name}", SAFE_READER, runs=True)
    def _(path: Path, canary: Path, call: Callable[[Path], Call] = _call) -> None:
        torch.save({**good(), "extra": call(canary)}, path)


@hostile("reduce: in a list", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    torch.save([[1, [_CALLS["os.system"](canary)]]], path)


@hostile("reduce: in an OrderedDict of wrappers", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    torch.save(
        {"state_dict": OrderedDict(good()), "optimizer": OrderedDict(state=_CALLS["exec"](canary))},
        path,
    )


@hostile("reduce: as a key", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    torch.save({_CALLS["os.system"](canary): torch.zeros(1), **good()}, path)


class _Subclass(Tensor):
    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.made_of


@hostile("reduce: a tensor's subclass", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    tensor = torch.zeros(1).as_subclass(_Subclass)
    tensor.made_of = (os.system, (_touch(canary),))
    torch.save({**good(), "fc.bias": tensor}, path)


@hostile("legacy: os.system", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    torch.save(
        {**good(), "extra": _CALLS["os.system"](canary)}, path, _use_new_zipfile_serialization=False
    )


@hostile("legacy: after the object", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    magic, facts = (
        torch.serialization.MAGIC_NUMBER,
        {"protocol_version": 1001, "little_endian": True, "type_sizes": {}},
    )
    path.write_bytes(
        b"".join(
            pickle.dumps(part, 2) for part in (magic, 1001, facts, {}, _CALLS["os.system"](canary))
        )
    )


# -- pickles by hand ---------------------------------------------------------------------------
#
#


def _zip(path: Path, pickled: bytes, **members: bytes) -> None:
    """What torch.save writes, around a data.pkl of one's own; ``data_0`` is the member data/0."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        for name, content in members.items():
            archive.writestr(f"archive/{name.replace('_', '/')}", content)


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _setstate(made: bytes, canary: Path) -> bytes:
    """An object whose __setstate__ becomes os.system, and which is then given its state."""
    return (
        b"\x80\x02"
        + made
        + b"}"
        + _text("__setstate__")
        + b"cos\nsystem\nsb"
        + _text(_touch(canary))
        + b"b."
    )


_OPCODES: dict[str, Callable[[Path], bytes]] = {
    "GLOBAL": lambda canary: b"cos\nsystem\n(V" + _touch(canary).encode() + b"\ntR.",
    "INST": lambda canary: b"(" + _text(_touch(canary)) + b"ios\nsystem\n.",
    "OBJ": lambda canary: b"(cos\nsystem\n" + _text(_touch(canary)) + b"o.",
    "STACK_GLOBAL": lambda canary: (
        b"\x80\x04\x8c\x02os\x8c\x06system\x93" + _text(_touch(canary)) + b"\x85R."
    ),
    "BUILD of a Namespace": lambda canary: _setstate(b"cargparse\nNamespace\n)\x81", canary),
    "BUILD of an OrderedDict": lambda canary: _setstate(b"ccollections\nOrderedDict\n)R", canary),
    "protocol 0": lambda canary: pickle.dumps(_CALLS["os.system"](canary), 0),
    "protocol 1": lambda canary: pickle.dumps(_CALLS["exec"](canary), 1),
    "protocol 3": lambda canary: pickle.dumps(_CALLS["eval"](canary), 3),
    "protocol 5": lambda canary: pickle.dumps(_CALLS["open"](canary), 5),
}
for _name, _opcodes in _OPCODES.items():

    @hostile(f"opcodes: {_name}", SAFE_READER, runs=True)
    def _(path: Path, canary: Path, opcodes: Callable[[Path], bytes] = _opcodes) -> None:
        _zip(path, opcodes(canary))


@hostile("bare pickle: protocol 0", "no known format", runs=True)
def _(path: Path, canary: Path) -> None:
    path.write_bytes(_OPCODES["protocol 0"](canary))


@hostile("bare pickle: protocol 4, called safetensors", "bare pickle", ".safetensors", runs=True)
def _(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(_CALLS["os.system"](canary), 4))


@hostile("memory: a terabyte of bytes", "more than 2 GiB of memory")
def _(path: Path, canary: Path) -> None:
    _zip(
        path,
        pickle.dumps({"x": Call(bytearray, 1 << 40)}, 2).replace(b"c__builtin__", b"cbuiltins"),
    )


@hostile("memory: a terabyte of storage", "more than 2 GiB of memory")
def _(path: Path, canary: Path) -> None:
    _zip(path, pickle.dumps({"x": Call(Tensor, 1 << 38)}, 2))


@hostile("time: keys of equal hash", "longer than 4 s")
def _(path: Path, canary: Path) -> None:
    # Every multiple of this prime has the hash 0, so that each new key is compared with all before
    # it.
    prime = (1 << 61) - 1
    keys = (pickle.encode_long(prime * i) for i in range(1, 150_000))
    _zip(
        path,
        b"\x80\x02}(" + b"".join(b"\x8a" + bytes([len(key)]) + key + b"N" for key in keys) + b"u.",
    )


@hostile("nesting: a hundred thousand lists", "holds a 'list'")
def _(path: Path, canary: Path) -> None:
    _zip(path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


@hostile("nesting: lists that double 64 times", "'list' and not a tensor")
def _(path: Path, canary: Path) -> None:
    doubled: list = []
    for _ in range(64):
        doubled = [doubled, doubled]
    torch.save({**good(), "extra": doubled}, path)


# -- archives ----------------------------------------------------------------------------------
#
#


@hostile("tar", "tar archive", ".tar", runs=True)
def _(path: Path, canary: Path) -> None:
    payload = pickle.dumps(_CALLS["os.system"](canary), 2)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))


def _script_network(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


@hostile("TorchScript", "TorchScript archive", ".pt")
def _(path: Path, canary: Path) -> None:
    _script_network(path)


@hostile("TorchScript, called safetensors", "TorchScript archive", ".safetensors")
def _(path: Path, canary: Path) -> None:
    _script_network(path)


@hostile("exported program", "exported program", ".pt2")
def _(path: Path, canary: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


@hostile("zip: a compressed bomb", "compressed")
def _(path: Path, canary: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as bomb,
    ):
        for _ in range(64):
            bomb.write(bytes(16 << 20))


@hostile("zip: members that overlap", "overlap")
def _(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(1 << 20))
        for i in range(1, 1000):
            copied = zipfile.ZipInfo(f"archive/data/{i}")
            for slot in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(copied, slot, getattr(archive.filelist[1], slot))
            archive.filelist.append(copied)


@hostile("zip: a member twice", "twice")
def _(path: Path, canary: Path) -> None:
    torch.save(good(), path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(
            next(name for name in archive.namelist() if name.endswith("data.pkl")),
            _OPCODES["GLOBAL"](canary),
        )


@hostile("zip: a path that climbs", "did not write: member '../../")
def _(path: Path, canary: Path) -> None:
    _zip(path, b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"../../../../{canary}", b"x")


@hostile("zip: an absolute path", "did not write: member '/")
def _(path: Path, canary: Path) -> None:
    _zip(path, b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo(str(canary))
        archive.writestr(member, b"x")


@hostile("zip: cut off", "cut off")
def _(path: Path, canary: Path) -> None:
    torch.save(good(), path)
    os.truncate(path, path.stat().st_size // 2)


# -- safetensors -------------------------------------------------------------------------------
#
#


def _safetensors(path: Path, header: dict | bytes, data: bytes = b"") -> None:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + data)


def _entry(shape: list, begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@hostile("safetensors: a header of 100 MB", "header claims", ".safetensors")
def _(path: Path, canary: Path) -> None:
    path.write_bytes(struct.pack("<Q", 100_000_000) + b"{")
    os.truncate(path, 100_000_100)


@hostile("safetensors: tensors that overlap", "overlap", ".safetensors")
def _(path: Path, canary: Path) -> None:
    _safetensors(path, {"a": _entry([4], 0, 16), "b": _entry([4], 8, 24)}, bytes(24))


@hostile("safetensors: a tensor beyond the end", "do not fill the file", ".safetensors")
def _(path: Path, canary: Path) -> None:
    _safetensors(path, {"a": _entry([1 << 30], 0, 1 << 32)}, bytes(16))


@hostile("safetensors: a shape larger than its bytes", "does not take", ".safetensors")
def _(path: Path, canary: Path) -> None:
    _safetensors(path, {"a": _entry([1 << 40, 1 << 22], 0, 16)}, bytes(16))


@hostile("safetensors: deeply nested header", "header is not valid", ".safetensors")
def _(path: Path, canary: Path) -> None:
    _safetensors(path, b'{"a":' + b"[" * 1_000_000)


@hostile("safetensors: cut off", "do not fill the file", ".safetensors")
def _(path: Path, canary: Path) -> None:
    path.write_bytes(save(good())[:-100])


@hostile("safetensors: NaN", "NaN", ".safetensors")
def _(path: Path, canary: Path) -> None:
    weights = good()
    weights["fc.weight"][3, 5] = float("nan")
    path.write_bytes(save(weights))


# -- tensors -----------------------------------------------------------------------------------
#
#


def _spoil(path: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    weights = good()
    weights[name] = change(weights[name])
    torch.save(weights, path)


@dataclass(frozen=True)
class _Storage:
    """Stands for ``count`` floats in data/0 of a zip checkpoint."""

    count: int


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> tuple | None:
        return (
            ("storage", torch.FloatStorage, "0", "cpu", obj.count)
            if isinstance(obj, _Storage)
            else None
        )


def _claim(count: int, offset: int, size: tuple, stride: tuple) -> Call:
    return Call(
        torch._utils._rebuild_tensor_v2, _Storage(count), offset, size, stride, False, OrderedDict()
    )


def _by_hand(path: Path, tensors: dict[str, Call]) -> None:
    """A checkpoint of tensors that claim what they like about the same 64 bytes."""
    pickled = io.BytesIO()
    _Pickler(pickled, 2).dump(tensors)
    _zip(path, pickled.getvalue(), data_0=bytes(64))


@hostile("tensor: stride 0", "claims more values")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "stem.weight", lambda tensor: torch.zeros(1).expand(tensor.shape))


@hostile("tensor: a billion values in four bytes", "of the shape")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "fc.weight", lambda tensor: torch.zeros(1).expand(10**9))


@hostile("tensor: strides that overlap", "claims more values")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "fc.weight", lambda tensor: torch.zeros(1000).as_strided(tensor.shape, (1, 1)))


@hostile("tensor: beyond its storage", SAFE_READER)
def _(path: Path, canary: Path) -> None:
    _by_hand(path, {"fc.bias": _claim(16, 1 << 40, (10,), (1,))})


@hostile("tensor: negative place", SAFE_READER)
def _(path: Path, canary: Path) -> None:
    _by_hand(path, {"fc.bias": _claim(16, -8, (10,), (1,))})


@hostile("tensor: storage larger than its member", SAFE_READER)
def _(path: Path, canary: Path) -> None:
    _by_hand(path, {"fc.bias": _claim(1 << 20, 0, (1 << 20,), (1,))})


@hostile("tensor: methods replaced", "claims more values")
def _(path: Path, canary: Path) -> None:
    # To whoever asks the tensor itself, its strides are an empty torch.Size.
    names = dict.fromkeys(
        ("stride", "untyped_storage", "storage_offset", "numel", "is_contiguous", "detach"),
        torch.Size,
    )

    def disguised(tensor: Tensor) -> Call:
        claim = _claim(16, 0, tuple(tensor.shape), (0,) * tensor.dim())
        return Call(
            torch._tensor._rebuild_from_type_v2, claim.made_of[0], Tensor, claim.made_of[1], names
        )

    _by_hand(
        path,
        {name: disguised(tensor) for name, tensor in good().items() if tensor.is_floating_point()},
    )


@hostile("tensor: sparse", "sparse, quantised")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "fc.weight", lambda tensor: tensor.to_sparse())


@hostile("tensor: quantised", "sparse, quantised")
def _(path: Path, canary: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _spoil(
            path, "fc.weight", lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
        )


@hostile("tensor: without data", "sparse, quantised")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "fc.weight", lambda tensor: tensor.to("meta"))


@hostile("tensor: whole numbers", "is int64, where float32")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "fc.weight", lambda tensor: tensor.long())


@hostile("tensor: infinite as float32", "infinite")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "fc.weight", lambda tensor: tensor.double() + 1e300)


@hostile("tensor: negative variance", "is negative")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "final_norm.running_var", lambda tensor: tensor - 2)


@hostile("tensor: another shape", "of the shape [100, 64]")
def _(path: Path, canary: Path) -> None:
    _spoil(path, "fc.weight", lambda tensor: torch.zeros(100, 64))


@hostile("names: one missing, one more", "1 missing ('fc.bias'), 1 unknown")
def _(path: Path, canary: Path) -> None:
    weights = good()
    weights["fc.bios"] = weights.pop("fc.bias")
    torch.save(weights, path)


@hostile("names: two networks", "several networks: model, model_ema")
def _(path: Path, canary: Path) -> None:
    torch.save({"model": good(), "model_ema": good()}, path)


# -- files -------------------------------------------------------------------------------------
#
#


@hostile("file: empty", "it is empty")
def _(path: Path, canary: Path) -> None:
    path.touch()


@hostile("file: random bytes", "no known format")
def _(path: Path, canary: Path) -> None:
    path.write_bytes(
        torch.randint(
            0, 256, (100_000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
        )
        .numpy()
        .tobytes()
    )


@hostile("file: gzip", "gzip")
def _(path: Path, canary: Path) -> None:
    path.write_bytes(gzip.compress(save(good())))


@hostile("file: a link to a folder", "folder, a pipe or a device")
def _(path: Path, canary: Path) -> None:
    path.symlink_to(canary.parent, target_is_directory=True)


@hostile("file: a pipe", "folder, a pipe or a device")
def _(path: Path, canary: Path) -> None:
    os.mkfifo(path)
