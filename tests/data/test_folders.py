"""imagefolder, imagenet1k and flower17: layouts on disk and every error."""

from __future__ import annotations

import os

import pytest
import torch

from kdbench.data import load_dataset
from kdbench.errors import ConfigError, DatasetError
from tests.data.pictures import folder, save


def test_imagefolder(tree):
    data = folder(tree)
    assert data.class_names == ("ant", "bee", "cat")
    assert len(data.train) == 18
    assert len(data.test) == 9
    assert data.train.shape == (3, 8, 8)
    assert data.train.pixels[7, 0, 0, 0] == 90
    smaller = folder(tree, num_classes=2, train_size=4, test_size=2)
    assert smaller.train.labels.tolist() == [0, 0, 1, 1]
    assert smaller.num_classes == 2
    (tree / "test").rename(tree / "val")
    assert torch.equal(folder(tree).test.pixels, data.test.pixels)


def test_imagefolder_errors(tree):
    for wrong in ({"num_classes": 4}, {"train_size": 19}):
        with pytest.raises(ConfigError):
            folder(tree, **wrong)
    (tree / "train" / "ant" / "3.png").write_bytes(
        (tree / "train" / "ant" / "2.png").read_bytes()[:40]
    )
    with pytest.raises(DatasetError, match=r"3\.png"):
        folder(tree)
    for file in (tree / "test" / "bee").iterdir():
        file.unlink()
    (tree / "train" / "ant" / "3.png").unlink()
    with pytest.raises(DatasetError, match="bee holds no image"):
        folder(tree)
    (tree / "test" / "bee").rmdir()
    with pytest.raises(DatasetError, match="different classes: bee"):
        folder(tree)
    with pytest.raises(DatasetError, match="must contain train"):
        folder(tree / "train")
    with pytest.raises(DatasetError, match="no folder"):
        folder(tree / "absent")
    for name in ("ant", "bee", "cat"):
        (tree / "val" / name).mkdir(parents=True)
    with pytest.raises(DatasetError, match="expected 1000"):
        load_dataset("imagenet1k", data_dir=tree)


def test_sizes_keep_rows_by_the_seed(tree):
    first, again, other = (folder(tree, train_size=6, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.pixels, again.train.pixels)
    assert not torch.equal(first.train.pixels, other.train.pixels)
    assert torch.equal(first.test.pixels, other.test.pixels)


def test_a_folder_that_cannot_be_read(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DatasetError, match=r"cannot use .*/train/bee: Permission denied; check --data-dir"
    ):
        folder(tree)


def test_flower17(tmp_path):
    # Red tells the class, green the image within it.
    for row in range(1360):
        save(
            tmp_path / "jpg" / f"image_{row + 1:04d}.jpg",
            (row // 80 * 15, row % 80 * 3, 90),
            size=(8, 8),
            quality=100,
        )
    data, other = (
        load_dataset("flower17", data_dir=tmp_path, image_size=8, cache_dir=tmp_path / "c", seed=s)
        for s in (0, 1)
    )
    assert len(data.train) == 1190
    assert data.train.labels.bincount().tolist() == [70] * 17
    assert data.test.labels.bincount().tolist() == [10] * 17
    assert data.note == ""
    assert torch.equal(data.train.labels, other.train.labels)
    assert not torch.equal(data.train.pixels, other.train.pixels)
    rows = [
        part.labels * 80 + (part.pixels[:, 1, 0, 0] / 3).round().long()
        for part in (data.train, data.test)
    ]
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(1360))
    for part in (data.train, data.test):
        assert (part.pixels[:, 0, 0, 0].long() - 15 * part.labels).abs().max() <= 1
    (tmp_path / "jpg" / "files.txt").write_text("")
    save(tmp_path / "jpg" / "image_1361.jpg", 5)
    (tmp_path / "jpg" / "._image_0001.jpg").write_bytes(b"")
    within = load_dataset(
        "flower17", data_dir=tmp_path / "jpg", image_size=8, cache_dir=tmp_path / "c"
    )
    assert within.digest == data.digest
    assert within.left_out.by_reason() == {
        "hidden file": 1,
        "image of another name": 1,
        "suffix .txt": 1,
    }
    (tmp_path / "jpg" / "image_0500.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 1360 .*image_0500"):
        load_dataset("flower17", data_dir=tmp_path)
