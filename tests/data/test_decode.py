"""Image files to pixels: every kind of pixel, and every kind of damage."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import decode as decode_module
from kdbench.errors import DatasetError
from tests.data.pictures import save


def decoded(picture: Image.Image, path: Path, **options) -> np.ndarray:
    picture.save(path, **options)
    return decode_module.decode_image(path, picture.width).numpy()


def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    gray, rgb = colours[..., :1].repeat(3, 2), Image.fromarray(colours)
    translucent = Image.fromarray(np.concatenate([colours, colours[..., :1]], 2))
    assert translucent.mode == "RGBA"
    assert np.array_equal(decoded(rgb, tmp_path / "rgb.png"), colours)
    assert np.array_equal(decoded(translucent, tmp_path / "rgba.png"), colours)
    assert np.array_equal(decoded(Image.fromarray(colours[..., 0]), tmp_path / "gray.png"), gray)
    palette = rgb.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(decoded(palette, tmp_path / "palette.png"), expected)
    assert np.array_equal(
        decoded(palette, tmp_path / "clear.png", transparency=bytes(range(16))), expected
    )


@pytest.mark.parametrize(("suffix", "mode"), [("png", "I;16"), ("tif", "I;16"), ("pgm", "I")])
def test_gray_of_16_bits_is_scaled(tmp_path, suffix, mode):
    levels = np.array([[0, 128, 129], [257, 32896, 40000], [65278, 65407, 65535]], dtype=np.uint16)
    path = tmp_path / f"deep.{suffix}"
    pixels = decoded(Image.fromarray(levels), path)
    with Image.open(path) as picture:
        assert picture.mode == mode
    assert pixels[..., 0].tolist() == [[0, 0, 1], [1, 128, 156], [254, 255, 255]]
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_gray_of_32_bits(tmp_path):
    levels = np.array([[0, 7], [100, 255]], dtype=np.int32)
    assert decoded(Image.fromarray(levels), tmp_path / "a.tif")[..., 1].tolist() == levels.tolist()
    for number, wrong in enumerate((levels - 1, levels + 65500, levels.astype(np.float32))):
        with pytest.raises(DatasetError, match=rf"{number}\.tif.*save it with 8 or 16 bits"):
            decoded(Image.fromarray(wrong), tmp_path / f"{number}.tif")


def png(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        png(2, 2, b"no zlib"),
        png(2, 2, zlib.compress(b"short")),
        png(50_000, 50_000, zlib.compress(b"")),
        png(0, 0, b""),
        b"P5 2 2 255\n",
        b"II*\0\x08\0\0\0\xff\xff",
        b"BM" + bytes(30),
    ],
    ids=["empty", "text", "zlib", "short", "bomb", "no pixels", "pgm", "tiff", "bmp"],
)
def test_damaged_files(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"cannot decode image .*bad\.png: .+; replace or remove"
    ):
        decode_module.decode_image(path, 8)


@pytest.mark.parametrize(
    "error", [struct.error("short"), EOFError(), IndexError("i"), zlib.error("z"), TypeError("t")]
)
def test_whatever_pil_raises_names_the_file(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    save(tmp_path / "a.png", 1)
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DatasetError, match=rf"a\.png: {error or 'EOFError'}"):
        decode_module.decode_image(tmp_path / "a.png", 8)


def test_a_file_is_only_opened_as_a_plain_picture(tmp_path):
    path = tmp_path / "sign.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with Image.open(path) as picture:
        assert picture.format == "EPS"
    with pytest.raises(DatasetError, match=r"sign\.png: cannot identify"):
        decode_module.decode_image(path, 8)
