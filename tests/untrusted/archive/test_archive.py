"""Archives: what is refused, what that leaves behind (nothing), and what the good ones hold."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import random
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from kdbench.errors import IntegrityError
from kdbench.untrusted.archive import unpack as archive_module
from kdbench.untrusted.archive.limits import MIB, ArchiveLimits
from kdbench.untrusted.archive.unpack import unpack
from kdbench.untrusted.archive.zip import zip_members
from tests.untrusted.archive.hostile import HOSTILE
from tests.untrusted.archive.hostile.case import Hostile
from tests.untrusted.archive.naive import listing, naive
from tests.untrusted.archive.tar_blocks import block, pax, tarred
from tests.untrusted.archive.zip_parts import Part, zipped

ESCAPING = [case for case in HOSTILE if case.escapes]


def put(sandbox: Path, case: Hostile) -> Path:
    path = sandbox / "archive"
    path.write_bytes(case.make(sandbox / "outside"))
    return path


# -- hostile ones ------------------------------------------------------------------------------


def test_there_are_many_of_them():
    assert len({case.name for case in HOSTILE}) == len(HOSTILE) >= 30
    assert len(ESCAPING) >= 10


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_refused_and_nothing_left(sandbox, case):
    path = put(sandbox, case)
    before = listing(sandbox)
    with pytest.raises(IntegrityError, match=rf"archive .*{case.why}.*nothing of it was unpacked"):
        unpack(path, sandbox / "target")
    # With times: not even a temporary folder was there.
    assert listing(sandbox) == before


@pytest.mark.parametrize("case", ESCAPING, ids=lambda case: case.name)
def test_a_naive_unpacker_writes_outside(sandbox, case):
    path = put(sandbox, case)
    before = listing(sandbox / "outside")
    naive(path, sandbox / "target")
    assert listing(sandbox / "outside") != before


def test_a_naive_unpacker_falls_for_a_bomb(sandbox):
    bomb = next(case for case in HOSTILE if case.name == "zip overlap")
    path = put(sandbox, bomb)
    naive(path, sandbox / "target")
    unpacked = sum(file.stat().st_size for file in (sandbox / "target").rglob("*.png"))
    assert unpacked > 1000 * path.stat().st_size


def test_the_member_at_fault_is_named_and_its_name_is_harmless(sandbox):
    path = sandbox / "archive"
    path.write_bytes(zipped(Part(b"train/a/0.png"), Part(b"train/\x1b[31m" + b"n" * 500)))
    with pytest.raises(IntegrityError, match=r"archive: member 'train/\\x1b\[31mnnn") as caught:
        unpack(path, sandbox / "target")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "last", [Part(b"../x"), Part(b"train/a/9.png", crc=1)], ids=["name", "bytes"]
)
def test_all_is_looked_at_before_anything_is_written(sandbox, monkeypatch, last):
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: pytest.fail("began to write"))
    path = sandbox / "archive"
    path.write_bytes(zipped(*(Part(b"train/a/%d.png" % number) for number in range(9)), last))
    with pytest.raises(IntegrityError):
        unpack(path, sandbox / "target")


def test_an_archive_that_is_exchanged_meanwhile(sandbox, monkeypatch):
    path, mkdtemp = sandbox / "archive", tempfile.mkdtemp
    path.write_bytes(zipped(Part(b"train/a/0.png"), Part(b"train/a/1.png")))

    def exchange(**where):
        path.write_bytes(zipped(Part(b"train/a/0.png"), Part(b"../outside/new")))
        return mkdtemp(**where)

    monkeypatch.setattr(tempfile, "mkdtemp", exchange)
    with pytest.raises(IntegrityError):
        unpack(path, sandbox / "target")
    assert sorted(entry.name for entry in sandbox.iterdir()) == ["archive", "outside"]
    assert [entry.name for entry in (sandbox / "outside").iterdir()] == ["victim"]


@pytest.mark.parametrize(
    "stop",
    [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")],
    ids=["Ctrl-C", "full"],
)
def test_interrupted(sandbox, monkeypatch, stop):
    path, open_file, opened = sandbox / "archive", os.open, []
    path.write_bytes(zipped(*(Part(b"train/a/%d.png" % number) for number in range(9))))

    def third(name, *more, **options):
        if str(name).endswith(".png"):
            opened.append(name)
            if len(opened) == 3:
                raise stop
        return open_file(name, *more, **options)

    monkeypatch.setattr(archive_module.os, "open", third)
    with pytest.raises(type(stop)):
        unpack(path, sandbox / "target")
    assert len(opened) == 3
    assert sorted(entry.name for entry in sandbox.iterdir()) == ["archive", "outside"]


def test_what_is_there_is_not_replaced(sandbox):
    path = sandbox / "archive"
    path.write_bytes(zipped(Part(b"train/a/0.png")))
    (sandbox / "target").mkdir()
    (sandbox / "target" / "mine").write_text("")
    with pytest.raises(OSError, match="not empty"):
        unpack(path, sandbox / "target")
    assert [entry.name for entry in (sandbox / "target").iterdir()] == ["mine"]
    assert sorted(entry.name for entry in sandbox.iterdir()) == ["archive", "outside", "target"]


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz", "header"])
def test_a_bomb_needs_little_memory(sandbox, kind):
    path, size = sandbox / "archive", 64 * MIB
    if kind == "zip":
        path.write_bytes(zipped(Part(b"0.png", bytes(size), crc=0)))
    elif kind == "header":
        path.write_bytes(gzip.compress(tarred(block(b"p", bytes(size), b"x"))))
    else:
        whole = tarred(block(b"0.png", bytes(size)), block(b"../x"))
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(whole))
        del whole
    generous = ArchiveLimits(member_ratio=10**9, total_ratio=10**9)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match=r"checksum|'\.\.'|extended header has"):
            unpack(path, sandbox / "target", generous)
        # xz keeps a dictionary, which has 8 MiB unless its maker chose another.
        assert tracemalloc.get_traced_memory()[1] < (10 if kind == "xz" else 2) * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_limits_to_the_byte(sandbox, kind):
    path, noise = sandbox / "archive", random.Random(0).randbytes(MIB)
    files = [(b"a/b/0.png", noise[:1000]), (b"a/b/1.png", noise[:1024])]
    whole = {
        "zip": lambda: zipped(*(Part(*file, deflate=False) for file in files)),
        "tar": lambda: tarred(*(block(*file) for file in files)),
    }[kind]()
    path.write_bytes(whole)
    total = 2024 if kind == "zip" else len(whole)
    exact = {"members": 4, "total": total, "name": 9, "part": 5, "depth": 3}
    unpack(path, sandbox / "whole", ArchiveLimits(**exact))
    for limit, value in exact.items():
        with pytest.raises(IntegrityError):
            unpack(path, sandbox / "target", ArchiveLimits(**exact | {limit: value - 1}))


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_small_files_may_be_compressed_well(sandbox, kind):
    files = [(b"train/a/%d.png" % number, bytes(MIB if number else 100)) for number in range(15)]
    zips, tars = zipped(*(Part(*file) for file in files)), tarred(*(block(*file) for file in files))
    (sandbox / "archive").write_bytes(zips if kind == "zip" else gzip.compress(tars))
    unpack(sandbox / "archive", sandbox / "target")
    assert (
        sum(file.stat().st_size for file in (sandbox / "target").rglob("*.png")) == 14 * MIB + 100
    )


# -- good ones ---------------------------------------------------------------------------------

FILES = {
    "train/ant/0.png": b"ant" * 100,
    "train/b\u00e9e/" + "long" * 40 + ".png": b"bee",
    "train/b\u00e9e/empty.png": b"",
    "test/" + "/".join(["deep"] * 12) + "/0.png": b"x" * 70_000,
    "\u0431\u0443\u043a\u0432\u044b.txt": b"no picture",
    "nested.zip": zipped(Part(b"../evil")),
}


def zip_with(**options):
    def make() -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", **options) as file:
            file.comment = b"made by a test"
            file.writestr("train/", b"")
            for name, data in FILES.items():
                file.writestr(name, data)
        return out.getvalue()

    return make


def zip_by_stream() -> bytes:
    """As a pipe gets it: sizes behind each member, and room for zip64 sizes."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.got = b""

        def writable(self):
            return True

        def write(self, data):
            self.got += data
            return len(data)

    out = Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for number, (name, data) in enumerate(FILES.items()):
            with file.open(name, "w", force_zip64=number % 2 == 0) as member:
                member.write(data)
    return out.got


