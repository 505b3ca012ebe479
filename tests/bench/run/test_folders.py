"""The folder of a job is made anew for each attempt, and nothing that a job leaves does harm."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.scale import Instant, any_result
from kdbench.bench.plan.build import build_plan
from kdbench.bench.plan.plan import Stage
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run import folders, runner
from kdbench.bench.run.events import Quiet
from kdbench.bench.run.folders import JobFolders
from kdbench.bench.run.profile import ProfileFolder
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.care import garbage, last_job, verify
from kdbench.bench.work.job import Done, Outcome
from kdbench.errors import IntegrityError
from kdbench.numerics import Numerics
from kdbench.untrusted.box import remove_tree
from tests.bench.run.test_scale import part_of
from tests.bench.store.test_store import ABOUT, KEY
from tests.sizes import size
from tests.untrusted.trees import make_outside, plant, state, trees


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.check_writable()
    return store


@pytest.fixture
def outside(tmp_path):
    return make_outside(tmp_path / "outside")


def inside(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


LAYOUT = {"in", "plugins", "box", "box/out", "box/checkpoints", "box/traces", "box/tmp"}


def test_each_attempt_has_a_new_folder_of_a_random_name(store):
    first = JobFolders(store).make(KEY)
    assert inside(first) == LAYOUT
    assert first.parent == store.jobs
    assert first.stat().st_mode & 0o777 == 0o700
    (first / "in" / "teacher").touch()
    second = JobFolders(store).make(KEY)
    assert second.name != first.name
    assert inside(second) == LAYOUT
    assert not first.exists()
    assert last_job(store, KEY) == second
    assert KEY not in str(second)
    JobFolders(store).remove(KEY)
    assert list(store.jobs.iterdir()) == list((store.vault / "work").iterdir()) == []


def test_checkpoints_are_taken_over_and_nothing_else(store, outside):
    folders = JobFolders(store)
    box = folders.make(KEY) / "box"
    left = box / "checkpoints"
    (left / "fit-0.safetensors").write_bytes(b"state")
    (left / "fit-1.safetensors").symlink_to(outside / "secret")
    os.link(outside / "secret", left / "fit-2.safetensors")
    os.mkfifo(left / "fit-3.safetensors")
    (left / "fit-4.safetensors").mkdir()
    (left / "fit-5.safetensors").touch()
    os.truncate(left / "fit-5.safetensors", 1 << 40)
    (left / "fit-6.safetensors").write_bytes(b"set-uid")
    (left / "fit-6.safetensors").chmod(0o6777)
    for name in ("fit-x.safetensors", "fit-٣.safetensors", "fit-7.safetensors\n", "fit-7.tmp"):
        (left / name).write_bytes(b"x")
    (box / "log").symlink_to(outside / "secret")
    (box.parent / "log.txt").touch()
    before = state(outside)
    folders.keep_checkpoints(KEY)
    kept = [last_job(store, KEY), *sorted(last_job(store, KEY).rglob("*"))]
    assert [path.name for path in kept[1:]] == [
        "box",
        "checkpoints",
        *(f"fit-{n}.safetensors" for n in (0, 5, 6)),
    ]
    assert all(stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFDIR, stat.S_IFREG) for path in kept)
    box = folders.make(KEY) / "box"
    taken = {path.name: path.read_bytes() for path in (box / "checkpoints").iterdir()}
    assert taken == {"fit-0.safetensors": b"state", "fit-6.safetensors": b"set-uid"}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (box / "checkpoints").iterdir()}
    assert modes == {0o600}
    assert state(outside) == before


@pytest.mark.parametrize("place", ["box/checkpoints", "box", "plugins", "in"])
def test_a_link_in_place_of_a_folder_is_not_followed(store, outside, place):
    """Only what is in the box can be replaced where the wall holds. The others are none either."""
    folders = JobFolders(store)
    folder = folders.make(KEY)
    remove_tree(folder / place)
    (folder / place).symlink_to(outside / "folder")
    (outside / "folder" / "fit-0.safetensors").write_bytes(b"of somebody else")
    (outside / "folder" / "checkpoints").mkdir()
    before = state(outside)
    if place != "box":  # nobody can replace the box itself: the folder above it is out of reach
        folders.keep_checkpoints(KEY)
    again = folders.make(KEY)
    assert inside(again) == LAYOUT
    folders.remove(KEY)
    assert state(outside) == before


def test_a_full_disk_keeps_the_last_folder(store, monkeypatch):
    folder = JobFolders(store).make(KEY)
    (folder / "box" / "checkpoints" / "fit-0.safetensors").write_bytes(b"state")

    def full(self, key, folder):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JobFolders, "_remember", full)
        with pytest.raises(OSError, match="No space left"):
            JobFolders(store).make(KEY)
    assert list(store.jobs.iterdir()) == [folder]
    again = JobFolders(store).make(KEY)
    assert (again / "box" / "checkpoints" / "fit-0.safetensors").read_bytes() == b"state"


def test_what_takes_too_long_to_remove_is_left_to_garbage_collection(store, monkeypatch):
    monkeypatch.setattr(folders, "_PATIENCE_S", 0.0)
    folder = JobFolders(store).make(KEY)
    (folder / "box" / "tmp" / "file").touch()
    JobFolders(store).remove(KEY)
    assert folder.exists()
    os.utime(folder, (0, 0))
    assert garbage(store, 1) == [folder]


def test_garbage_collection_keeps_the_checkpoints_of_a_run_that_was_interrupted(store):
    folder = JobFolders(store).make(KEY)
    os.utime(folder, (0, 0))  # a long training
    assert garbage(store, 1) == []
    for path in (store.workspace(KEY), store.workspace(KEY) / "job"):
        os.utime(path, (0, 0))
    assert set(garbage(store, 1)) == {store.workspace(KEY), folder}


@settings(
    max_examples=size(40, 1000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=trees)
def test_random_boxes(tmp_path, tree):
    """make soak: 1,000 boxes. Publishing, profiling, taking over checkpoints and garbage collection
    end, raise nothing but a refusal, and touch no file outside."""
    place = tmp_path / os.urandom(8).hex()
    outside = make_outside(place / "outside")
    before = state(outside)
    store = Store(place / "store")
    store.check_writable()
    stage = Stage("distill", KEY, 7, "title", 0, 0, {}, {}, (), {}, "")
    profile = ProfileFolder(place / "profile")
    profile.started(stage)
    folder = JobFolders(store).make(KEY)
    # A part of the tree is in place of each folder of the box.
    for name, (what, mode) in zip(("out", "checkpoints", "traces"), tree.values(), strict=False):
        remove_tree(folder / "box" / name)
        plant(folder / "box", {name: (what, mode)}, outside)
    plant(folder / "box", {f"more-{name}"[:200]: node for name, node in tree.items()}, outside)
    profile.ended(stage, Outcome("ok"), folder / "box" / "traces")
    try:
        kept = store.publish(
            KEY, folder / "box" / "out", ("model.safetensors",), **ABOUT, limit_bytes=1 << 20
        )
    except (IntegrityError, OSError):
        assert list(store) == []
    else:
        assert store.verified(KEY) == kept
        assert (store.folder(KEY) / "model.safetensors").read_bytes() != b"of somebody else"
    again = JobFolders(store).make(KEY)
    assert not folder.exists()
    for path in (again / "box" / "checkpoints").iterdir():
        assert stat.S_ISREG(path.lstat().st_mode)
    plant(again / "box" / "checkpoints", tree, outside)
    JobFolders(store).keep_checkpoints(KEY)
    for path in garbage(store, days=-1):
        remove_tree(path)
    assert list(store.jobs.iterdir()) == []
    assert verify(store)[1] == []
    assert state(outside) == before
    remove_tree(place)


# -- whole runs -----------------------------------------------------------------------------------


class Hostile(Instant):
    """Computes nothing, and does something to the box of each student before it ends."""

    def __init__(self, attack, status="ok", kind="distill"):
        super().__init__(images=120, held_out=24)
        self.attack, self.status, self.kind, self.seen = attack, status, kind, []

    def _do(self, job):
        super()._do(job)
        self.seen.append(job)
        if job.kind == self.kind:
            self.attack(job.folder / "box")
            self.events[-1] = Done(job.key, Outcome(self.status, "so it is"))


@pytest.fixture
def go(registry, stripes, store, tmp_path):
    spec = RunSpec(
        attacks=("badnets",),
        defenses=("none", "nad"),
        pairs=(("wrn10_1", "wrn10_1"),),
        controls=False,
    )
    part = part_of(stripes, spec, registry)

    def run(executor):
        ready = Prepared(spec, build_plan([part]), [part], Numerics())
        with any_result():
            return runner.run(ready, registry, tmp_path / "run", Quiet(), store, executor)

    return run


def test_a_result_that_is_a_link_to_a_folder_costs_a_row_and_no_file(go, outside, store):
    before = state(outside)

    def attack(box):
        remove_tree(box / "out")
        (box / "out").symlink_to(outside)

    rows = go(Hostile(attack))
    assert {row["status"] for row in rows} == {"failed"}
    assert all("out/ is not what it should be" in row["reason"] for row in rows)
    assert state(outside) == before
    assert list(store.jobs.iterdir()) == []


def test_a_second_attempt_writes_through_no_link_of_the_first(go, outside):
    before = state(outside)

    def attack(box):
        for name in ("out", "tmp", "checkpoints", "traces"):
            remove_tree(box / name)
            (box / name).symlink_to(outside / "folder")

    first = Hostile(attack, "crashed")
    assert {row["status"] for row in go(first)} == {"crashed"}
    second = Instant(images=120, held_out=24)
    assert {row["status"] for row in go(second)} == {"ok"}
    assert state(outside) == before


def holes(path):
    path.touch()
    os.truncate(path, 24 << 30)


@pytest.mark.parametrize(
    ("lay", "words"),
    [
        (os.mkfifo, "a pipe"),
        (holes, "larger than"),
        (lambda path: path.symlink_to("/dev/zero"), "a link"),
        (lambda path: path.mkdir(), "a folder"),
    ],
)
def test_a_result_that_is_no_file_of_a_network_costs_a_row(go, lay, words):
    def attack(box):
        (box / "out" / "model.safetensors").unlink()
        lay(box / "out" / "model.safetensors")

    rows = go(Hostile(attack))
    assert {row["status"] for row in rows} == {"failed"}
    assert all(words in row["reason"] for row in rows)


def test_files_that_nobody_asked_for_are_not_kept(go, store):
    def attack(box):
        (box / "out" / "manifest.json").write_text("{}")
        (box / "out" / "more").mkdir()

    assert {row["status"] for row in go(Hostile(attack))} == {"ok"}
    assert verify(store)[1] == []
    assert not list(store.vault.glob("objects/*/*/more"))


def test_a_stage_that_is_damaged_whenever_it_was_made_is_given_up(go, store):
    """It used to be computed again for ever."""

    class Spoiling(Instant):
        runs = 0

        def start(self, job):
            # As a broken disk would: what was published is no longer what was written.
            for path in store.vault.glob("objects/*/*/trigger.safetensors"):
                path.chmod(0o644)
                path.write_bytes(b"?")
            self.runs += job.kind == "backdoor"
            super().start(job)

    executor = Spoiling(images=120, held_out=24)
    rows = go(executor)
    assert {row["status"] for row in rows} == {"failed"}
    assert all("was damaged 2 times right after it was made" in row["reason"] for row in rows)
    assert executor.runs == 2
    assert len(list((store.vault / "damaged").iterdir())) == 2


def test_a_job_is_told_no_path_but_that_of_its_folder(go, store):
    executor = Hostile(lambda box: None)
    go(executor)
    assert {job.kind for job in executor.seen} >= {"clean", "backdoor", "distill", "repair"}
    for job in executor.seen:
        assert str(store.root) not in str({**job.task, "folder": ""})
        assert job.reads == ()
        assert job.key not in str(job.folder)
        assert Path(job.task["folder"]) == job.folder
