"""The entry of an imported teacher: what it may hold, and what becomes of one that was edited."""

from __future__ import annotations

import json
import os
import time

import pytest

from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.care import garbage
from kdbench.bench.store.teacher_record import Reading, check_normalization
from kdbench.bench.store.teachers import (
    load_teacher,
    read_entry,
    remove_teacher,
    rename_teacher,
    save_teacher,
    teacher_names,
)
from kdbench.errors import ConfigError, IntegrityError, UnknownMethodError
from kdbench.models import create_model
from kdbench.models.files import read_structure

HALF = (0.5, 0.5, 0.5)
BASIS = dict.fromkeys(("image_size", "num_classes", "class_names", "normalization"), "given")
READING = Reading(
    class_names=("a", "c", "b"),
    class_order="file",
    reordered=True,
    mean=HALF,
    std=HALF,
    basis=BASIS,
)


@pytest.fixture(scope="module")
def weights():
    return create_model("wrn10_1", 3).state_dict()


@pytest.fixture
def keep(tmp_path, weights):
    """Keeps a teacher in a store, and answers its key."""

    def keep(name="mine", **changed):
        facts = {"model": "wrn10_1", "dataset": "stripes", "num_classes": 3, "image_size": 16}
        return save_teacher(tmp_path, name, weights, {"sha256": "abc"}, **(facts | changed))

    return keep


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def entry(store, name="mine"):
    return store.vault / "teachers" / f"{name}.json"


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "--mean 0.4851,0.4561,0.4059 --std 0.229"),
        ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "divide both by 255: --mean 0,0,0 --std 1,1,1"),
        ((-0.1, 0.0, 0.0), HALF, "from 0 to 1"),
        (HALF, (0.0, 0.5, 0.5), "above 0"),
        (HALF, (-1.0, 0.5, 0.5), "above 0"),
        ((float("nan"), 0.5, 0.5), HALF, "must be a number"),
        (HALF, (float("inf"), 0.5, 0.5), "must be a number"),
    ],
)
def test_mean_and_std_are_those_of_images_in_0_to_1(mean, std, says):
    with pytest.raises(ConfigError, match=says):
        check_normalization(mean, std)
    check_normalization((0.0, 0.5, 1.0), (0.004, 0.5, 1.0))


def test_how_it_is_read_is_recorded(keep, store):
    key = keep(reading=READING)
    found = load_teacher(store, "mine")
    assert (found.key, found.class_names, found.mean, found.basis) == (
        key,
        ("a", "c", "b"),
        HALF,
        BASIS,
    )
    assert found.is_described
    assert found.imported is not None
    _, record, _ = read_structure(store.folder(key) / "model.safetensors")
    assert record == {"normalization": {"mean": list(HALF), "std": list(HALF)}}


def test_an_entry_of_an_older_version_is_read_and_says_what_is_not_known(keep, store):
    key = keep()
    old = {"key": key, "model": "wrn10_1", "dataset": "stripes", "num_classes": 3}
    old |= {"image_size": 16, "origin": {"sha256": "abc"}}
    entry(store).write_text(json.dumps(old))
    found = load_teacher(store, "mine")
    assert not found.is_described
    assert (found.order_text(), found.normalization_text()) == ("not recorded", "not recorded")
    known = Reading(class_names=("a", "b", "c"), basis={"image_size": "assumed"})
    assert keep(reading=known) == key, "more is known of it now, and it is the same network"
    assert load_teacher(store, "mine").is_described


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_classes": "3"}, "num_classes"),
        ({"num_classes": 3.5}, "num_classes"),
        ({"image_size": -1}, "image_size"),
        ({"key": "../../etc"}, "its key is no SHA-256"),
        ({"mean": [9, 9, 9]}, "mean"),
        ({"mean": [0.5]}, "mean"),
        ({"class_names": ["a"]}, "1 name for 3 classes"),
        ({"class_order": "backwards"}, "class_order"),
        ({"basis": {"image_size": "me"}}, "basis"),
        ({"basis": {"normalization": "given"}}, "no mean and std"),
        ({"extra": 1}, "extra"),
        ({"origin": None}, "origin"),
        ({"model": None}, "model"),
    ],
)
def test_an_entry_that_was_edited_is_refused_with_the_field(keep, store, changes, says):
    keep()
    edited = json.loads(entry(store).read_text()) | changes
    entry(store).write_text(json.dumps(edited))
    with pytest.raises(IntegrityError, match="kdbench teacher rm mine") as caught:
        load_teacher(store, "mine")
    assert says in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"[" * 10_000, b'"text"', b"{"])