def tar_with(mode="w", dots=False, **options):
    def make() -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode, **options) as file:
            if dots:
                folder = tarfile.TarInfo("./")
                folder.type = tarfile.DIRTYPE
                file.addfile(folder)
            for name, data in FILES.items():
                info = tarfile.TarInfo(f"./{name}" if dots else name)
                info.size, info.mtime = len(data), 1.5
                file.addfile(info, io.BytesIO(data))
        return out.getvalue()

    return make


GOOD = {
    "zip stored": zip_with(),
    "zip deflated": zip_with(compression=zipfile.ZIP_DEFLATED),
    "zip by stream": zip_by_stream,
    "tar pax": tar_with(format=tarfile.PAX_FORMAT),
    "tar pax with comment": tar_with(format=tarfile.PAX_FORMAT, pax_headers={"comment": "4f5c"}),
    "tar GNU": tar_with(format=tarfile.GNU_FORMAT),
    "tar ./": tar_with(dots=True),
    "tar.gz": tar_with("w:gz"),
    "tar.bz2": tar_with("w:bz2"),
    "tar.xz": tar_with("w:xz"),
    "tar.gz in parts": lambda: b"".join(gzip.compress(part) for part in halves(tar_with()())),
    "tar.bz2 in parts": lambda: b"".join(bz2.compress(part) for part in halves(tar_with()())),
}


