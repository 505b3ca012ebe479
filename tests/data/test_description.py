"""What a run says of its images before anything is trained."""

from __future__ import annotations

import shutil

import torch

from kdbench.data import load as load_module
from kdbench.data import load_dataset
from kdbench.data.description import Shares, describe
from kdbench.data.fraction import drawn_share, held_out_images, others_images, provider_images
from kdbench.data.tensor import TensorImages
from tests.data.pictures import folder


def test_a_folder_in_words(tree):
    for k in range(4):
        (tree / "train" / "bee" / f"{k}.png").unlink()
    (tree / "train" / "bee" / "x.gif").write_bytes(b"")
    name = f"imagefolder:{tree}"
    assert describe(folder(tree), "the default").lines() == [
        f"{name}: images 8x8 (the default), 3 classes, 14 train, 9 test images, "
        "2 (bee) to 6 (ant) train images a class, in memory",
        f"{name}: left out 1 file or folder: suffix .gif (1); all in train/bee",
    ]


def test_every_dataset_has_such_a_line():
    signs = load_dataset("signs", train_size=40, test_size=20)
    assert describe(signs).lines() == [
        "signs: images 32x32, 10 classes, 40 train, 20 test images, 4 train images a class, "
        "in memory"
    ]


def test_a_streamed_set_says_why(tree, monkeypatch):
    monkeypatch.setattr(load_module, "MEMORY_LIMIT", 9 * 8 * 8 * 3)
    data = folder(tree, train_size=6)
    (line,) = describe(data).lines()
    assert line.endswith(
        "train streamed from disk, since 18 images of 8x8 take more than 1.688 KiB, test in memory"
    )
    monkeypatch.setattr(load_module, "MEMORY_LIMIT", 2**32)
    assert describe(data).train.why == "its loader streams them"


def test_plain_values_name_every_class_by_index(tree):
    shutil.rmtree(tree / "train" / "ant")
    shutil.rmtree(tree / "test" / "ant")
    (tree / "test" / "cat" / "x.txt").write_text("")
    values = describe(folder(tree)).as_dict()
    assert (values["class_names"], values["num_classes"]) == (("bee", "cat"), 2)
    assert values["train"] == {
        "images": 12,
        "least": {"name": "bee", "images": 6},
        "most": {"name": "bee", "images": 6},
        "streamed": False,
        "why": "",
    }
    assert values["left_out"] == (
        {"split": "test", "class_name": "cat", "reason": "suffix .txt", "count": 1},
    )


def test_a_class_that_a_small_choice_leaves_without_images(tree):
    data = folder(tree, train_size=2)
    assert describe(data).train.least.images == 0
    assert int(torch.as_tensor(data.train.labels).bincount(minlength=3).min()) == 0


def test_the_shares_are_as_large_as_what_is_drawn():
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate((57, 3, 1, 20))])
    images = TensorImages(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels)
    for transfer, clean in ((1.0, 1.0), (0.3, 1.0), (0.3, 0.4)):
        provider = provider_images(images, 2)
        deployer = drawn_share(provider, transfer, 5)
        sizes = [len(held_out_images(images, 2)), len(provider), len(deployer)]
        sizes.append(len(drawn_share(deployer, clean, 5)))
        shares = Shares.of(labels, 2, transfer, clean)
        assert [shares.held_out, shares.provider, shares.deployer, shares.defender] == sizes
        assert shares.unlabeled is None
        pool = drawn_share(others_images(provider, transfer, 5), 1.0, 5)
        assert Shares.of(labels, 2, transfer, clean, 1.0).unlabeled == len(pool)
    assert shares.line() == (
        "of the train images 8 are held out, the teacher's provider has 73, the deployer 24, the "
        "defender 11"
    )
    assert (
        Shares.of(labels, 2, 0.3, 0.4, 0.5).line()
        == f"{shares.line()} and 24 others without labels"
    )
