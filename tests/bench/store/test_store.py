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
from kdbench.bench.store.artefacts import DamagedError, Store, file_digest
from kdbench.bench.store.cached import CachedStore
from kdbench.bench.store.care import LAST_JOB, garbage, last_job
from kdbench.bench.store.manifest import MANIFEST, Manifest
from kdbench.cli import main
from kdbench.errors import ConfigError, IntegrityError
from kdbench.untrusted.box import remove_tree
from tests.sizes import size
from tests.untrusted.trees import make_outside, state

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
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert results.get(timeout=300) in range(8)
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
    assert "1 of 2 artefacts: damaged" in result.stderr
    assert (
        "would be deleted" in CliRunner().invoke(main, ["store", "gc", "--dry-run", *where]).output
    )
    assert (store.vault / "damaged").exists()
    assert CliRunner().invoke(main, ["store", "gc", *where]).exit_code == 0
    assert not list((store.vault / "damaged").iterdir())
    assert store.verified("cd" + "0" * 62) is not None


# -- hostile sources ------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    return make_outside(tmp_path / "outside")


def publish(store, source, names=("model.safetensors",), **more):
    return store.publish(KEY, source, names, **ABOUT | more)


def test_publishing_a_link_to_a_folder_touches_nothing_in_it(store, outside, tmp_path):
    """It used to delete all that was not named, and to write a manifest there."""
    before = state(outside)
    (tmp_path / "out").symlink_to(outside)
    with pytest.raises(IntegrityError, match="out/ is not what it should be"):
        publish(store, tmp_path / "out", ("secret",))
    publish(store, tmp_path / "out", ())
    assert store.find(KEY).files == {}
    assert state(outside) == before


def test_publishing_leaves_its_source_as_it_is(store, tmp_path):
    source = tmp_path / "out"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "manifest.json").write_text("{}")
    before = state(source)
    kept = publish(store, source)
    assert store.verified(KEY) == kept
    assert list(kept.files) == ["model.safetensors"]
    assert state(source) == before
    (source / "model.safetensors").write_bytes(b"later")  # by whoever still has it open
    assert store.verified(KEY) == kept


@pytest.mark.parametrize("name", [MANIFEST, "../secret", "/etc/passwd", "..", ""])
def test_reserved_names_are_refused(store, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match=r"name of a file|cannot be a file"):
        publish(store, tmp_path / "out", (name,))
    assert list(store) == []


def test_the_limit_is_that_of_all_files_and_known_before_any_is_read(store, tmp_path, monkeypatch):
    source = tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_bytes(bytes(100))
    publish(store, source, ("a", "b"), limit_bytes=200)
    with pytest.raises(IntegrityError, match="b is larger than the 99 bytes"):
        publish(store, source, ("a", "b"), limit_bytes=199)
    (source / "model.safetensors").touch()
    os.truncate(source / "model.safetensors", 24 << 30)
    monkeypatch.setattr(os, "read", None)
    with pytest.raises(IntegrityError, match="larger than"):
        publish(store, source, limit_bytes=1 << 30)
    assert not list((store.vault / "staging").iterdir())


def test_what_is_checked_is_what_is_kept(store, tmp_path):
    """The check sees the copy. The original may change between the check and its use."""
    source = tmp_path / "out"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"good")

    def check(folder):
        assert folder.parent == store.vault / "staging"
        assert (folder / "model.safetensors").read_bytes() == b"good"
        assert list(store) == [], "nothing is visible before it was checked"
        (source / "model.safetensors").write_bytes(b"bad")

    publish(store, source, check=check)
    assert (store.folder(KEY) / "model.safetensors").read_bytes() == b"good"
    assert store.verified(KEY) is not None


def test_what_fails_its_check_is_not_kept(store, tmp_path):
    source = tmp_path / "out"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"another network")

    def check(folder):
        raise IntegrityError("it is another network")

    with pytest.raises(IntegrityError, match="another network"):
        publish(store, source, check=check)
    assert list(store) == []
    assert not list((store.vault / "staging").iterdir())


def test_a_copy_out_is_compared_as_it_is_made(store, tmp_path, monkeypatch):
    keep(store)
    target = tmp_path / "copy"
    store.copy_out(KEY, "model.safetensors", target)
    assert target.read_bytes() == b"weights" * 100
    path, read = store.folder(KEY) / "model.safetensors", os.read

    def changed(handle, count):  # after the last moment at which anybody could have looked
        path.chmod(0o644)
        path.write_bytes(b"WEIGHTS" * 100)
        return read(handle, count)

    monkeypatch.setattr(os, "read", changed)
    with pytest.raises(DamagedError, match="damaged or gone") as error:
        store.copy_out(KEY, "model.safetensors", tmp_path / "other")
    assert error.value.key == KEY
    assert not (tmp_path / "other").exists()
    assert store.find(KEY) is None, "it is put aside"


@pytest.mark.parametrize("how", ["gone", "link", "longer", "no such name"])
def test_what_cannot_be_copied_out_is_put_aside(store, tmp_path, how):
    keep(store)
    path = store.folder(KEY) / "model.safetensors"
    if how in ("gone", "link"):
        path.unlink()
    if how == "link":
        path.symlink_to("/dev/zero")
    if how == "longer":
        path.chmod(0o644)  # root may write it as it is
        os.truncate(path, 1 << 40)
    name = "trigger.safetensors" if how == "no such name" else "model.safetensors"
    with pytest.raises(DamagedError):
        store.copy_out(KEY, name, tmp_path / "copy")
    assert not os.path.lexists(tmp_path / "copy")
    assert list(store) == []


def test_a_full_disk_is_no_damage(store, tmp_path, monkeypatch):
    keep(store)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            store.copy_out(KEY, "model.safetensors", tmp_path / "copy")
    assert store.verified(KEY) is not None


def test_a_file_with_a_further_name_is_no_damage(store, tmp_path):
    """Images get one for each job, and backups are made of them."""
    keep(store)
    os.link(store.folder(KEY) / "model.safetensors", tmp_path / "backup")
    store.copy_out(KEY, "model.safetensors", tmp_path / "copy")
    assert store.verified(KEY) is not None


def test_old_job_folders_are_garbage_and_young_ones_are_not(store):
    store.make_vault()
    names = {name: f"{number:032x}" for number, name in enumerate(("held", "left", "lost", "new"))}
    keys = {name: f"{number}{number}" + "0" * 62 for number, name in enumerate(("held", "left"))}
    for name, folder in names.items():
        (store.jobs / folder / "box").mkdir(parents=True)
        if name != "new":
            os.utime(store.jobs / folder, (0, 0))
    for name, key in keys.items():
        store.workspace(key).mkdir(parents=True)
        (store.workspace(key) / LAST_JOB).write_text(names[name])
        for path in (store.workspace(key) / LAST_JOB, store.workspace(key)):
            os.utime(path, (0, 0))
    lock = store.lock(keys["held"])
    found = garbage(store, 1)
    assert set(found) == {
        store.workspace(keys["left"]),
        store.jobs / names["left"],
        store.jobs / names["lost"],
    }
    lock.release()


@pytest.mark.parametrize("note", ["", "../../outside", "/etc", "a" * 31, "é" * 32, "0" * 32 + "\n"])
def test_a_note_of_a_job_is_a_name_and_nothing_else(store, note):
    store.make_vault()
    store.workspace(KEY).mkdir(parents=True)
    (store.workspace(KEY) / LAST_JOB).write_text(note)
    assert last_job(store, KEY) is None