def halves(data):
    return data[: len(data) // 2], data[len(data) // 2 :]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("kind", GOOD)
def test_good_archives(sandbox, kind):
    (sandbox / "archive").write_bytes(GOOD[kind]())
    unpack(sandbox / "archive", sandbox / "target")
    assert contents(sandbox / "target") == FILES
    assert sorted(entry.name for entry in sandbox.iterdir()) == ["archive", "outside", "target"]


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_the_owner_may_read_what_was_unpacked(sandbox, umask):
    (sandbox / "archive").write_bytes(zip_with()())
    before = os.umask(umask)
    try:
        unpack(sandbox / "archive", sandbox / "target")
    finally:
        os.umask(before)
    modes = {
        (path.is_dir(), stat.S_IMODE(path.stat().st_mode))
        for path in (sandbox / "target", *(sandbox / "target").rglob("*"))
    }
    assert modes == {(True, 0o700), (False, 0o600)}


def test_what_macos_adds_is_not_written(sandbox):
    names = (
        b"photos/train/a/0.png",
        b"__MACOSX/photos/train/a/._0.png",
        b"photos/train/a/._0.png",
        b"photos/._train/x.png",
    )
    (sandbox / "archive").write_bytes(zipped(*(Part(name) for name in names)))
    unpack(sandbox / "archive", sandbox / "target")
    assert list(contents(sandbox / "target")) == ["photos/train/a/0.png"]
    assert [entry.name for entry in (sandbox / "target").iterdir()] == ["photos"]


def test_a_name_that_its_tar_header_cannot_hold_may_come_from_another(sandbox):
    for number, name in enumerate(("train/a/" + "n" * 120 + ".png", "train/\u00e4/0.png")):
        (sandbox / "archive").write_bytes(
            tarred(pax(path=name, mtime="1.5", size="4"), block(b"train/cut", b"data"))
        )
        unpack(sandbox / "archive", sandbox / str(number))
        assert contents(sandbox / str(number)) == {name: b"data"}


def test_a_zip_of_more_members_than_its_plain_end_can_count(sandbox):
    with zipfile.ZipFile(sandbox / "archive", "w") as file:
        for number in range(2**16 + 1):
            file.writestr(f"train/{number}.png", b"")
    with (sandbox / "archive").open("rb") as file:
        members = list(zip_members(file, (sandbox / "archive").stat().st_size, ArchiveLimits()))
    assert len(members) == 2**16 + 1


@pytest.mark.parametrize(
    "kind", ["zip deflated", "zip by stream", "tar pax", "tar GNU", "tar.gz", "tar.bz2", "tar.xz"]
)
def test_damage_is_refused_or_harmless(sandbox, kind):
    whole, dice, refused = GOOD[kind](), random.Random(kind), 0
    path = sandbox / "archive"
    for number in range(150):
        if number % 3 == 0:
            damaged = whole[: dice.randrange(len(whole))]
        else:
            # Most of a zip's and a tar's own bytes lie near its ends.
            near = dice.choice([dice.randrange(400), -dice.randrange(1, 400)])
            at = dice.randrange(len(whole)) if number % 3 == 1 else near
            damaged = bytearray(whole)
            damaged[at] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            unpack(path, sandbox / str(number))
        except IntegrityError:
            refused += 1
        else:
            files = contents(sandbox / str(number))
            # A plain tar has checksums for its headers only.
            by_name_only = kind in ("tar pax", "tar GNU")
            assert files.keys() == FILES.keys() if by_name_only else files == FILES
    assert refused > 50
    names = {entry.name for entry in sandbox.iterdir() if not entry.name.isdigit()}
    assert names == {"archive", "outside"}
    assert (sandbox / "outside" / "victim").read_text() == "untouched"
