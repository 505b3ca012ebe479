"""A folder that hostile code wrote, or still writes, is read and removed without harm."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings

from kdbench.errors import IntegrityError
from kdbench.untrusted.box import (
    Copied,
    copy_file,
    file_names,
    prune,
    read_file,
    remove_tree,
    temporary_folder,
)
from tests.sizes import size
from tests.untrusted.trees import make_outside, plant, state, trees

NAME, LIMIT = "model.safetensors", 1 << 20


@pytest.fixture
def outside(tmp_path):
    return make_outside(tmp_path / "outside")


@pytest.fixture
def out(tmp_path):
    """What a job was to leave its results in."""
    folder = tmp_path / "box" / "out"
    folder.mkdir(parents=True)
    return folder


def copy(folder, target, limit=LIMIT, name=NAME):
    """Copy the file; nothing may be left where that is refused."""
    try:
        return copy_file(folder, name, target, limit)
    except BaseException:
        assert not os.path.lexists(target)
        raise


def test_a_regular_file_is_copied_and_hashed(out, tmp_path):
    (out / NAME).write_bytes(b"weights" * 1000)
    (out / NAME).chmod(0o6777)
    copied = copy(out, tmp_path / "copy")
    assert copied == Copied(hashlib.sha256(b"weights" * 1000).hexdigest(), 7000)
    assert (tmp_path / "copy").read_bytes() == b"weights" * 1000
    assert read_file(out, NAME, 7000) == b"weights" * 1000
    assert (tmp_path / "copy").stat().st_mode & 0o7777 == 0o444
    assert (tmp_path / "copy").stat().st_ino != (out / NAME).stat().st_ino
    with pytest.raises(FileExistsError):
        copy_file(out, NAME, tmp_path / "copy", LIMIT)


def link(path, outside):
    path.symlink_to(outside / "secret")


def link_to_zero(path, outside):
    path.symlink_to("/dev/zero")


def link_to_itself(path, outside):
    path.symlink_to(path.name)


def link_to_nothing(path, outside):
    path.symlink_to(outside / "nothing")


def hard_link(path, outside):
    os.link(outside / "secret", path)


def two_names(path, outside):
    path.write_bytes(b"x")
    os.link(path, path.with_name("other"))


def pipe(path, outside):
    os.mkfifo(path)


def folder(path, outside):
    path.mkdir()


def unix_socket(path, outside):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))


def holes(path, outside):
    path.touch()
    os.truncate(path, 1 << 40)


def one_byte_more(path, outside):
    path.write_bytes(bytes(LIMIT + 1))


def device(path, outside):
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root can make a device node")


def nothing(path, outside):
    return


@pytest.mark.parametrize(
    ("lay", "words"),
    [
        (link, "a link"),
        (link_to_zero, "a link"),
        (link_to_itself, "a link"),
        (link_to_nothing, "a link"),
        (hard_link, "a hard link"),
        (two_names, "a hard link"),
        (pipe, "a pipe"),
        (folder, "a folder"),
        (unix_socket, "a socket"),
        (device, "a device"),
        (holes, "larger than"),
        (one_byte_more, "larger than"),
        (nothing, "missing"),
    ],
)
def test_anything_else_is_refused_at_once(out, outside, tmp_path, monkeypatch, lay, words):
    monkeypatch.chdir(out)
    before = state(outside)
    lay(out / NAME, outside)
    with pytest.raises(IntegrityError, match=words):
        copy(out, tmp_path / "copy")
    with pytest.raises(IntegrityError, match=words):
        read_file(out, NAME, LIMIT)
    assert state(outside) == before


@pytest.mark.parametrize("to", ["outside/folder", "box/out", "/proc/self", "nowhere"])
def test_a_folder_that_is_a_link_is_not_followed(out, outside, tmp_path, to):
    out.rmdir()
    out.symlink_to(tmp_path / to)
    (outside / "folder" / NAME).write_bytes(b"of somebody else")
    before = state(outside)
    with pytest.raises(IntegrityError, match="out/ is not what it should be"):
        copy(out, tmp_path / "copy")
    with pytest.raises(IntegrityError, match="out/ is not what it should be"):
        read_file(out, NAME, LIMIT)
    assert file_names(out, 10) == []
    remove_tree(out)
    assert not os.path.lexists(out)
    assert state(outside) == before


def test_a_pipe_in_place_of_the_folder_does_not_block(out, tmp_path):
    out.rmdir()
    os.mkfifo(out)
    with pytest.raises(IntegrityError, match="out/ is not what it should be"):
        copy(out, tmp_path / "copy")
    assert file_names(out, 10) == []
    remove_tree(out)
    assert not os.path.lexists(out)


@pytest.mark.parametrize("name", ["", ".", "..", "../outside/secret", "/etc/passwd", "a/b"])
def test_a_name_does_not_lead_out_of_the_folder(out, outside, tmp_path, name):
    with pytest.raises(ValueError, match="no name of a file"):
        copy(out, tmp_path / "copy", name=name)


def test_a_file_that_grows_while_it_is_copied_ends_at_the_limit(out, tmp_path, monkeypatch):
    (out / NAME).write_bytes(b"x")
    read = os.read

    def growing(handle, count):
        with (out / NAME).open("ab") as file:
            file.write(bytes(1000))
        return read(handle, count)

    monkeypatch.setattr(os, "read", growing)
    with pytest.raises(IntegrityError, match="larger than the 5000 bytes"):
        copy(out, tmp_path / "copy", limit=5000)


@pytest.mark.parametrize("change", [b"", b"other bytes, and more of them"])
def test_the_digest_is_that_of_the_copy_whatever_becomes_of_the_file(
    out, tmp_path, monkeypatch, change
):
    """Somebody who still has the file open writes it while it is copied, and afterwards."""
    (out / NAME).write_bytes(b"good" * 100)
    read = os.read

    def changed(handle, count):
        piece = read(handle, 8)
        (out / NAME).write_bytes(change)
        return piece

    with (out / NAME).open("r+b") as survivor:
        monkeypatch.setattr(os, "read", changed)
        copied = copy(out, tmp_path / "copy")
        monkeypatch.undo()
        survivor.write(b"later")
    data = (tmp_path / "copy").read_bytes()
    assert copied == Copied(hashlib.sha256(data).hexdigest(), len(data))


def swap(path, other, stop):
    """Put two things in each other's place, as fast as it goes."""
    third = path.with_name("third")
    while not stop.is_set():
        os.rename(path, third)
        os.rename(other, path)
        os.rename(third, other)


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_survivor_that_swaps_a_file_for_a_link_wins_nothing(out, outside, tmp_path, whole_folder):
    """make soak: 20,000 looks at what changes all the time."""
    (out / NAME).write_bytes(b"mine")
    (outside / "folder" / NAME).write_bytes(b"of somebody else")
    before = state(outside)
    place = out if whole_folder else out / NAME
    other = place.with_name("other")
    other.symlink_to(outside / "folder" if whole_folder else outside / "folder" / NAME)
    stop = threading.Event()
    survivor = threading.Thread(target=swap, args=(place, other, stop))
    survivor.start()
    try:
        for n in range(size(500, 20_000)):
            target = tmp_path / f"copy{n}"
            try:
                copy_file(out, NAME, target, LIMIT)
            except (IntegrityError, OSError):
                assert not target.exists()
            else:
                assert target.read_bytes() == b"mine"
                target.unlink()
    finally:
        stop.set()
        survivor.join()
    assert state(outside) == before, "nor has a file outside changed its rights"


