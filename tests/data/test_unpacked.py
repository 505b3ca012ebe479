"""imagefolder:ARCHIVE: the same pictures as from the folder, unpacked once, and again when it is no
longer the same."""

from __future__ import annotations

import os
import shutil
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch

from kdbench.data import unpacked as unpacked_module
from kdbench.data.members import SUFFIXES
from kdbench.errors import ConfigError, DatasetError, IntegrityError
from tests.data.pictures import folder, save
from tests.untrusted.archive.hostile import HOSTILE
from tests.untrusted.archive.naive import listing
from tests.untrusted.archive.zip_parts import Part, zipped

MODES = {
    "zip": "zip",
    "tar": "w",
    "tar.gz": "w:gz",
    "tgz": "w:gz",
    "tar.xz": "w:xz",
    "tar.bz2": "w:bz2",
}


def packed(tree: Path, suffix: str, top: str = "", name: str = "photos") -> Path:
    """The tree as an archive beside it, its folders directly in it or below ``top``."""
    path = tree.parent / f"{name}.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for entry in sorted(tree.rglob("*")):
                file.write(entry, Path(top) / entry.relative_to(tree))
    else:
        with tarfile.open(path, MODES[suffix]) as file:
            file.add(tree, arcname=top or ".")
    return path


@pytest.fixture
def photos(tree):
    return packed(tree, "zip")


def unpackings(monkeypatch):
    """Where each unpacking from now on goes."""
    targets, unpack = [], unpacked_module.unpack

    def counted(archive, into, limits):
        targets.append(into)
        unpack(archive, into, limits)

    monkeypatch.setattr(unpacked_module, "unpack", counted)
    return targets


@pytest.mark.parametrize("top", ["", "photos-1"], ids=["direct", "one folder"])
@pytest.mark.parametrize("suffix", MODES)
def test_the_same_pictures_as_from_the_folder(tree, suffix, top):
    plain, archived = folder(tree), folder(packed(tree, suffix, top))
    assert torch.equal(archived.train.pixels, plain.train.pixels)
    assert torch.equal(archived.test.pixels, plain.test.pixels)
    assert torch.equal(archived.train.labels, plain.train.labels)
    assert archived.class_names == plain.class_names
    assert archived.digest == plain.digest


def test_an_archive_is_known_by_what_is_in_it(tree):
    disguised = packed(tree, "tar.xz").rename(tree.parent / "photos.jpg")
    assert folder(disguised).digest == folder(tree).digest
    shutil.move(tree, tree.parent / "folder.zip")
    assert folder(tree.parent / "folder.zip").digest == folder(disguised).digest
    (tree.parent / "notes.zip").write_text("not an archive")
    with pytest.raises(IntegrityError, match=r"notes\.zip: .*this is no archive that is read"):
        folder(tree.parent / "notes.zip")


def test_it_is_unpacked_once_and_anew_when_it_changes(tree, photos, monkeypatch):
    targets = unpackings(monkeypatch)
    first, again = folder(photos), folder(photos)
    assert first.digest == again.digest
    assert len(targets) == 1
    save(tree / "train" / "ant" / "0.png", 7)
    changed = folder(packed(tree, "zip"))
    assert changed.train_digest != first.train_digest
    assert changed.test_digest == first.test_digest
    assert len(set(targets)) == 2
    kept = {path.name for path in (tree.parent / "cache" / "archives").iterdir() if path.is_dir()}
    assert kept == {path.name for path in targets}


def tidy(copy):
    (copy / "train" / "ant" / "0.png").unlink()


def edit(copy):
    save(copy / "train" / "ant" / "0.png", 9)


def add(copy):
    save(copy / "train" / "ant" / "new.png", 9)


def forget(copy):
    copy.with_suffix(".listing").unlink()


@pytest.mark.parametrize("change", [tidy, edit, add, shutil.rmtree, forget])
def test_a_copy_that_is_not_what_was_unpacked_is_replaced(photos, monkeypatch, change):
    targets = unpackings(monkeypatch)
    expected = folder(photos).digest
    change(targets[0])
    assert folder(photos).digest == expected
    assert len(targets) == 2


def test_what_a_killed_run_left_is_removed(photos, monkeypatch):
    targets = unpackings(monkeypatch)
    folder(photos)
    left = targets[0].with_name(f".{targets[0].name}-abc")
    shutil.move(targets[0], left)
    folder(photos)
    assert not left.exists()


def test_an_archive_that_grows_while_it_is_unpacked(photos, monkeypatch):
    unpack, seen = unpacked_module.unpack, []

    def grow(archive, into, limits):
        unpack(archive, into, limits)
        seen.append(into)
        archive.write_bytes(archive.read_bytes() + b"more")

    monkeypatch.setattr(unpacked_module, "unpack", grow)
    with pytest.raises(IntegrityError, match="changed while it was unpacked"):
        folder(photos)
    assert [entry.suffix for entry in seen[0].parent.iterdir()] == [".lock"]


