"""What belongs to a dataset of files: one rule at every depth, and a count of all that does not."""

from __future__ import annotations

import os
import shutil
import socket

import pytest

from kdbench.data import load as load_module
from kdbench.data import load_dataset
from kdbench.data.members import Members
from kdbench.errors import ConfigError, DatasetError
from tests.data.pictures import folder, save


@pytest.fixture
def ant(tree):
    """A class folder of 6 training images."""
    return tree / "train" / "ant"


def reasons(data):
    return data.left_out.by_reason()


def copies(source, target):
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.png"):
        shutil.copy(path, target)


@pytest.mark.parametrize("at", ["train/ant", "train/ant/deeper", "train/ant/a/b/c", "test/ant"])
def test_hidden_and_system_names_are_left_out_at_every_depth(tree, ant, at):
    plain = folder(tree)
    place = tree / at
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", ".git"):
        copies(ant, place / name / "x.png")
    (place / "._0.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (place / ".DS_Store").write_bytes(b"\0")
    data = folder(tree)
    assert data.digest == plain.digest
    assert reasons(data) == {"system folder": 3, "hidden file": 2, "hidden folder": 2}
    assert {(entry.split, entry.class_name) for entry in data.left_out.counts} == {
        (at.split("/")[0], "ant")
    }


def test_beside_the_class_folders_the_same_rule_holds(tree):
    plain = folder(tree)
    copies(tree / "train" / "ant", tree / "train" / ".ipynb_checkpoints")
    copies(tree / "train" / "ant", tree / "train" / "__MACOSX")
    (tree / "train" / "labels.csv").write_text("a,b\n")
    save(tree / "train" / "stray.png", 3)
    data = folder(tree)
    assert data.digest == plain.digest
    assert reasons(data) == {
        "file beside the class folders": 2,
        "hidden folder": 1,
        "system folder": 1,
    }


@pytest.mark.parametrize("limit", [2**32, 0], ids=["in memory", "streamed"])
def test_what_is_no_regular_file_is_never_opened(tree, ant, monkeypatch, limit):
    plain = folder(tree)
    os.mkfifo(ant / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(ant / "socket.png"))
    (ant / "device.png").symlink_to("/dev/zero")
    (ant / "gone.png").symlink_to("nowhere.png")
    (ant / "loop.png").symlink_to("loop.png")
    (ant / "below.png").symlink_to("0.png/x.png")
    (ant / "linked pipe.png").symlink_to("pipe.png")
    monkeypatch.setattr(load_module, "MEMORY_LIMIT", limit)
    data = folder(tree)
    assert len(data.train) == 18
    assert limit == 0 or data.digest == plain.digest
    assert reasons(data) == {"broken link": 2, "pipe": 2, "device": 1, "link loop": 1, "socket": 1}


def test_suffixes(tree, ant):
    for name in (
        "0.gif",
        "1.GIF",
        "2.jfif",
        "0.xml",
        "Thumbs.db",
        "desktop.ini",
        "noname",
        "x.p\tng",
    ):
        (ant / name).write_bytes(b"GIF8")
    shutil.copy(ant / "0.png", ant / "7.PNG")
    save(ant / "8.JPG", 9)
    data = folder(tree)
    assert len(data.train) == 20
    assert reasons(data) == {
        "suffix .gif": 2,
        "suffix .jfif": 1,
        "suffix .xml": 1,
        "suffix .db": 1,
        "suffix .ini": 1,
        "suffix '.p\\tng'": 1,
        "no suffix": 1,
    }


def test_a_link_to_a_folder_is_followed(tree, ant, tmp_path):
    for k in range(4):
        save(tmp_path / "more" / "deep" / f"{k}.png", 200 + k)
    (ant / "more").symlink_to(tmp_path / "more")
    data = folder(tree)
    assert data.train.labels.bincount().tolist() == [10, 6, 6]
    assert data.left_out.total == 0
    (ant / "more").unlink()
    shutil.copytree(tmp_path / "more", ant / "more")
    assert folder(tree).digest == data.digest


def test_each_folder_counts_once(tree, ant, tmp_path):
    plain = folder(tree)
    copies(tree / "test" / "bee", tmp_path / "more")
    links = {
        "a circle": ant,
        "up": tree,
        "root": "/",
        "another class": tree / "train" / "bee",
        "test": tree / "test" / "ant",
    }
    for name, target in links.items():
        (ant / name).symlink_to(target)
    data = folder(tree)
    assert data.digest == plain.digest
    assert reasons(data) == {
        "link to a folder that is counted already": 3,
        "link to a folder that holds this one": 2,
    }
    # The second way to the same folder adds nothing, nor does a way back from there.
    (ant / "more").symlink_to(tmp_path / "more")
    (ant / "once more").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "back").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "to the set").symlink_to(tree)
    data = folder(tree)
    assert len(data.train) == len(plain.train) + 3
    assert data.left_out.total == 8


