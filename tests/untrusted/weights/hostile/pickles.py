"""Pickles written by hand: opcodes that call, and contents that take memory, time or depth."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tests.untrusted.weights.good import good
from tests.untrusted.weights.hostile.family import SAFE_READER, Build, Family
from tests.untrusted.weights.hostile.payloads import CALLS, Call, system, touch

FILES = Family()


def write_zip(path: Path, pickled: bytes, storage: bytes | None = None) -> None:
    """Write what torch.save writes, around this data.pkl. ``storage`` is the member data/0."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        if storage is not None:
            archive.writestr("archive/data/0", storage)


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _setstate(instance: bytes, canary: Path) -> bytes:
    """An object whose __setstate__ becomes os.system, and which is then given its state."""
    replaced = b"}" + _text("__setstate__") + b"cos\nsystem\nsb"
    return b"\x80\x02" + instance + replaced + _text(touch(canary)) + b"b."


_SYSTEM = b"cos\nsystem\n"
_STACK_SYSTEM = b"\x80\x04\x8c\x02os\x8c\x06system\x93"

#: Pickles that create the canary, by name.
OPCODES: dict[str, Callable[[Path], bytes]] = {
    "GLOBAL": lambda canary: _SYSTEM + b"(V" + touch(canary).encode() + b"\ntR.",
    "INST": lambda canary: b"(" + _text(touch(canary)) + b"ios\nsystem\n.",
    "OBJ": lambda canary: b"(" + _SYSTEM + _text(touch(canary)) + b"o.",
    "STACK_GLOBAL": lambda canary: _STACK_SYSTEM + _text(touch(canary)) + b"\x85R.",
    "BUILD of a Namespace": lambda canary: _setstate(b"cargparse\nNamespace\n)\x81", canary),
    "BUILD of an OrderedDict": lambda canary: _setstate(b"ccollections\nOrderedDict\n)R", canary),
    "protocol 0": lambda canary: pickle.dumps(system(canary), 0),
    "protocol 1": lambda canary: pickle.dumps(CALLS["exec"](canary), 1),
    "protocol 3": lambda canary: pickle.dumps(CALLS["eval"](canary), 3),
    "protocol 5": lambda canary: pickle.dumps(CALLS["open"](canary), 5),
}


def _as_checkpoint(opcodes: Callable[[Path], bytes]) -> Build:
    return lambda path, canary: write_zip(path, opcodes(canary))


for _name, _opcodes in OPCODES.items():
    FILES.add(f"opcodes: {_name}", SAFE_READER, runs=True)(_as_checkpoint(_opcodes))


@FILES.add("bare pickle: protocol 0", "no known format", runs=True)
def _(path: Path, canary: Path) -> None:
    path.write_bytes(OPCODES["protocol 0"](canary))


@FILES.add("bare pickle: protocol 4, called safetensors", "bare pickle", ".safetensors", runs=True)
def _(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(system(canary), 4))


@FILES.add("memory: a terabyte of bytes", "more than 2 GiB of memory")
def _(path: Path, canary: Path) -> None:
    pickled = pickle.dumps({"x": Call(bytearray, 1 << 40)}, 2)
    write_zip(path, pickled.replace(b"c__builtin__", b"cbuiltins"))


@FILES.add("memory: a terabyte of storage", "more than 2 GiB of memory")
def _(path: Path, canary: Path) -> None:
    write_zip(path, pickle.dumps({"x": Call(Tensor, 1 << 38)}, 2))


@FILES.add("time: keys of equal hash", "longer than 4 s")
def _(path: Path, canary: Path) -> None:
    # Every multiple of this prime has the hash 0. So each new key is compared with all before it.
    prime = (1 << 61) - 1
    keys = (pickle.encode_long(prime * i) for i in range(1, 150_000))
    items = b"".join(b"\x8a" + bytes([len(key)]) + key + b"N" for key in keys)
    write_zip(path, b"\x80\x02}(" + items + b"u.")


@FILES.add("nesting: a hundred thousand lists", "holds a 'list'")
def _(path: Path, canary: Path) -> None:
    write_zip(path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


@FILES.add("nesting: lists that double 64 times", "'list' and not a tensor")
def _(path: Path, canary: Path) -> None:
    doubled: list = []
    for _ in range(64):
        doubled = [doubled, doubled]
    torch.save({**good(), "extra": doubled}, path)
