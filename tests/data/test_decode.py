"""Image files to pixels: every kind of pixel, and every kind of damage."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import decode as decode_module
from kdbench.errors import DatasetError
from tests.data.pictures import folder, save


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


def halves(mode="RGB"):
    """A picture of 8 x 16: red above, green at the lower left, blue at the lower right."""
    levels = np.zeros((16, 8, 3), np.uint8)
    levels[:8, :, 0] = levels[8:, :4, 1] = levels[8:, 4:, 2] = 255
    return Image.fromarray(levels).convert(mode)


#: The orientation of a file, and what brings an upright picture into it.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_turned_upright(tmp_path, suffix, orientation):
    upright, method = halves(), STORED[orientation]
    stored = upright if method is None else upright.transpose(method)
    notes = Image.Exif()
    notes[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    stored.save(tmp_path / f"turned.{suffix}", exif=notes, **options)
    upright.save(tmp_path / "upright.png")
    turned, plain = (
        decode_module.decode_image(tmp_path / name, 8)
        for name in (f"turned.{suffix}", "upright.png")
    )
    assert np.array_equal(turned, plain)


def test_a_photograph_is_turned_upright_while_it_is_shrunk(tmp_path):
    notes = Image.Exif()
    notes[0x0112] = 6
    photograph = halves().resize((400, 800), Image.Resampling.NEAREST)
    photograph.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=notes, quality=95)
    photograph.save(tmp_path / "b.jpg", quality=95)
    turned, plain = (decode_module.decode_image(tmp_path / name, 8) for name in ("a.jpg", "b.jpg"))
    assert (turned.int() - plain.int()).abs().max() <= 3


@pytest.mark.parametrize("number", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, number):
    notes = Image.Exif()
    notes[0x0112] = number
    halves().save(tmp_path / "a.png", exif=notes)
    halves().save(tmp_path / "b.png")
    first, second = (decode_module.decode_image(tmp_path / name, 8) for name in ("a.png", "b.png"))
    assert np.array_equal(first, second)


def test_damaged_notes_turn_nothing(tmp_path):
    for name, notes in (
        ("a.png", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
        ("b.png", b"Exif\0\0II*\0\xff\xff\xff\xff"),
        ("c.png", b"nonsense"),
    ):
        halves().save(tmp_path / name, exif=notes)
        assert decode_module.decode_image(tmp_path / name, 8).shape == (8, 8, 3)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for name in ("a.png", "a.webp", "a.tif"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert decode_module.decode_image(tmp_path / name, 8)[4, 4].tolist() == [255, 0, 0]


def test_other_colours_and_other_suffixes(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert decode_module.decode_image(tmp_path / "a.jpg", 8)[4, 4].tolist() == [255, 0, 0]
    halves().save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.jpg")
    assert decode_module.decode_image(tmp_path / "b.jpg", 8)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty, so copy it again"),
        (b"GIF89a" + bytes(20), "it is a GIF: save it as PNG"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "it is an HEIC, AVIF or video file: save it as JPEG"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "it is a Git LFS pointer: run git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>", "it is a web page: download it again"),
        (b"<svg xmlns='x'/>", "it is a drawing or other XML: save it as PNG"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path, content, said):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(
        DatasetError, match=rf"^cannot decode image .*x\.jpg: cannot identify it .*; {said}.*remove"
    ):
        decode_module.decode_image(tmp_path / "x.jpg", 8)


def test_all_files_that_cannot_be_decoded_are_counted_at_once(tree):
    for name in ("ant", "bee"):
        for k in range(4):
            (tree / "train" / name / f"{k}.png").write_bytes(b"no picture")
    (tree / "test" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        folder(tree)
    text = str(caught.value)
    assert text.startswith("cannot decode 9 of 27 image files: ")
    assert text.endswith("; and 4 more; replace or remove the files")
    assert text.count("cannot identify it as one of BMP") == 5
    assert f"{tree}/train/ant/0.png: " in text
    (tree / "test" / "cat" / "0.png").write_bytes((tree / "test" / "cat" / "1.png").read_bytes())
    with pytest.raises(DatasetError, match="cannot decode 8 of 27 image files"):
        folder(tree)


def test_what_could_not_be_decoded_comes_whole_from_another_process():
    failures = [decode_module.Failure(f"{k}.png", "short") for k in range(7)]
    error = pickle.loads(pickle.dumps(decode_module.UndecodableError(failures, 9)))
    assert error.failures == tuple(failures)
    assert str(error).startswith("cannot decode 7 of 9 image files: 0.png: short; 1.png")