def test_the_rows_are_sorted_by_path_whatever_is_linked(tree, ant, tmp_path):
    copies(ant, tmp_path / "more")
    (ant / "3").symlink_to(tmp_path / "more")
    (ant / "later").mkdir()
    (ant / "later" / "0.png").symlink_to(ant / "0.png")
    (paths,) = Members().images({"train": (tree / "train", ["ant"])})["train"]
    assert paths == sorted(paths)
    assert len(paths) == 13


def test_folders_may_lie_very_deep(tree, ant):
    deep = ant
    for _ in range(1100):
        deep = deep / "d"
        try:
            deep.mkdir()
        except OSError:
            pytest.skip("the file system allows no such depth")
    save(deep / "x.png", 5)
    assert len(folder(tree).train) == 19
    # pytest would remove them by calls as deep as the folders, and fail after some later run.
    (deep / "x.png").unlink()
    while deep != ant:
        deep.rmdir()
        deep = deep.parent


def test_a_linked_class_folder_may_lead_into_another_class(tree, ant):
    """It always could, and what is linked as a class is a class."""
    for part in ("train", "test"):
        (tree / part / "dog").symlink_to(tree / part / "ant")
    data = folder(tree)
    assert data.class_names == ("ant", "bee", "cat", "dog")
    assert data.train.labels.bincount().tolist() == [6, 6, 6, 6]


def test_a_class_of_left_out_files_only_says_what_is_there(tree, ant):
    for path in ant.iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(
        DatasetError,
        match=r"train/ant holds no image file; left out 6 files or folders: suffix \.gif \(6\); "
        r"all in train/ant; put pictures there, or remove the class from train/ and test/",
    ):
        folder(tree)


def test_a_size_that_is_too_large_says_what_was_left_out(tree, ant):
    for path in list(ant.iterdir())[:2]:
        path.rename(path.with_suffix(".gif"))
    (tree / "test" / "bee" / ".hidden.png").write_bytes(b"")
    with pytest.raises(
        ConfigError,
        match=r"train_size is 1000; the dataset allows 1\.\.16; left out 2 files or folders: "
        r"suffix \.gif \(2\); all in train/ant$",
    ):
        folder(tree, train_size=1000)
    with pytest.raises(ConfigError, match=r"allows 1\.\.9; left out 1 .*hidden file \(1\)"):
        folder(tree, test_size=1000)


def test_classes_that_are_not_asked_for_do_not_count(tree):
    (tree / "train" / "cat" / "x.gif").write_bytes(b"")
    assert folder(tree, num_classes=2).left_out.total == 0
    assert folder(tree).left_out.line() == (
        "left out 1 file or folder: suffix .gif (1); all in train/cat"
    )


def test_the_sum_says_where_most_was_left_out(tree, ant):
    for place, count in ((ant, 3), (tree / "test" / "cat", 1)):
        for k in range(count):
            (place / f"{k}.txt").write_text("")
    (ant / "x.gif").write_text("")
    data = folder(tree)
    assert data.left_out.line() == (
        "left out 5 files or folders: suffix .txt (4), suffix .gif (1); most in train/ant (4)"
    )
    assert data.left_out.of_split("test").total == 1


def test_gtsrb_and_flower17_keep_the_rule(signs43, tmp_path):
    training = signs43 / "GTSRB" / "Training" / "00007"
    os.mkfifo(training / "pipe.ppm")
    (training / "GT-00007.csv").write_text("")
    copies(training, training / ".hidden")
    save(training / "._x.ppm", 1)
    save(signs43 / "GTSRB" / "Final_Test" / "Images" / "99999.ppm", 1)
    data = load_dataset(
        "gtsrb", data_dir=signs43.parent, cache_dir=tmp_path / "cache", image_size=8
    )
    assert (len(data.train), len(data.test)) == (43, 43)
    assert reasons(data) == {
        "hidden file": 1,
        "hidden folder": 1,
        "pipe": 1,
        "suffix .csv": 1,
        "image that is not in GT-final_test.csv": 1,
    }
