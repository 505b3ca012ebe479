"""A dataset of a plugin is loaded by a process; what it leaves is data, and is looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdbench.data import DatasetRequest, load_dataset
from kdbench.data.base import Augmentation
from kdbench.data.files import packed, save_images, unpacked
from kdbench.data.stream import StreamedImages
from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError, ContractError, DatasetError
from kdbench.loading.catalogue import Catalogue
from kdbench.loading.choice import PluginChoice
from kdbench.loading.hosts import Hosts
from kdbench.loading.images import ImagesFacts, read_dataset
from kdbench.loading.registry import Registry
from tests.loading.test_models_and_datasets import OWN

#: Datasets of a plugin that reads its folder, or more than that.
READERS = """
from pathlib import Path

import torch
from kdbench.data import Augmentation, DatasetSource, TensorImages, finish
from kdbench.data.load import image_set
from kdbench.data.members import Members
from kdbench.data.stream import StreamedImages
from kdbench.hookspecs import hookimpl


def make(request, train, name="mine"):
    return finish(
        request, name=name, train=train, test=train, class_names=("a", "b"),
        mean=(0.5, 0.25, 0.1), std=(0.2,) * 3, augmentation=Augmentation(pad=1, flip=False),
        note="a note",
    )


def of_folder(request):
    value = int((request.folder / "value").read_text())
    pixels = torch.full((6, 3, 8, 8), value, dtype=torch.uint8)
    return make(request, TensorImages(pixels, torch.arange(6) % 2))


def streamed(request):
    paths = sorted(request.folder.glob("*.png"))
    return make(request, StreamedImages(paths, torch.arange(len(paths)) % 2, 8))


def outside(request):
    return of_folder(request) if Path("SECRET").exists() else 1 / 0


def disguised(request):
    return make(request, of_folder(request).train, " CIFAR10-like")


def by_the_rule(request):
    members = Members()
    (paths,) = members.images({"train": (request.folder, ["pictures"])})["train"]
    labels = [k % 2 for k in range(len(paths))]
    images = image_set(
        paths, labels, 8, root=request.folder, cache_dir=request.folder / "no cache"
    )
    return finish(
        request, name="mine", train=images, test=images, class_names=("pictures", "b"),
        mean=(0.5,) * 3, std=(0.2,) * 3, augmentation=Augmentation(pad=1, flip=False),
        left_out=members.left_out,
    )


def writes(request):
    (request.folder / "new").write_text("x")


@hookimpl
def kdbench_datasets():
    loaders = (of_folder, streamed, outside, writes, disguised, by_the_rule)
    return {loader.__name__: DatasetSource(loader, folder="it holds value") for loader in loaders}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "secret").write_text("x")
    path = tmp_path / "mine.py"
    path.write_text(READERS.replace("SECRET", str(tmp_path / "secret")))
    return path


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "value").write_text("7")
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(data / f"{number}.png")
    return data


