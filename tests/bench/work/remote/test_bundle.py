"""A job is the same on another machine, and no path of this one goes along."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.bench.work.remote.bundle import Packer, absent, listing, unpack
from tests.bench.work.remote.jobs import companion_of, laid_out


def there(record, bundle, folder):
    return unpack(record, folder, bundle.blobs)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_job_arrives_as_it_was_laid_out(tmp_path):
    job = laid_out(tmp_path / "near")
    job = replace(job, companions=(companion_of(job.folder),), limit_bytes=99)
    bundle = Packer().pack(job)
    far = there(bundle.records[0], bundle, tmp_path / "far")
    assert files_of(far.folder) == files_of(job.folder)
    assert far.task == {**job.task, "folder": str(tmp_path / "far")}
    (companion,) = far.companions
    assert companion.order["file"] == str(tmp_path / "far/in/model.safetensors")
    assert companion.order["plugins"] == str(tmp_path / "far/plugins/network")
    assert companion.reads == (
        tmp_path / "far/in/model.safetensors",
        tmp_path / "far/plugins/network",
    )
    same = ("key", "kind", "title", "reads", "limit_bytes")
    assert [getattr(far, name) for name in same] == [getattr(job, name) for name in same]
    for name in ("out", "checkpoints", "traces", "tmp"):
        assert (far.folder / "box" / name).is_dir()


def test_no_path_of_this_machine_goes_along(tmp_path):
    job = laid_out(tmp_path / "near")
    job = replace(job, companions=(companion_of(job.folder),))
    assert str(tmp_path) not in json.dumps(Packer().pack(job).records)


def test_the_same_bytes_have_one_digest_and_are_read_once(tmp_path, monkeypatch):
    first, second = laid_out(tmp_path / "a", "a"), laid_out(tmp_path / "b", "b")
    packer = Packer()
    one = packer.pack(first)
    images = hashlib.sha256(b"images").hexdigest()
    assert one.records[0]["files"]["in/images.safetensors"] == images
    read = []
    monkeypatch.setattr(
        "kdbench.bench.work.remote.bundle.file_digest",
        lambda path: read.append(path.name) or hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    two = packer.pack(replace(second, beside=(laid_out(tmp_path / "c", "c"),)))
    assert "images.safetensors" not in read
    assert [record["key"] for record in two.records] == ["b", "c"]
    assert images in two.blobs


def test_what_a_job_may_read_it_cannot_change(tmp_path):
    job = laid_out(tmp_path / "near")
    bundle = Packer().pack(job)
    far = there(bundle.records[0], bundle, tmp_path / "far")
    # Inputs are further names of what the machine keeps; what the job may write is its own.
    kept = bundle.blobs[bundle.records[0]["files"]["in/model.safetensors"]]
    assert (far.folder / "in" / "model.safetensors").stat().st_ino == kept.stat().st_ino
    checkpoint = "box/checkpoints/fit-0.safetensors"
    kept = bundle.blobs[bundle.records[0]["files"][checkpoint]]
    assert (far.folder / checkpoint).stat().st_ino != kept.stat().st_ino


@pytest.mark.parametrize("change", ["removed", "another size", "one more"])
def test_a_machine_with_other_pictures_is_noticed(tmp_path, change):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.png", "b.png"):
        (pictures / name).write_bytes(b"1234")
    job = laid_out(tmp_path / "near", reads=(pictures,))
    (record,) = Packer().pack(job).records
    assert absent(record) == []
    if change == "removed":
        (pictures / "a.png").unlink()
    elif change == "another size":
        (pictures / "a.png").write_bytes(b"12345")
    else:
        (pictures / "c.png").write_bytes(b"1")
    assert absent(record) == [str(pictures)]


def test_a_path_that_is_not_there_has_no_listing(tmp_path):
    assert listing(Path(tmp_path / "nothing")) == ""
    (tmp_path / "file").write_bytes(b"x")
    assert listing(tmp_path / "file")
