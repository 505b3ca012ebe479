"""Archives of other kinds, and zips whose members lie."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import torch

from tests.untrusted.weights.good import good
from tests.untrusted.weights.hostile.family import Family
from tests.untrusted.weights.hostile.payloads import system
from tests.untrusted.weights.hostile.pickles import OPCODES, write_zip

FILES = Family()

_EMPTY_DICT = b"\x80\x02}."


@FILES.add("tar", "tar archive", ".tar", runs=True)
def _(path: Path, canary: Path) -> None:
    payload = pickle.dumps(system(canary), 2)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))


@FILES.add("TorchScript", "TorchScript archive", ".pt")
@FILES.add("TorchScript, called safetensors", "TorchScript archive", ".safetensors")
def _(path: Path, canary: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


@FILES.add("exported program", "exported program", ".pt2")
def _(path: Path, canary: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


@FILES.add("zip: a compressed bomb", "compressed")
def _(path: Path, canary: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as bomb,
    ):
        for _ in range(64):
            bomb.write(bytes(16 << 20))


@FILES.add("zip: members that overlap", "overlap")
def _(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _EMPTY_DICT)
        archive.writestr("archive/data/0", bytes(1 << 20))
        for i in range(1, 1000):
            copied = zipfile.ZipInfo(f"archive/data/{i}")
            for slot in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(copied, slot, getattr(archive.filelist[1], slot))
            archive.filelist.append(copied)


@FILES.add("zip: a member twice", "twice")
def _(path: Path, canary: Path) -> None:
    torch.save(good(), path)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "a") as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        archive.writestr(pickled, OPCODES["GLOBAL"](canary))


@FILES.add("zip: a path that climbs", "did not write: member '../../")
def _(path: Path, canary: Path) -> None:
    write_zip(path, _EMPTY_DICT)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"../../../../{canary}", b"x")


@FILES.add("zip: an absolute path", "did not write: member '/")
def _(path: Path, canary: Path) -> None:
    write_zip(path, _EMPTY_DICT)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(str(canary)), b"x")


@FILES.add("zip: cut off", "cut off")
def _(path: Path, canary: Path) -> None:
    torch.save(good(), path)
    os.truncate(path, path.stat().st_size // 2)
