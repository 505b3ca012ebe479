"""Files of a dataset that no camera made: pipes, devices, pictures too large for memory, names that
are not UTF-8, links."""

from __future__ import annotations

import os
import socket
import struct
import tarfile
import threading
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.data import decode as decode_module
from kdbench.data import load as load_module
from kdbench.data import load_dataset
from kdbench.data.files import image_files, load_images, save_images
from kdbench.errors import DatasetError, IntegrityError
from tests.data.pictures import GTSRB_HEAD, folder, save
from tests.untrusted.pipes import pipe


@pytest.fixture(params=[2**32, 0], ids=["in memory", "streamed"])
def either(request, monkeypatch):
    """Sets are held in memory, or streamed."""
    monkeypatch.setattr(load_module, "MEMORY_LIMIT", request.param)


def read_all(data):
    for part in (data.train, data.test):
        part.read(torch.arange(len(part)))


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a pipe"])
def test_what_is_no_regular_file_is_no_image(tree, either, kind, monkeypatch):
    path = tree / "train" / "bee" / "z.png"
    with pipe(tree / "pipe") as other:
        if kind == "pipe":
            os.replace(other, path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                monkeypatch.chdir(path.parent)  # a socket's path has room for 107 bytes
                listener.bind(path.name)
        else:
            path.symlink_to("/dev/zero" if kind == "device" else other)
        with pytest.raises(DatasetError) as caught:
            read_all(folder(tree))
    assert str(path) in str(caught.value)
    if kind in ("pipe", "device", "link to a pipe"):
        assert "it is no regular file; replace or remove the file" in str(caught.value)


def test_a_table_of_gtsrb_that_is_no_file(signs43):
    table = signs43 / "GT-final_test.csv"
    text = table.read_text()
    table.write_text(GTSRB_HEAD + "x\0.ppm;9;8;0;0;8;8;1\n")
    with pytest.raises(DatasetError, match="line 2 must hold a Filename"):
        load_dataset("gtsrb", data_dir=signs43.parent, cache_dir=signs43 / "c")
    table.write_text(";" * 100_000 + "\n" + "a\n" * 1000)
    with pytest.raises(DatasetError, match="more than 64 columns"):
        load_dataset("gtsrb", data_dir=signs43.parent, cache_dir=signs43 / "c")
    with table.open("w") as file:
        file.truncate(1 << 25)
    with pytest.raises(DatasetError, match="it is larger than 16 MiB"):
        load_dataset("gtsrb", data_dir=signs43.parent, cache_dir=signs43 / "c")
    table.write_text(text)
    assert len(load_dataset("gtsrb", data_dir=signs43.parent, cache_dir=signs43 / "c").test) == 43


@pytest.mark.skipif(not os.path.exists("/proc/self/pagemap"), reason="no file without an end")
@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
def test_a_file_of_cifar_without_an_end(tmp_path, name):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / name).symlink_to("/proc/self/pagemap")
    with pytest.raises(DatasetError, match=f"{name} is empty; unpack the archive again"):
        load_dataset("cifar10", data_dir=tmp_path)


@pytest.mark.skipif(not os.path.exists("/proc/self/pagemap"), reason="no file without an end")
def test_an_archive_without_an_end(tmp_path):
    (tmp_path / "set.zip").symlink_to("/proc/self/pagemap")
    with pytest.raises(DatasetError, match=r"set\.zip: it has more bytes than its size says"):
        load_dataset(f"imagefolder:{tmp_path / 'set.zip'}", cache_dir=tmp_path / "cache")