def test_a_lease_does_not_block(out, tmp_path):
    """Whoever opens a file with a lease waits for its holder, 45 seconds in most kernels."""
    (out / NAME).write_bytes(b"weights")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the holder is told by a signal
    with (out / NAME).open("r+b") as held:
        try:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            pytest.skip(f"no leases here: {error}")
        with pytest.raises(BlockingIOError):
            copy(out, tmp_path / "copy")
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    signal.signal(signal.SIGIO, before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_rights_is_an_error(out, tmp_path):
    (out / NAME).write_bytes(b"weights")
    (out / NAME).chmod(0)
    with pytest.raises(PermissionError):
        copy(out, tmp_path / "copy")


def test_further_attributes_are_left_behind(out, tmp_path):
    (out / NAME).write_bytes(b"weights")
    try:
        os.setxattr(out / NAME, "user.note", b"to a neighbour")
    except OSError as error:
        pytest.skip(f"no attributes here: {error}")
    copy(out, tmp_path / "copy")
    assert os.listxattr(tmp_path / "copy") == []


def test_a_full_disk_leaves_nothing(out, tmp_path, monkeypatch):
    (out / NAME).write_bytes(b"weights")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        copy(out, tmp_path / "copy")


def test_names_are_those_of_the_folder_and_not_too_many(out):
    assert file_names(out, 10) == []
    assert file_names(out / "absent", 10) == []
    for n in range(100):
        (out / f"{n}\n\x1b[2J").touch()
    assert len(file_names(out, 10)) == 10
    assert len(file_names(out, 1000)) == 100


# -- removing -------------------------------------------------------------------------------------


def test_a_tree_is_removed_and_nothing_that_it_links_to(out, outside):
    before = state(outside)
    (out / "file").write_bytes(bytes(10_000))
    (out / "link").symlink_to(outside / "folder")
    (out / "below").mkdir()
    (out / "below" / "link").symlink_to(outside)
    os.link(outside / "secret", out / "below" / "hard")
    os.mkfifo(out / "below" / "pipe")
    (out / "shut").mkdir()
    (out / "shut" / "in").mkdir()
    (out / "shut" / "in" / "file").touch()
    for path in (out / "shut" / "in", out / "shut", out):
        path.chmod(0)
    assert remove_tree(out) in range(10_000, 50_000)
    assert not out.exists()
    assert state(outside) == before
    assert remove_tree(out) == 0, "there is nothing any more"


def test_a_single_file_or_link_is_removed(out, outside):
    (out / "link").symlink_to(outside / "folder")
    (out / "file").touch()
    for name in ("link", "file"):
        remove_tree(out / name)
    assert os.listdir(out) == []
    assert (outside / "folder" / "kept").exists()


def test_pruning_keeps_what_is_named_and_follows_no_link(out, outside):
    for name in ("kept", "gone"):
        (out / name).touch()
        (out / f"{name} folder").mkdir()
        (out / f"{name} folder" / "link").symlink_to(outside / "folder")
    (out / "link").symlink_to(outside)
    (out.parent / "link").symlink_to(outside / "folder")
    before = state(outside)
    prune(out, lambda name, facts: name.startswith("kept") and not stat.S_ISLNK(facts.st_mode))
    assert sorted(os.listdir(out)) == ["kept", "kept folder"]
    prune(out.parent / "link", lambda name, facts: False)
    prune(out.parent / "nowhere", lambda name, facts: False)
    assert state(outside) == before


#: Makes folders in each other: their path is longer than a path may be.
_DEEP = "import os\nfor _ in range({}): os.mkdir('d'); open('f', 'w').close(); os.chdir('d')"


def test_a_deep_tree_is_removed(out):
    """More levels than a path, the stack or the open files of a process can have. make soak: 10,000
    of them."""
    deep = _DEEP.format(size(3_000, 10_000))
    subprocess.run([sys.executable, "-I", "-c", deep], cwd=out, check=True)
    (out / "d" / "d").chmod(0o500)
    remove_tree(out)
    assert not out.exists()


def test_a_temporary_folder_goes_however_deep_it_became():
    with temporary_folder("kdbench-test-") as folder:
        command = [sys.executable, "-I", "-S", "-c", _DEEP.format(1_500)]
        subprocess.run(command, cwd=folder, check=True)
    assert not folder.exists()


def test_many_files_are_removed(out):
    """make soak: 100,000."""
    for n in range(size(2_000, 100_000)):
        os.close(os.open(out / f"fit-{n}.safetensors", os.O_CREAT))
    assert len(file_names(out, 1000)) == 1000
    remove_tree(out, seconds=0.0)
    assert out.exists(), "patience is limited"
    remove_tree(out)
    assert not out.exists()


def test_what_cannot_be_removed_stays_and_the_rest_goes(out):
    (out / "kept").touch()
    (out / "gone").touch()
    done = subprocess.run(["chattr", "+i", out / "kept"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("no file can be made immutable here")
    try:
        remove_tree(out)
        assert os.listdir(out) == ["kept"]
    finally:
        subprocess.run(["chattr", "-i", out / "kept"], check=True)


def test_a_survivor_that_goes_on_writing_is_not_waited_for(out):
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            try:
                (out / f"folder{n}").mkdir()
                (out / f"folder{n}" / "file").touch()
            except OSError:
                return  # the folder is gone

    survivor = threading.Thread(target=write)
    survivor.start()
    try:
        remove_tree(out, seconds=1.0)
    finally:
        stop.set()
        survivor.join()
    remove_tree(out)
    assert not out.exists()


@settings(
    max_examples=size(60, 1000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=trees)
def test_random_trees(tmp_path, tree):
    """make soak: 1,000 folders. No file outside changes, nothing blocks, and all is removed."""
    place = tmp_path / os.urandom(8).hex()
    place.mkdir()
    outside = make_outside(place / "outside")
    before = state(outside)
    box = place / "box"
    box.mkdir()
    plant(box, tree, outside)
    for name in (*file_names(box, 100), NAME):
        target = place / "copy"
        try:
            copied = copy_file(box, name, target, LIMIT)
        except (IntegrityError, OSError):
            assert not target.exists()
        else:
            assert target.stat().st_size == copied.bytes <= LIMIT
            assert target.read_bytes() != b"of somebody else"
            target.unlink()
    remove_tree(box)
    assert not box.exists()
    assert state(outside) == before
    remove_tree(place)
