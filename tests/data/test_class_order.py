"""In which order classes are counted: as text, as numbers, or as a file says."""

from __future__ import annotations

import json

import pytest
import torch

from kdbench.data import TensorImages, load_dataset
from kdbench.data.base import Dataset
from kdbench.data.class_order import number_order, other_orders, read_order, recounted, text_order
from kdbench.data.source import DatasetSource
from kdbench.errors import ConfigError, ContractError
from tests.data.pictures import folder, save

NAMES = ("1", "10", "2", "b", "A")


def test_the_orders_are_those_of_torchvision_and_timm():
    assert text_order(NAMES) == ("1", "10", "2", "A", "b")
    assert number_order(NAMES) == ("1", "2", "10", "A", "b")
    assert number_order(("n9_z", "N10_a", "n9_a")) == ("n9_a", "n9_z", "N10_a")


def test_the_other_orders_say_which_output_stands_for_each_class():
    assert other_orders(("1", "10", "2")) == {"number": [0, 2, 1]}
    assert other_orders(("1", "2", "10")) == {"text": [0, 2, 1]}
    assert other_orders(("a", "b")) == {}


@pytest.mark.parametrize(
    "content",
    [
        "cat\nant\n",
        "\ufeffcat\r\nant\r\n\r\n",
        '["cat", "ant"]',
        json.dumps({"ant": 1, "cat": 0}),
        json.dumps({"1": "ant", "0": "cat"}),
        json.dumps({"0": ["cat", "a pet"], "1": ["ant", "an insect"]}),
    ],
)
def test_a_file_says_the_names_by_index(tmp_path, content):
    (tmp_path / "order").write_text(content, newline="")
    assert read_order(tmp_path / "order") == ("cat", "ant")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a\n\nb\n", "class 1 has no name"),
        ("a\na\n", "names 'a' twice"),
        ("", "class 0 has no name"),
        ('{"a": 0, "b": 2}', "its indices are not 0 to 1"),
        ('{"a": "0"}', "something else than names and whole numbers"),
        ('{"a": true, "b": 0}', "something else than names and whole numbers"),
        ("[1, 2]", "something else than names and whole numbers"),
        ("{", "no list of names"),
        (b"\xff\xfe", "in UTF-16"),
        (b"caf\xe9\n", "not in UTF-8"),
        ("caf\u00e9\ncafe\u0301\n", "names 'caf\u00e9' twice"),
        ('{"0": "a", "1": "a"}', "two indices one name"),
        ('{"0": "a", "2": "b"}', "its indices are not 0 to 1"),
        ('{"0": 0, "1": 2}', "its indices are not 0 to 1"),
        ('{"0": []}', "something else than names and whole numbers"),
    ],
)
def test_a_file_that_says_none_is_refused(tmp_path, content, says):
    path = tmp_path / "order"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=says):
        read_order(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_order(tmp_path / "absent")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Classes 1, 10 and 2; the gray level of a picture is ten times its class."""
    tree = tmp_path_factory.mktemp("numbers") / "tree"
    for part, count in (("train", 2), ("test", 1)):
        for name in ("1", "10", "2"):
            for number in range(count):
                save(tree / part / name / f"{number}.png", 10 * int(name))
    return tree


def names_seen(data):
    """The class of each test picture by its label, and by its gray level."""
    return [
        (data.class_names[label], str(level // 10))
        for label, level in zip(
            data.test.labels.tolist(), data.test.pixels[:, 0, 0, 0].tolist(), strict=True
        )
    ]


def test_a_dataset_is_loaded_in_the_order_of_the_request(tree):
    own = folder(tree)
    assert own.class_names == ("1", "10", "2")
    assert folder(tree, class_names=own.class_names).digest == own.digest
    counted = folder(tree, class_names=("1", "2", "10"))
    assert counted.class_names == ("1", "2", "10")
    assert all(label == level for label, level in names_seen(counted))
    assert counted.train_digest != own.train_digest
    assert counted.test_digest != own.test_digest


def test_accents_may_be_spelt_in_two_ways(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    for part in ("train", "test"):
        for name in (apart, "bar"):
            save(tmp_path / "tree" / part / name / "0.png", 1)
    own = folder(tmp_path / "tree")
    assert folder(tmp_path / "tree", class_names=("bar", composed)).digest == own.digest
    assert folder(tmp_path / "tree", class_names=(composed, "bar")).class_names == (apart, "bar")


def test_the_first_classes_are_those_of_the_order(tree):
    some = folder(tree, class_names=("2", "10", "1"), num_classes=2)
    assert (some.class_names, len(some.train)) == (("2", "10"), 4)
    assert all(label == level for label, level in names_seen(some))
    fewer = folder(tree, class_names=("10", "2"), num_classes=2)
    assert fewer.class_names == ("10", "2")


@pytest.mark.parametrize(
    ("order", "says"),
    [(("1", "2"), "name also '10'"), (("1", "2", "3"), "names '3', which the dataset")],
)
def test_an_order_of_other_classes_is_refused(tree, order, says):
    with pytest.raises(ConfigError, match=says):
        folder(tree, class_names=order)


def test_a_plugins_dataset_must_keep_the_order():
    images = TensorImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2))

    def load(request):
        facts = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "augmentation": None}
        return Dataset("x", images, images, 2, ("a", "b"), **facts, train_digest="", test_digest="")

    sources = {"x": DatasetSource(load, image_size=8)}
    with pytest.raises(ContractError, match="in the order of the request"):
        load_dataset("x", class_names=("b", "a"), sources=sources)


def test_a_view_leaves_the_set_as_it_was():
    images = TensorImages(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3))
    view = recounted(images, ("a", "b", "c"), ("c", "a"))
    assert view.labels.tolist() == [1, 0]
    assert images.labels.tolist() == [0, 1, 2]