def png(width, height, depth, colour, rows):
    """A PNG of zeros of which only some rows are there."""
    channels = {0: 1, 2: 3, 3: 1}[colour]
    line = b"\0" * (1 + width * channels * depth // 8)
    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(line) for _ in range(rows)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *([(b"PLTE", bytes(768))] if colour == 3 else ())]
    chunks += [(b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in chunks
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("depth", "colour"), [(16, 0), (8, 3), (8, 2)], ids=["16", "P", "RGB"])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path, monkeypatch, depth, colour
):
    (tmp_path / "x.png").write_bytes(png(13300, 13300, depth, colour, 1))
    monkeypatch.setattr(decode_module, "_rgb", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(DatasetError, match=r"x\.png: it has 13300 x 13300 pixels, and at most 67"):
        decode_module.decode_image(tmp_path / "x.png", 8)


@pytest.mark.parametrize("size", [(1, 1 << 20), (1 << 20, 1)])
def test_a_picture_of_too_many_rows_is_refused(tmp_path, size):
    """A picture of 76 bytes took 2.3 GiB, for each row has a place of its own."""
    (tmp_path / "x.png").write_bytes(png(*size, 8, 0, 1))
    with pytest.raises(DatasetError, match=r"and at most 67 million are decoded, 65535 a side"):
        decode_module.decode_image(tmp_path / "x.png", 8)


def test_what_is_no_picture_is_named_as_such(tmp_path):
    for number, content in enumerate((b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>")):
        (tmp_path / f"{number}.png").write_bytes(content)
        with pytest.raises(
            DatasetError, match=rf"{number}\.png: cannot identify it as one of BMP, JPEG, PNG"
        ):
            decode_module.decode_image(tmp_path / f"{number}.png", 8)


def test_a_file_of_too_many_bytes_is_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(8, 8, 8, 2, 8))
    os.truncate(path, (1 << 29) + 1)
    with pytest.raises(DatasetError, match="it is larger than 512 MiB"):
        decode_module.decode_image(path, 8)


def test_the_largest_picture_is_decoded_and_its_levels_are_right(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_module, "MOST_PIXELS", 64 * 33)
    monkeypatch.setattr(decode_module, "_STRIP", 100)
    levels = np.arange(64 * 33, dtype=np.uint16).reshape(33, 64) * 31
    Image.fromarray(levels).save(tmp_path / "x.png")
    pixels = decode_module.decode_image(tmp_path / "x.png", 32)
    whole = Image.fromarray(((levels.astype(np.int64) + 128) // 257).astype(np.uint8))
    expected = whole.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels.numpy(), np.asarray(expected))
    Image.fromarray(np.zeros((34, 64), np.uint8)).save(tmp_path / "y.png")
    with pytest.raises(DatasetError, match="64 x 34 pixels"):
        decode_module.decode_image(tmp_path / "y.png", 32)


def test_large_pictures_are_decoded_one_at_a_time(tree, monkeypatch):
    monkeypatch.setattr(decode_module, "LARGE", 8 * 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    rgb, at_once, most, guard = decode_module._rgb, [], [], threading.Lock()

    def watched(image):
        with guard:
            at_once.append(image)
            most.append(len(at_once))
        time.sleep(0.005)
        with guard:
            at_once.remove(image)
        return rgb(image)

    monkeypatch.setattr(decode_module, "_rgb", watched)
    folder(tree)
    assert set(most) == {1}
    assert len(most) == 27


ODD = os.fsdecode(b"caf\xe9")


def test_names_that_are_not_utf8(tree, either, tmp_path):
    plain = folder(tree)
    for part in ("train", "test"):
        (tree / part / "bee").rename(tree / part / ODD)
    (tree / "train" / "ant" / "0.png").rename(tree / "train" / "ant" / f"{ODD}.png")
    there = tree.rename(tree.with_name(f"set {ODD}"))
    data = load_dataset(f"imagefolder:{there}", image_size=8, cache_dir=tmp_path / "c")
    assert data.class_names == ("ant", ODD, "cat")
    assert data.train_digest != plain.train_digest
    assert len(data.train_digest) == 64
    read_all(data)
    save_images(data.train, tmp_path / "images.safetensors")
    again = load_images(tmp_path / "images.safetensors")
    rows = torch.arange(len(data.train))
    assert torch.equal(again.read(rows), data.train.read(rows))
    assert image_files(again) == image_files(data.train)
    # The second time the pixels come from the cache.
    assert load_dataset(f"imagefolder:{there}", image_size=8, cache_dir=tmp_path / "c").digest == (
        data.digest
    )


def test_an_archive_with_names_that_are_not_utf8_is_refused(tree, tmp_path):
    for part in ("train", "test"):
        (tree / part / "bee").rename(tree / part / ODD)
    with tarfile.open(tmp_path / "set.tar", "w", encoding="utf-8", errors="surrogateescape") as tar:
        tar.add(tree, "set")
    archive = f"imagefolder:{tmp_path / 'set.tar'}"
    with pytest.raises(IntegrityError, match="its name is not in UTF-8"):
        load_dataset(archive, image_size=8, cache_dir=tmp_path)


def test_a_linked_class_folder_belongs_to_the_dataset(tree, either, tmp_path):
    plain = folder(tree)
    (tree / "train" / "bee").rename(tmp_path / "elsewhere")
    (tree / "train" / "bee").symlink_to(tmp_path / "elsewhere")
    assert folder(tree).digest == plain.digest
    (tree / "train" / "bee").unlink()
    (tree / "train" / "bee").mkdir()
    (tree / "train" / "bee" / "deeper").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="bee holds no image file"):
        folder(tree)


#: Computed when names were taken as text.
DIGESTS = {"in memory": "4c9ead9bdfd45e7c", "streamed": "135c86e43b0f4d10"}


def test_ordinary_names_keep_their_digests(tmp_path, either, request):
    for part, classes in (("train", "ab"), ("test", "ab")):
        for label, name in enumerate(classes):
            save(tmp_path / "set" / part / name / "ü.bmp", 80 * label + (part == "test"))
    digest = folder(tmp_path / "set").digest
    assert digest[:16] == DIGESTS[request.node.callspec.id]
