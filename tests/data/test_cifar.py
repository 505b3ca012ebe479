"""CIFAR through torchvision."""

from __future__ import annotations

import numpy as np
import pytest

from kdbench.data import Augmentation, load_dataset
from kdbench.errors import DatasetError


def test_cifar_never_unpickles_what_it_cannot_verify(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    marker = tmp_path / "ran"
    evil = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(evil)
    with pytest.raises(
        DatasetError, match=r"MD5 sums; pass --download, or unpack cifar-10-python\.tar\.gz"
    ):
        load_dataset("cifar10", data_dir=tmp_path)
    assert not marker.exists()
    with pytest.raises(DatasetError, match="cifar-100-python"):
        load_dataset("cifar100", data_dir=tmp_path)


def test_cifar(tmp_path, monkeypatch):
    from torchvision import datasets

    class Fake:
        base_folder, filename, classes = (
            "cifar-10-batches-py",
            "x.tar.gz",
            [str(k) for k in range(10)],
        )

        def __init__(self, root, train, download):
            self.data = np.full((20 if train else 10, 32, 32, 3), 7, dtype=np.uint8)
            self.targets = [k % 10 for k in range(len(self.data))]

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    data = load_dataset("cifar10", data_dir=tmp_path)
    assert data.train.shape == (3, 32, 32)
    assert data.augmentation == Augmentation(4, True)
    assert data.mean[0] == pytest.approx(0.4914, abs=1e-4)
    small = load_dataset("cifar10", data_dir=tmp_path, image_size=16, num_classes=3, train_size=3)
    assert sorted(small.train.labels.tolist()) == [0, 1, 2]
    assert (small.train.pixels == 7).all()


@pytest.mark.parametrize("at", [".", "cifar10", "cifar-10-batches-py"])
def test_cifar_one_folder_too_high_or_too_deep(tmp_path, monkeypatch, at):
    from torchvision import datasets

    roots = []

    class Fake:
        base_folder, filename, classes = "cifar-10-batches-py", "x.tar.gz", ["a", "b"]

        def __init__(self, root, train, download):
            roots.append(root)
            self.data = np.zeros((4, 32, 32, 3), dtype=np.uint8)
            self.targets = [0, 1, 0, 1]

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    holder = tmp_path / "cifar10" if at == "cifar10" else tmp_path
    (holder / "cifar-10-batches-py").mkdir(parents=True)
    (holder / "cifar-10-batches-py" / "._data_batch_1").write_bytes(b"")
    load_dataset("cifar10", data_dir=tmp_path / at if at.startswith("cifar-") else tmp_path)
    assert {str(root) for root in roots} == {str(holder)}


def test_an_archive_of_cifar_that_is_not_unpacked(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    (tmp_path / "cifar-10-batches-bin").mkdir()
    with pytest.raises(
        DatasetError,
        match=r"pass --download \(it unpacks .*tar\.gz\), or unpack .*it holds "
        r"cifar-10-batches-bin/, cifar-10-python\.tar\.gz",
    ):
        load_dataset("cifar10", data_dir=tmp_path)
