"""How an imported teacher will be read, and who says so."""

from __future__ import annotations

import pytest

from kdbench.bench.plan.teacher_reading import Stated, TeacherReading
from kdbench.data.builtin import DATASETS
from kdbench.data.folders import MEAN, STD
from kdbench.errors import ConfigError
from kdbench.untrusted.weights.hub import Hints
from tests.data.pictures import save

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path):
    for part in ("train", "test"):
        for name in ("1", "10", "2"):
            save(tmp_path / "tree" / part / name / "0.png", 10 * int(name))
    return f"imagefolder:{tmp_path / 'tree'}"


def reading(dataset, **stated):
    return TeacherReading(Stated(dataset, **stated), DATASETS)


def test_what_nobody_said_is_assumed(tree, tmp_path):
    how = reading(tree, image_size=8)
    assert (how.image_size, how.num_classes) == ((8, "given"), (3, "dataset"))
    found = how.reading()
    assert (found.class_names, found.class_order, found.reordered) == (
        ("1", "10", "2"),
        "own",
        False,
    )
    assert (found.mean, found.std) == (MEAN, STD)
    assert found.basis == {
        "image_size": "given",
        "num_classes": "dataset",
        "class_names": "assumed",
        "normalization": "assumed",
    }
    assert not found.own_normalization
    assert found.folder == str(tmp_path / "tree")
    assert reading(tree).image_size == (224, "assumed")


def test_what_is_said_is_recorded(tree):
    found = reading(tree, image_size=8, class_order="number", mean=HALF, std=HALF).reading()
    assert (found.class_names, found.class_order) == (("1", "2", "10"), "number")
    assert found.reordered
    assert found.own_normalization
    text = reading(tree, image_size=8, class_order="text").reading()
    assert (text.class_order, text.reordered) == ("text", False)


def test_an_order_may_name_some_of_the_classes(tree, tmp_path):
    (tmp_path / "order").write_text("2\n1\n")
    two = {"image_size": 8, "class_order": str(tmp_path / "order")}
    assert reading(tree, num_classes=2, **two).reading().class_names == ("2", "1")
    with pytest.raises(ConfigError, match="name also '10'"):
        reading(tree, **two).reading()


def test_what_a_hub_says_is_taken_where_nobody_else_says_it(tree):
    hints = Hints(3, 16, HALF, HALF, ("2", "1", "10"))
    how = reading(tree, hints=hints)
    assert (how.image_size, how.num_classes) == ((16, "hub"), (3, "hub"))
    found = how.reading()
    assert (found.class_names, found.mean) == (("2", "1", "10"), HALF)
    assert found.basis["class_names"] == found.basis["normalization"] == "hub"
    given = reading(tree, hints=hints, image_size=8, mean=MEAN, std=STD).reading()
    assert (given.mean, given.basis["normalization"]) == (MEAN, "given")
    strange = reading(tree, hints=Hints(3, 8, labels=("x", "y", "z"))).reading()
    assert (strange.class_names, strange.class_order) == (("1", "10", "2"), "own")


def test_a_dataset_that_is_not_here_says_little(tmp_path):
    how = reading("cifar10")
    found = how.reading()
    assert (how.num_classes, how.image_size) == ((10, "dataset"), (32, "assumed"))
    assert (found.class_names, found.mean, found.folder) == (None, None, None)
    assert "--data-dir" in how.absent
    with pytest.raises(ConfigError, match="the names of the classes are not known here"):
        reading("cifar10", class_order="number").reading()
    (tmp_path / "order").write_text("".join(f"{n}\n" for n in range(10)))
    named = reading("cifar10", class_order=str(tmp_path / "order")).reading()
    assert named.class_names == tuple(map(str, range(10)))
    assert named.reordered


@pytest.mark.parametrize(
    ("dataset", "stated", "says"),
    [
        ("imagefolder:nowhere", {}, r"images of 224x224.*give --num-classes"),
        ("signs", {"mean": HALF}, "give both"),
        ("signs", {"mean": (124.0, 116.0, 104.0), "std": HALF}, "divide both by 255"),
        ("signs", {"class_order": "nowhere"}, "text, number, or the name of a file"),
    ],
)
def test_what_cannot_be_is_refused(dataset, stated, says):
    with pytest.raises(ConfigError, match=says):
        reading(dataset, **stated).reading()