def test_an_entry_that_is_no_table_is_refused(keep, store, content):
    key = keep()
    entry(store).write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        load_teacher(store, "mine")
    assert keep() == key, "the message says to import it again"
    entry(store).write_bytes(content)
    remove_teacher(store, "mine")
    assert teacher_names(store) == []


def test_an_entry_that_is_a_pipe_is_refused_and_not_waited_for(keep, store):
    keep()
    entry(store).unlink()
    os.mkfifo(entry(store))
    with pytest.raises(UnknownMethodError):
        load_teacher(store, "mine")


def test_a_stray_file_is_no_teacher(keep, store):
    keep()
    entry(store, "My Notes").write_text("{}")
    assert teacher_names(store) == ["mine"]


def test_the_same_file_read_otherwise_says_what_differs(keep, store):
    keep()
    with pytest.raises(ConfigError, match="of the same file: side 16, now 32; add --replace"):
        keep(image_size=32)
    with pytest.raises(ConfigError, match="of the same file"):
        keep(reading=READING)
    key = keep(image_size=32, replace=True)
    assert read_entry(store, "mine").key == key


def test_a_store_that_cannot_be_written_is_named(keep, store):
    keep()
    (store.vault / "teachers").rename(store.vault / "elsewhere")
    (store.vault / "teachers").touch()
    with pytest.raises(ConfigError, match="cannot be written to"):
        keep("other")


def test_other_classes_of_the_same_network_need_no_replacing(keep, store):
    own = Reading(class_names=("a", "b", "c"), class_order="own", basis=BASIS | NORMAL)
    key = keep(reading=own)
    other = own.model_copy(update={"class_names": ("a", "c", "b"), "class_order": "number"})
    assert keep(reading=other) == key
    assert read_entry(store, "mine").class_names == ("a", "c", "b")


NORMAL = {"normalization": "assumed"}


def test_a_teacher_gets_another_name(keep, store):
    key = keep()
    keep("other")
    rename_teacher(store, "mine", "yours")
    assert read_entry(store, "yours").key == key
    for old, new, error in (
        ("mine", "x", UnknownMethodError),
        ("yours", "other", ConfigError),
        ("yours", "../x", ConfigError),
        ("yours", "x" * 300, ConfigError),
        ("../x", "y", UnknownMethodError),
    ):
        with pytest.raises(error):
            rename_teacher(store, old, new)
    assert teacher_names(store) == ["other", "yours"]


def test_weights_without_a_name_stay_a_week_for_runs_that_use_them(keep, store):
    folder = store.folder(keep())
    keep("again")
    remove_teacher(store, "mine")
    assert folder not in garbage(store, 14, unused_days=-1), "another name has them"
    remove_teacher(store, "again")
    assert folder not in garbage(store, 14, unused_days=0), "a run may use them"
    for path in folder.iterdir():
        os.utime(path, (0, time.time() - 8 * 86400))
    assert folder in garbage(store, 14, unused_days=0)
    assert folder not in garbage(store, 14)


def test_no_weights_go_while_an_entry_cannot_be_read(keep, store):
    folder = store.folder(keep())
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    entry(store).write_text("{")
    assert folder not in garbage(store, 14, unused_days=0)