@pytest.fixture
def sources(zygote, file, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    hosts = Hosts(zygote)
    yield Catalogue.load(hosts, [], PluginChoice(files=(file, own))).datasets
    hosts.close()


def in_process(path):
    return Registry.load([], PluginChoice(files=(path,))).datasets


@pytest.mark.parametrize("options", [{}, {"train_size": 30, "num_classes": 2, "seed": 3}])
def test_it_is_the_same_dataset_as_one_that_is_loaded_here(sources, tmp_path, options):
    here = load_dataset("dots", sources=in_process(tmp_path / "own.py"), **options)
    there = load_dataset("dots", sources=sources, **options)
    assert (there.train_digest, there.test_digest) == (here.train_digest, here.test_digest)
    assert torch.equal(there.train.pixels, here.train.pixels)
    assert torch.equal(there.test.labels, here.test.labels)
    for name in ("name", "class_names", "mean", "std", "augmentation", "note", "num_classes"):
        assert getattr(there, name) == getattr(here, name), name


@pytest.mark.parametrize("name", ["of_folder", "streamed"])
def test_a_folder_is_read(sources, file, folder, name):
    here = load_dataset(name, sources=in_process(file), data_dir=folder)
    there = load_dataset(name, sources=sources, data_dir=folder)
    assert (there.digest, type(there.train)) == (here.digest, type(here.train))
    rows = torch.arange(len(here.train))
    assert torch.equal(there.train.read(rows), here.train.read(rows))


def test_nothing_else_is(sources, folder):
    with pytest.raises(ContractError, match="ZeroDivisionError"):
        load_dataset("outside", sources=sources, data_dir=folder)
    with pytest.raises(DatasetError, match="cannot use"):
        load_dataset("writes", sources=sources, data_dir=folder)
    assert not (folder / "new").exists()
    with pytest.raises(ConfigError, match="num_classes is 3; dataset 'mine'"):
        load_dataset("of_folder", sources=sources, data_dir=folder, num_classes=3)


def test_it_does_not_take_the_name_of_another_one(sources, folder):
    with pytest.raises(ContractError, match="another dataset has that name"):
        load_dataset("disguised", sources=sources, data_dir=folder)


def test_what_a_plugin_left_out_is_told_and_what_it_cannot_decode_is_named(sources, folder):
    (folder / "pictures").mkdir()
    for number in range(4):
        (folder / f"{number}.png").rename(folder / "pictures" / f"{number}.png")
    (folder / "pictures" / "x.gif").write_bytes(b"")
    data = load_dataset("by_the_rule", sources=sources, data_dir=folder)
    assert data.left_out.by_reason() == {"suffix .gif": 1}
    for number in range(2):
        (folder / "pictures" / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="cannot decode 2 of 4 image files: "):
        load_dataset("by_the_rule", sources=sources, data_dir=folder)


# -- what a process could leave ------------------------------------------------------------------

FACTS = ImagesFacts(
    name="x",
    class_names=("a", "b"),
    num_classes=2,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    pad=1,
    flip=True,
    note="",
).model_dump(mode="json")


def images(count=4, side=8):
    pixels = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    return TensorImages(pixels, torch.arange(count) % 2)


def request(folder: Path | None = None) -> DatasetRequest:
    return DatasetRequest("x", folder, False, 0, None, None, None, None, Path())


@pytest.fixture
def box(tmp_path):
    box = tmp_path / "box"
    box.mkdir()
    for split in ("train", "test"):
        save_images(images(), box / f"{split}.safetensors")
    return box


def test_an_honest_box_is_read(box):
    dataset = read_dataset(request(), FACTS, box)
    assert (len(dataset.train), dataset.augmentation) == (4, Augmentation(1, True))


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": 1, "class_names": ["a"]},
        {"num_classes": 3},
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, "x"]},
        {"std": [1e300, 1, 1]},
        {"pad": 8},
        {"pad": -1},
        {"name": "x" * 5000},
        {"more": 1},
        {"class_names": "ab"},
        {"left_out": [{"split": "x", "class_name": "", "reason": "", "count": 1}]},
        {"left_out": [{"split": "test", "class_name": "", "reason": "", "count": -1}]},
    ],
)
def test_facts_that_cannot_be_are_refused(box, change):
    with pytest.raises(ContractError, match="dataset 'x' cannot be used"):
        read_dataset(request(), {**FACTS, **change}, box)
    for nonsense in (None, [], "x", 3):
        with pytest.raises(ContractError):
            read_dataset(request(), nonsense, box)


def link(path):
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def hard_link(path):
    os.link(path, path.with_name("other"))


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def other_tensors(path):
    from safetensors.torch import save_file

    save_file({"pixels": torch.zeros(4, 3, 8, 8), "labels": torch.zeros(4).long()}, path)


@pytest.mark.parametrize(
    "damage",
    [
        link,
        hard_link,
        pipe,
        other_tensors,
        Path.unlink,
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(b""),
        lambda path: save_images(images(side=4), path),
        lambda path: save_images(images(0), path),
        lambda path: save_images(TensorImages(images().pixels, torch.full((4,), 2)), path),
        lambda path: save_images(TensorImages(images().pixels, torch.full((4,), -1)), path),
    ],
)
def test_files_that_cannot_be_are_refused(box, damage):
    damage(box / "train.safetensors")
    with pytest.raises(ContractError, match="dataset 'x' cannot be used"):
        read_dataset(request(), FACTS, box)


def test_a_stream_names_files_of_its_folder_only(box, folder, tmp_path):
    def read(paths, data_dir):
        save_images(StreamedImages(paths, torch.zeros(1).long(), 8), box / "train.safetensors")
        return read_dataset(request(data_dir), FACTS, box)

    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (folder / "link.png").symlink_to(secret)
    assert len(read([folder / "0.png"], folder).train) == 1
    for path in (secret, folder / "link.png", folder / ".." / "secret.png", folder / "absent.png"):
        with pytest.raises(ContractError, match="not in its folder"):
            read([path], folder)
    with pytest.raises(ContractError, match="no folder"):
        read([folder / "0.png"], None)


def test_a_stream_of_a_size_that_is_no_number_is_refused(box, folder):
    from safetensors.torch import save_file

    tensors = {name: torch.zeros(1).long() for name in ("labels", "rows")}
    tensors["appended"] = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    tensors["paths"] = packed([str(folder / "0.png")])
    save_file(tensors, box / "train.safetensors", metadata={"size": "Infinity"})
    with pytest.raises(ContractError, match="dataset 'x' cannot be used"):
        read_dataset(request(folder), FACTS, box)


def test_paths_need_not_be_text(tmp_path):
    paths = ["/a/b.png", os.fsdecode(b"/caf\xe9/\n.png"), "/\u00e9"]
    assert unpacked(packed(paths)) == paths
    assert unpacked(packed([])) == []
