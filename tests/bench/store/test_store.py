"""The store: whole or not at all, never damaged, never in the way of a second writer."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import time

import pytest
from click.testing import CliRunner

from kdbench.bench.store import artefacts as store_module
from kdbench.bench.store.artefacts import Store, file_digest
from kdbench.bench.store.cached import CachedStore
from kdbench.bench.store.care import garbage
from kdbench.bench.store.manifest import MANIFEST, Manifest
from kdbench.cli import main
from kdbench.errors import ConfigError
from kdbench.untrusted.box import remove_tree
from tests.sizes import size

KEY = "ab" + "0" * 62
ABOUT = {
    "kind": "clean",
    "title": "train",
    "facts": {},
    "seconds": 1.5,
    "peak_mb": 2.0,
    "ingredients": {"a": 1},
}


def keep(store, key=KEY, data=b"weights" * 100, **facts):
    with store.scratch() as source:
        (source / "model.safetensors").write_bytes(data)
        (source / "scratch.txt").write_text("not part of it")
        return store.publish(key, source, ("model.safetensors",), **ABOUT | {"facts": facts})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_an_artefact_comes_back_as_it_was(store):
    kept = keep(store, loss=0.1)
    found = store.verified(KEY)
    assert found == kept
    assert (found.facts, found.size, found.kind) == ({"loss": 0.1}, 700, "clean")
    assert sorted(p.name for p in store.folder(KEY).iterdir()) == [MANIFEST, "model.safetensors"]
    assert found.files["model.safetensors"]["sha256"] == file_digest(
        store.folder(KEY) / "model.safetensors"
    )
    assert list(store) == [KEY]
    assert store.find("cd" + "0" * 62) is None


def test_whoever_comes_second_keeps_the_first_result(store):
    first = keep(store)
    second = keep(store, data=b"other")
    assert second == first
    assert store.verified(KEY) == first


def test_a_damaged_first_gives_way_to_the_second(store):
    keep(store)
    (store.folder(KEY) / MANIFEST).write_bytes(b"{}")
    kept = keep(store, data=b"other")
    assert store.verified(KEY) == kept
    assert len(list((store.vault / "damaged").iterdir())) == 1


def test_every_flipped_bit_and_every_truncation_is_found(tmp_path):
    """Numbers of the suite; make soak flips 200 bits and cuts 100 times."""
    rng = random.Random(7)
    flips, cuts = size(60, 200), size(30, 100)
    found = 0
    for n in range(flips + cuts):
        store = Store(tmp_path / str(n))
        keep(store, data=rng.randbytes(rng.randrange(1, 3000)), loss=rng.random())
        path = store.folder(KEY) / rng.choice([MANIFEST, "model.safetensors"])
        data = bytearray(path.read_bytes())
        if n < flips:
            bit = rng.randrange(len(data) * 8)
            data[bit // 8] ^= 1 << bit % 8
        else:
            data = data[: rng.randrange(len(data))]
        path.chmod(0o644)
        path.write_bytes(data)
        assert store.verified(KEY) is None, (n, path.name)
        assert not store.folder(KEY).exists(), "it is put aside"
        assert store.find(KEY) is None
        found += 1
        shutil.rmtree(tmp_path / str(n))
    assert found == flips + cuts


def test_other_damage_is_found_as_well(store, tmp_path):
    def damage(how):
        shutil.rmtree(store.root, ignore_errors=True)
        keep(store)
        how(store.folder(KEY))
        return store.verified(KEY)

    def swap(folder):
        (folder / "model.safetensors").unlink()
        (tmp_path / "elsewhere").write_bytes(b"weights" * 100)
        (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")

    def another(folder):
        other = "cd" + "0" * 62
        keep(store, other)
        (folder / MANIFEST).unlink()
        shutil.copy(store.folder(other) / MANIFEST, folder)

    assert damage(lambda folder: None) is not None
    for how in (
        swap,
        another,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text("[" * 100_000),
        lambda folder: (folder / MANIFEST).write_text("null"),
    ):
        assert damage(how) is None


def test_a_manifest_that_was_edited_is_refused():
    made = Manifest(KEY, "clean", "t", {"a": 1}, {}, 1.0, 1.0, 1.0, {})
    data = made.encoded()
    assert Manifest.decoded(data) == made
    edited = json.loads(data)
    edited["facts"]["a"] = 2
    for wrong in (json.dumps(edited).encode(), data + b" ", data.replace(b'"a":1', b'"a": 1')):
        with pytest.raises(ValueError, match="seal"):
            Manifest.decoded(wrong)


@pytest.mark.parametrize("fails", ["fsync", "rename", "write"])
def test_a_full_disk_leaves_nothing_visible(store, monkeypatch, fails):
    real = {"fsync": os.fsync, "rename": os.rename}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if fails == "write":
            patch.setattr(store_module, "_write", full)
        else:
            patch.setattr(os, fails, full)
        with pytest.raises(OSError, match="No space left"):
            keep(store)
    assert real["fsync"] is os.fsync
    assert list(store) == []
    assert not list((store.vault / "staging").iterdir())
    assert keep(store) == store.verified(KEY)


def test_bytes_are_on_the_disk_before_the_name_is(store, monkeypatch):
    """kill -9 cannot show this, a power cut would: every file and its folder are synced before the
    rename."""
    seen = []
    sync, rename = os.fsync, os.rename

    def synced(handle):
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def renamed(a, b):
        seen.append("rename")
        rename(a, b)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    keep(store)
    before = seen[: seen.index("rename")]
    (staging,) = set(before) - {"model.safetensors", MANIFEST}
    assert re.fullmatch("[0-9a-f]{32}", staging), "and the folder that is renamed"
    assert seen.index("rename") < len(seen) - 1, (
        "the folder that has the new name is synced after it"
    )


def test_only_what_can_be_made_again_is_published_unsynced(store, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    keep(store)
    assert len(synced) == 4, "the file, the manifest, their folder, and the one above it"
    synced.clear()
    row = "cd" + "0" * 62
    kept = store.publish(row, None, (), **ABOUT | {"kind": "row"}, synced=False)
    assert not synced
    assert store.verified(row) == kept


def test_a_run_reads_a_manifest_once_until_damage_is_found(store, monkeypatch):
    cached, reads = CachedStore(store.root), []
    plain = store_module._bytes
    monkeypatch.setattr(store_module, "_bytes", lambda path: reads.append(path) or plain(path))
    assert cached.find(KEY) is None
    kept = keep(store)
    assert cached.find(KEY) == cached.find(KEY) == cached.verified(KEY) == kept, (
        "what was not there is looked for again"
    )
    assert len(reads) == 3, "where nothing is, the first time, and where its files are compared"
    store.put_aside(KEY)  # by another run, which then makes it anew
    again = keep(store, data=b"made anew")
    assert cached.verified(KEY) == cached.find(KEY) == again != kept
    path = store.folder(KEY) / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(b"tampered")
    assert cached.verified(KEY) is None
    assert cached.find(KEY) is None


def test_what_is_published_between_two_looks_is_not_damaged(store, monkeypatch):
    plain, kept = store_module._bytes, []

    def published_meanwhile(path):
        data = plain(path)
        if data is None and path.endswith(MANIFEST) and not kept:
            kept.append(keep(store))
        return data

    store.make_vault()
    monkeypatch.setattr(store_module, "_bytes", published_meanwhile)
    found = store.find(KEY)
    assert [found] == kept
    assert not (store.vault / "damaged").exists()
    (store.folder(KEY) / MANIFEST).unlink()
    assert store.find(KEY) is None
    assert len(list((store.vault / "damaged").iterdir())) == 1


def _race(root, number, results):
    store = Store(root)
    lock = None
    while lock is None and store.find(KEY) is None:
        lock = store.lock(KEY)
    if lock is not None:
        if store.find(KEY) is None:
            results.put(number)
            time.sleep(0.05)
            keep(store, data=bytes([number]) * 10)
        lock.release()
    assert store.verified(KEY) is not None


def test_a_stage_is_computed_by_one_of_several_processes(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_race, args=(tmp_path / "s", n, results)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert results.get(timeout=1) in range(8)
    assert results.empty()


def test_a_store_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--store"):
        Store(tmp_path / "file" / "below").check_writable()


def test_garbage_is_what_nobody_needs(store):
    keep(store)
    store.workspace(KEY).mkdir(parents=True)  # left over: the stage is done
    young, old = "11" + "0" * 62, "22" + "0" * 62
    for key in (young, old):
        store.workspace(key).mkdir()
    os.utime(store.workspace(old), (0, 0))
    held = "33" + "0" * 62
    store.workspace(held).mkdir()
    os.utime(store.workspace(held), (0, 0))
    lock = store.lock(held)
    found = garbage(store, days=1)
    assert {path.name for path in found if path.parent.name == "work"} == {KEY, old}
    lock.release()
    for path in found:
        remove_tree(path)
    assert store.verified(KEY) is not None, "nothing that is alive goes"
    assert store.workspace(young).exists()
    assert garbage(store, days=1, unused_days=1) == [store.workspace(held)]
    os.utime(store.folder(KEY) / MANIFEST, (0, 0))
    assert store.folder(KEY) in garbage(store, days=1, unused_days=1)
    store.touch(KEY)
    assert store.folder(KEY) not in garbage(store, days=1, unused_days=1)


def test_the_command_line_lists_verifies_and_tidies(store):
    keep(store)
    keep(store, "cd" + "0" * 62)
    where = ["--store", str(store.root)]
    listed = CliRunner().invoke(main, ["store", "ls", *where])
    assert listed.exit_code == 0
    assert "2 results, 0 rows" in listed.output
    told = [
        json.loads(line)
        for line in CliRunner().invoke(main, ["store", "ls", "--json", *where]).output.splitlines()
    ]
    assert [t["bytes"] for t in told] == [700, 700]
    assert (
        "2 artefacts, no damage found"
        in CliRunner().invoke(main, ["store", "verify", *where]).output
    )
    path = store.folder(KEY) / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(b"tampered")
    result = CliRunner().invoke(main, ["store", "verify", *where])
    assert result.exit_code == 4
    assert "1 of 2 artefacts are damaged" in result.stderr
    assert (
        "would be deleted" in CliRunner().invoke(main, ["store", "gc", "--dry-run", *where]).output
    )
    assert (store.vault / "damaged").exists()
    assert CliRunner().invoke(main, ["store", "gc", *where]).exit_code == 0
    assert not list((store.vault / "damaged").iterdir())
    assert store.verified("cd" + "0" * 62) is not None
