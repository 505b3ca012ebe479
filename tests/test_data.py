"""Image sets and datasets: bytes, order, augmentation, layouts on disk and every error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.data import Augmentation, TensorImages, dataset_names, load_dataset
from kdbench.data import decode as decode_module
from kdbench.data.common import stratified_rows
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import draw_shifts
from kdbench.errors import ConfigError, DatasetError, UnknownMethodError


def some_images(count=10, height=6, width=7):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    return TensorImages(pixels, torch.arange(count) % 3)


def save(path: Path, value: int, size=(9, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path)


SIGNS_MEAN = 106.61


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# -- TensorImages ------------------------------------------------------------------------------------------------


def test_plain_batches_in_order():
    images = some_images()
    batches = list(images.batches(4))
    assert [len(b.labels) for b in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([b.positions for b in batches]), torch.arange(10))
    assert torch.equal(torch.cat([b.labels for b in batches]), images.labels)
    stacked = torch.cat([b.images for b in batches])
    assert stacked.dtype == torch.float32
    assert stacked.shape == (10, 3, 6, 7)
    assert torch.equal(stacked, images.pixels.float() / 255)
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)
    assert [len(b.labels) for b in images.batches(4, drop_last=True)] == [4, 4]


def test_shuffled_batches_match_their_positions():
    images = some_images()
    batches = list(images.batches(4, generator=seeded()))
    positions = torch.cat([b.positions for b in batches])
    assert not torch.equal(positions, torch.arange(10))
    assert torch.equal(positions.sort().values, torch.arange(10))
    for b in batches:
        assert torch.equal(b.images, images.read(b.positions))
        assert torch.equal(b.labels, images.labels[b.positions])


def test_augmentation_is_pad_crop_flip():
    images, augmentation = some_images(), Augmentation(pad=2, flip=True)
    batch = next(images.batches(10, generator=seeded(3), augmentation=augmentation))
    replay = seeded(3)
    order = torch.randperm(10, generator=replay)
    down, right, mirror = draw_shifts(10, augmentation, replay)
    assert mirror.any()
    assert not mirror.all()
    assert down.unique().numel() > 1
    for k in range(10):
        padded = np.pad(images.pixels[order[k]].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        crop = padded[:, 2 + down[k] : 8 + down[k], 2 + right[k] : 9 + right[k]]
        expected = crop[:, :, ::-1] if mirror[k] else crop
        assert np.array_equal((batch.images[k] * 255).round().byte().numpy(), expected)


def test_augmentation_repeats_and_leaves_the_global_generator_alone():
    images = some_images()
    state = torch.get_rng_state()
    first, again, other = (
        torch.cat([b.images for b in images.batches(3, generator=seeded(s), augmentation=Augmentation(1))]) for s in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_bytes_on_the_gpu():
    images = some_images(50)
    for here, there in zip(
        images.batches(16, generator=seeded(), augmentation=Augmentation(2)),
        images.batches(16, generator=seeded(), augmentation=Augmentation(2), device="cuda"),
        strict=True,
    ):
        assert torch.equal(here.images, there.images.cpu())
        assert torch.equal(here.positions, there.positions.cpu())


def test_subset_extended_read():
    images = some_images()
    part = images.subset(torch.tensor([4, 4, 1]))
    assert torch.equal(part.pixels, images.pixels[[4, 4, 1]])
    assert part.labels.tolist() == [1, 1, 1]
    longer = part.extended(images.read(torch.tensor([0, 9])), torch.tensor([2, 0]))
    assert longer.labels.tolist() == [1, 1, 1, 2, 0]
    assert len(part) == 3
    assert torch.equal(longer.pixels[3:], images.pixels[[0, 9]])
    assert len(images.subset(torch.empty(0, dtype=torch.int64))) == 0


@pytest.mark.parametrize(
    "action",
    [
        lambda i: i.subset(torch.tensor([10])),
        lambda i: i.read(torch.tensor([-1])),
        lambda i: i.subset(torch.ones(10, dtype=torch.bool)),
        lambda i: i.extended(torch.zeros(1, 3, 5, 5), torch.zeros(1)),
        lambda i: i.extended(torch.zeros(1, 3, 6, 7), torch.zeros(2)),
        lambda i: list(i.batches(0)),
        lambda i: list(i.batches(2, augmentation=Augmentation(pad=6))),
        lambda i: TensorImages(torch.zeros(2, 3, 4, 4), torch.zeros(2)),
        lambda i: TensorImages(i.pixels, torch.zeros(3)),
    ],
)
def test_bad_use_is_a_config_error(action):
    with pytest.raises(ConfigError):
        action(some_images())


# -- signs -------------------------------------------------------------------------------------------------------


def test_signs_repeat_and_do_not_depend_on_how_many():
    small, again = (load_dataset("signs", image_size=16, train_size=30, test_size=20) for _ in range(2))
    assert torch.equal(small.train.pixels, again.train.pixels)
    assert small.digest == again.digest
    larger = load_dataset("signs", image_size=16, train_size=300, test_size=20)
    assert torch.equal(larger.train.pixels[:30], small.train.pixels)
    assert larger.digest != small.digest
    more = load_dataset("signs", image_size=16, train_size=64, test_size=64, num_classes=64)
    assert torch.equal(more.train.pixels[:10], small.train.pixels[:10])
    assert len(set(more.class_names)) == 64
    other = load_dataset("signs", image_size=16, train_size=30, test_size=20, seed=1)
    assert not torch.equal(other.train.pixels, small.train.pixels)


def test_signs_train_and_test_are_disjoint_and_balanced():
    data = load_dataset("signs", image_size=16, train_size=200, test_size=100)
    train = {row.numpy().tobytes() for row in data.train.pixels}
    test = {row.numpy().tobytes() for row in data.test.pixels}
    assert len(train) == 200
    assert len(test) == 100
    assert not train & test
    assert data.train.labels.bincount().tolist() == [20] * 10
    assert data.image_size == 16
    assert data.num_classes == 10
    assert data.augmentation == Augmentation(1, flip=False)


def test_signs_do_not_drift():
    # A change here changes every published figure on signs.
    data = load_dataset("signs", image_size=8, train_size=20, test_size=10)
    assert abs(data.train.pixels.double().mean().item() - SIGNS_MEAN) < 0.05


@pytest.mark.parametrize(
    "wrong",
    [{"num_classes": 1}, {"num_classes": 65}, {"image_size": 7}, {"image_size": 513}, {"train_size": 0},
     {"seed": -1}, {"test_size": 1.5}, {"train_size": True}],
)  # fmt: skip
def test_signs_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load_dataset("signs", **wrong)


# -- names and imports -------------------------------------------------------------------------------------------


def test_unknown_names():
    assert "signs" in dataset_names()
    with pytest.raises(UnknownMethodError, match="did you mean 'cifar10'"):
        load_dataset("cifar1O")
    with pytest.raises(UnknownMethodError):
        load_dataset("signs:somewhere")
    with pytest.raises(ConfigError, match="imagefolder:PATH"):
        load_dataset("imagefolder")


def test_import_is_light():
    code = "import sys, kdbench.data; sys.exit(bool({'torchvision', 'PIL'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stratified_rows():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    rows = stratified_rows(labels, 20, 0)
    assert labels[rows].bincount().tolist() == [12, 6, 2]
    assert len(rows.unique()) == 20
    assert torch.equal(rows, stratified_rows(labels, 20, 0))
    assert not torch.equal(rows, stratified_rows(labels, 20, 1))


# -- folders -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    for part, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("ant", "bee", "cat")):
            for k in range(count):
                save(tmp_path / "set" / part / name / f"{k}.png", 80 * label + 10 * k + (part == "test"))
    return tmp_path / "set"


def folder(tree, **more):
    return load_dataset(f"imagefolder:{tree}", cache_dir=tree.parent / "cache", **{"image_size": 8, **more})


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
    (tree / "train" / "ant" / "3.png").write_bytes((tree / "train" / "ant" / "2.png").read_bytes()[:40])
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


def test_cache_is_used_and_rebuilt(tree, monkeypatch):
    first = folder(tree)
    entries = sorted((tree.parent / "cache").iterdir())
    assert len(entries) == 2
    assert all(e.suffix == ".safetensors" for e in entries)
    with monkeypatch.context() as patch:
        patch.setattr(decode_module, "decode_image", lambda *a: pytest.fail("decoded again"))
        assert folder(tree).digest == first.digest
    for damage in (lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:50], lambda b: b""):
        for entry in entries:
            entry.write_bytes(damage(entry.read_bytes()))
        assert folder(tree).digest == first.digest
    save(tree / "train" / "ant" / "0.png", 7)
    assert folder(tree).digest != first.digest


def test_streamed_images_match_decoded_ones(tree, monkeypatch):
    held = folder(tree).train
    with monkeypatch.context() as patch:
        patch.setattr(decode_module, "MEMORY_LIMIT", 0)
        data = folder(tree, train_size=12)
        streamed = folder(tree).train
        assert data.digest == folder(tree, train_size=12).digest != folder(tree).digest
    assert isinstance(streamed, StreamedImages)
    streamed._workers = 0
    state = torch.get_rng_state()
    for workers in (0, 2):
        streamed._workers = workers
        for a, b in zip(
            held.batches(5, generator=seeded(), augmentation=Augmentation(2)),
            streamed.batches(5, generator=seeded(), augmentation=Augmentation(2)),
            strict=True,
        ):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.positions, b.positions)
            assert torch.equal(a.labels, b.labels)
    assert torch.equal(state, torch.get_rng_state())
    rows, extra = torch.tensor([17, 3, 3]), torch.rand(2, 3, 8, 8)
    streamed._workers = 0
    grown, expected = (
        s.subset(rows).extended(extra, torch.tensor([0, 1])).extended(extra[:1], torch.tensor([2])) for s in (streamed, held)
    )
    everything = torch.arange(6)
    assert torch.equal(grown.read(everything), expected.read(everything))
    assert torch.equal(grown.labels, expected.labels)
    back = grown.subset(torch.tensor([5, 0]))
    assert torch.equal(next(back.batches(2)).images, expected.read(torch.tensor([5, 0])))
    assert streamed.read(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 8, 8)


def test_flower17(tmp_path):
    for number in range(1, 1361):
        save(tmp_path / "jpg" / f"image_{number:04d}.jpg", (number - 1) // 80 * 15, size=(8, 8))
    data, other = (load_dataset("flower17", data_dir=tmp_path, image_size=8, cache_dir=tmp_path / "c", seed=s)
                   for s in (0, 1))  # fmt: skip
    assert len(data.train) == 1190
    assert data.train.labels.bincount().tolist() == [70] * 17
    assert data.test.labels.bincount().tolist() == [10] * 17
    assert not torch.equal(data.train.subset(torch.arange(70)).pixels, other.train.pixels)
    assert data.note == ""
    assert (data.test.pixels[:, 0, 0, 0].long() - 15 * data.test.labels).abs().max() <= 3
    (tmp_path / "jpg" / "image_0500.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 1360 .*image_0500"):
        load_dataset("flower17", data_dir=tmp_path)


def test_gtsrb_subset_and_errors(tmp_path):
    with pytest.raises(ConfigError, match="--data-dir"):
        load_dataset("gtsrb")
    with pytest.raises(DatasetError, match="contains gtsrb"):
        load_dataset("gtsrb", data_dir=tmp_path)
    base = tmp_path / "gtsrb"
    for label in range(43):
        save(base / "GTSRB" / "Training" / f"{label:05d}" / "00000_00000.ppm", label)
        save(base / "GTSRB" / "Final_Test" / "Images" / f"{label:05d}.ppm", 100 + label)
    table = base / "GT-final_test.csv"

    def load():
        return load_dataset("gtsrb", data_dir=tmp_path, cache_dir=tmp_path / "cache", image_size=16)

    with pytest.raises(DatasetError, match="GT-final_test"):
        load()
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    table.write_text(head + "".join(f"{k:05d}.ppm;9;8;0;0;8;8;{k}\n" for k in range(43)))
    data = load()
    assert data.name == "gtsrb-subset"
    assert "never" in data.note
    assert data.num_classes == 43
    assert data.test.pixels[42, 0, 0, 0] == 142
    assert not data.augmentation.flip
    for line, message in (("99999.ppm;;;;;;;1", "missing"), ("00001.ppm;;;;;;;43", "line 2"), ("00001.ppm", "line 2"),
                          ("../x.ppm;;;;;;;1", "line 2")):  # fmt: skip
        table.write_text(head + line + "\n")
        with pytest.raises(DatasetError, match=message):
            load()
    (base / "GTSRB" / "Training" / "43").mkdir()
    save(base / "GTSRB" / "Training" / "43" / "a.ppm", 1)
    with pytest.raises(DatasetError, match="no class"):
        load()


def test_cifar_never_unpickles_what_it_cannot_verify(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    marker = tmp_path / "ran"
    evil = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(evil)
    with pytest.raises(DatasetError, match="MD5"):
        load_dataset("cifar10", data_dir=tmp_path)
    assert not marker.exists()
    with pytest.raises(DatasetError, match="cifar-100-python"):
        load_dataset("cifar100", data_dir=tmp_path)


def test_cifar(tmp_path, monkeypatch):
    from torchvision import datasets

    class Fake:
        base_folder, filename, classes = "cifar-10-batches-py", "x.tar.gz", [str(k) for k in range(10)]

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
