"""What a run takes from its imported teachers, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdbench.bench.plan.suspects import check_imported, taken_from, undescribed
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.store.teacher_record import Imported
from kdbench.errors import ConfigError

BASIS = dict.fromkeys(("image_size", "num_classes", "class_names"), "given")
NAMES = ("top", "middle", "low")


def teacher(name="mine", **changed):
    facts = {
        "key": "0" * 64,
        "model": "wrn10_1",
        "dataset": "stripes",
        "num_classes": 3,
        "image_size": 16,
        "origin": {},
        "class_names": NAMES,
        "class_order": "own",
        "dataset_classes": 3,
        "basis": BASIS,
    }
    return Imported(**{"name": name, **facts, **changed})


OLD = {"class_names": None, "class_order": None, "dataset_classes": None, "basis": {}}
ORDER = ("low", "middle", "top")
REORDERED = {"class_names": ORDER, "class_order": "file", "reordered": True}


@pytest.mark.parametrize(
    ("teachers", "fields", "taken"),
    [
        ([teacher()], {}, {"datasets": ["stripes"], "image_size": 16}),
        ([teacher(**OLD)], {}, {}),
        ([teacher(), teacher("old", **OLD)], {}, {"datasets": ["stripes"], "image_size": 16}),
        ([teacher()], {"datasets": ["signs"], "image_size": 32}, {}),
        ([teacher()], {"also": [{"datasets": ["signs"]}]}, {"image_size": 16}),
        ([teacher()], {"overrides": {"datasets.signs.image_size": "8"}}, {"datasets": ["stripes"]}),
        (
            [teacher(dataset_classes=9)],
            {"image_size": 16},
            {"datasets": ["stripes"], "num_classes": 3},
        ),
        (
            [teacher(**REORDERED)],
            {},
            {"datasets": ["stripes"], "image_size": 16, "class_names": ORDER},
        ),
    ],
)
def test_what_the_request_leaves_open(teachers, fields, taken):
    assert taken_from(teachers, fields) == taken


def test_the_folder_of_the_dataset_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    known = teacher(dataset="imagefolder:photos", folder=str(tmp_path / "photos"))
    monkeypatch.chdir(tmp_path)
    assert taken_from([known], {})["datasets"] == ["imagefolder:photos"]
    monkeypatch.chdir(tmp_path / "photos")
    assert taken_from([known], {})["datasets"] == [f"imagefolder:{tmp_path / 'photos'}"]
    cifar = teacher(dataset="cifar10", folder=str(tmp_path))
    assert taken_from([cifar], {})["data_dir"] == tmp_path
    assert "data_dir" not in taken_from([cifar], {"data_dir": tmp_path / "other"})


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"image_size": 32}, "mine was imported with --image-size 16, other with 32"),
        ({"dataset": "signs"}, "mine was imported with --dataset stripes, other with signs"),
        (REORDERED, r"other counts its classes in another order than mine \(other: low, middle"),
    ],
)
def test_two_teachers_that_differ_are_refused(other, says):
    with pytest.raises(ConfigError, match=says):
        taken_from([teacher(), teacher("other", **other)], {})


def test_one_folder_that_is_written_in_two_ways_is_one_dataset():
    both = [
        teacher(name, dataset=f"imagefolder:{path}", folder="/data/photos")
        for name, path in (("a", "photos"), ("b", "photos/"))
    ]
    assert taken_from(both, {})["datasets"] == ["imagefolder:/data/photos"]


def test_a_teacher_of_an_older_version_is_read_as_the_dataset_says():
    with pytest.raises(ConfigError, match="the dataset's own"):
        taken_from([teacher("old", **OLD), teacher(**REORDERED)], {})
    (line,) = undescribed([teacher(), teacher("old", **OLD)])
    assert "old was imported by an older kdbench" in line


SPEC = RunSpec(teacher_from=("mine",), pairs=(("wrn10_1", "wrn10_1"),))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"image_size": 32}, "was imported for images of 32x32, this run has images of 16x16"),
        (REORDERED, "counts its classes in another order than this run: class 0 is 'low', here"),
        ({"class_names": ("a", "b", "c")}, "knows other classes than stripes: class 0 is 'a'"),
        ({"class_names": None, "dataset": "signs"}, "was imported for signs, this run has stripes"),
        ({"num_classes": 2, "class_names": None}, "tells 2 classes apart, stripes has 3"),
    ],
)
def test_what_contradicts_the_teacher_is_refused(stripes, changed, says):
    check_imported(SPEC, teacher(), stripes, requested="stripes")
    with pytest.raises(ConfigError, match=says):
        check_imported(SPEC, teacher(**changed), stripes, requested="stripes")


def test_the_same_classes_in_another_folder_are_no_contradiction(stripes):
    check_imported(
        SPEC, teacher(dataset="imagefolder:moved"), stripes, requested="imagefolder:here"
    )
    known = teacher(class_names=None, dataset="gtsrb")
    check_imported(SPEC, known, replace(stripes, name="gtsrb-subset"), requested="gtsrb")


def test_a_teacher_of_an_older_version_is_checked_as_before(stripes):
    old = {**OLD, "image_size": 224, "dataset": "signs"}
    check_imported(SPEC, teacher(**old), stripes, requested="stripes")
