"""Files that torch.save wrote, and whose pickle calls a function."""

from __future__ import annotations

import importlib
import os
import pathlib
import pickle
import runpy
import subprocess
import timeit
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tests.untrusted.weights.good import good
from tests.untrusted.weights.hostile.family import SAFE_READER, Build, Family

FILES = Family()

_CALL_INDIRECTLY = importlib._bootstrap._call_with_frames_removed


class Call:
    """Pickled, it is a call: whoever unpickles it gets its result."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.reduced


def touch(canary: Path) -> str:
    """The shell command of a payload."""
    return f"touch {canary}"


def _creates(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


def _script(canary: Path) -> str:
    script = canary.with_suffix(".py")
    script.write_text(_creates(canary))
    return str(script)


def system(canary: Path) -> Call:
    """The payload that most of the files carry."""
    return Call(os.system, touch(canary))


#: Ways to create the canary, by name.
CALLS: dict[str, Callable[[Path], Call]] = {
    "os.system": system,
    "eval": lambda canary: Call(eval, _creates(canary)),
    "exec": lambda canary: Call(exec, _creates(canary)),
    "subprocess": lambda canary: Call(subprocess.check_call, ["touch", str(canary)]),
    "open": lambda canary: Call(open, str(canary), "w"),
    "runpy": lambda canary: Call(runpy.run_path, _script(canary)),
    "importlib": lambda canary: Call(_CALL_INDIRECTLY, exec, _creates(canary)),
    "pickle in a pickle": lambda canary: Call(pickle.loads, pickle.dumps(system(canary))),
    "pathlib": lambda canary: Call(pathlib.Path.touch, Call(pathlib.PosixPath, str(canary))),
    "timeit": lambda canary: Call(timeit.timeit, _creates(canary), "pass", timeit.default_timer, 1),
    "map": lambda canary: Call(list, Call(map, exec, [_creates(canary)])),
}


def _beside_weights(call: Callable[[Path], Call], *, as_zip: bool = True) -> Build:
    def build(path: Path, canary: Path) -> None:
        content = {**good(), "extra": call(canary)}
        torch.save(content, path, _use_new_zipfile_serialization=as_zip)

    return build


for _name, _call in CALLS.items():
    FILES.add(f"reduce: {_name}", SAFE_READER, runs=True)(_beside_weights(_call))
FILES.add("legacy: os.system", SAFE_READER, runs=True)(_beside_weights(system, as_zip=False))


@FILES.add("reduce: in a list", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    torch.save([[1, [system(canary)]]], path)


@FILES.add("reduce: in an OrderedDict of wrappers", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    optimizer = OrderedDict(state=CALLS["exec"](canary))
    torch.save({"state_dict": OrderedDict(good()), "optimizer": optimizer}, path)


@FILES.add("reduce: as a key", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    torch.save({system(canary): torch.zeros(1), **good()}, path)


class _Subclass(Tensor):
    reduced: tuple[Callable, tuple]

    def __reduce_ex__(self, protocol: int) -> tuple[Callable, tuple]:
        return self.reduced


@FILES.add("reduce: a tensor's subclass", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    tensor = torch.zeros(1).as_subclass(_Subclass)
    tensor.reduced = (os.system, (touch(canary),))
    torch.save({**good(), "fc.bias": tensor}, path)


@FILES.add("legacy: after the object", SAFE_READER, runs=True)
def _(path: Path, canary: Path) -> None:
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = (torch.serialization.MAGIC_NUMBER, 1001, facts, {}, system(canary))
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