def test_two_runs_unpack_once(photos, monkeypatch):
    unpack, begun, count = unpacked_module.unpack, threading.Event(), []

    def slow(archive, into, limits):
        count.append(into)
        begun.set()
        time.sleep(0.3)
        unpack(archive, into, limits)

    monkeypatch.setattr(unpacked_module, "unpack", slow)
    other = threading.Thread(target=folder, args=(photos,))
    other.start()
    assert begun.wait(300)
    folder(photos)
    other.join()
    assert len(count) == 1


def test_without_a_lock_the_slower_run_takes_what_the_faster_made(photos, monkeypatch):
    unpack = unpacked_module.unpack

    def overtaken(archive, into, limits):
        unpack(archive, into, limits)
        unpacked_module._record(into).write_text(unpacked_module._listing(into))
        unpack(archive, into, limits)

    monkeypatch.setattr(unpacked_module, "unpack", overtaken)
    assert len(folder(photos).train) == 18


def test_a_damaged_picture_says_where_to_mend_it(tree):
    (tree / "train" / "ant" / "3.png").write_bytes(b"no picture")
    with pytest.raises(
        DatasetError, match=r"3\.png: .*unpacked from .*photos\.tar: mend the archive"
    ):
        folder(packed(tree, "tar"))


def test_wrong_layouts_and_requests(tree, photos):
    with pytest.raises(DatasetError, match="must contain train"):
        folder(packed(tree / "train", "tar"))
    with pytest.raises(DatasetError, match="must contain train"):
        folder(packed(tree, "tar", "two/folders"))
    with pytest.raises(ConfigError, match=r"drop --download .*a zip or tar"):
        folder(photos, download=True)
    with pytest.raises(DatasetError, match=r"no folder .*absent\.zip.*a zip or tar"):
        folder(tree.parent / "absent.zip")


def test_a_full_disk_or_a_cache_that_cannot_be_made(photos, monkeypatch):
    (photos.parent / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot use .*file"):
        folder(photos, cache_dir=photos.parent / "file")
    with monkeypatch.context() as patch:
        patch.setattr(
            os,
            "rename",
            lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", "x")),
        )
        with pytest.raises(DatasetError, match="No space left"):
            folder(photos)
    assert [entry.suffix for entry in (photos.parent / "cache" / "archives").iterdir()] == [".lock"]


def test_archives_in_class_folders_are_no_pictures(tree):
    (tree / "train" / "ant" / "more.zip").write_bytes(zipped(Part(b"../outside/new")))
    assert len(folder(packed(tree, "zip")).train) == 18
    assert ".zip" not in SUFFIXES


# One in-process run takes 2 seconds; that every refusal is an IntegrityError is shown without one.
RUN = [case for case in HOSTILE if case.name in ("zip overlap", "tar link")]


def bad_zip(sandbox, case):
    """The hostile archive, and the folder beside the sandbox where the cache is to be."""
    path = sandbox / "bad.zip"
    path.write_bytes(case.make(sandbox / "outside"))
    return path, sandbox.with_name(f"{sandbox.name}-cache")


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_hostile_archives_leave_nothing_in_the_cache_either(sandbox, case):
    path, cache = bad_zip(sandbox, case)
    before = listing(sandbox)
    with pytest.raises(IntegrityError, match=r"archive .*bad\.zip: .*nothing of it was unpacked"):
        folder(path, cache_dir=cache)
    assert listing(sandbox) == before
    assert [entry.suffix for entry in (cache / "archives").iterdir()] == [".lock"]


@pytest.mark.parametrize("case", RUN, ids=lambda case: case.name)
def test_a_run_of_a_hostile_archive_exits_with_4(sandbox, monkeypatch, case):
    from click.testing import CliRunner

    from kdbench.cli import main

    path, cache = bad_zip(sandbox, case)
    monkeypatch.setenv("KDBENCH_CACHE", str(cache))
    before = listing(sandbox)
    out = sandbox.with_name(f"{sandbox.name}-out")
    options = [
        "--attack",
        "badnets",
        "--pair",
        "wrn10_1-wrn10_1",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(main, ["run", *options, "--dataset", f"imagefolder:{path}"])
    assert done.exit_code == 4, done.output
    assert f"archive {path}: " in done.output
    assert "nothing of it was unpacked" in done.output
    assert listing(sandbox) == before
    assert [entry.suffix for entry in (cache / "archives").iterdir()] == [".lock"]
