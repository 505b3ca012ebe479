"""GTSRB: layout, table, and when it is only a subset."""

from __future__ import annotations

import pytest

from kdbench.data import gtsrb as gtsrb_module
from kdbench.data import load_dataset
from kdbench.errors import ConfigError, DatasetError
from tests.data.pictures import GTSRB_HEAD, save


def gtsrb(base, **more):
    return load_dataset(
        "gtsrb", data_dir=base.parent, cache_dir=base.parent / "cache", **{"image_size": 16, **more}
    )


def test_gtsrb(signs43):
    data = gtsrb(signs43)
    assert data.name == "gtsrb-subset"
    assert data.note == (
        "subset of GTSRB (43 of 39,209 training and 43 of 12,630 test images): never quote these "
        "results as GTSRB"
    )
    assert data.num_classes == 43
    assert data.train.pixels[42, 0, 0, 0] == 42
    assert data.test.pixels[42, 0, 0, 0] == 142
    assert not data.augmentation.flip


def test_gtsrb_is_only_the_whole_of_it(signs43, monkeypatch):
    monkeypatch.setattr(gtsrb_module, "OFFICIAL_TRAIN", 43)
    monkeypatch.setattr(gtsrb_module, "OFFICIAL_TEST", 43)
    for whole in (gtsrb(signs43), gtsrb(signs43, num_classes=43, train_size=43, test_size=43)):
        assert (whole.name, whole.note) == ("gtsrb", "")
    for choice, said in (
        ({"num_classes": 5}, "of these the first 5 classes)"),
        ({"train_size": 40}, "of these 40 training images)"),
        ({"num_classes": 5, "test_size": 4}, "of these the first 5 classes, 4 test images)"),
    ):
        part = gtsrb(signs43, **choice)
        assert part.name == "gtsrb-subset"
        assert said in part.note


def test_gtsrb_layout_errors(signs43, tmp_path):
    with pytest.raises(ConfigError, match="--data-dir"):
        load_dataset("gtsrb")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"contains gtsrb/ \(pass --download"):
        load_dataset("gtsrb", data_dir=tmp_path / "empty")
    training = signs43 / "GTSRB" / "Training"
    save(training / "43" / "a.ppm", 1)
    with pytest.raises(DatasetError, match="Training/43 is no class"):
        gtsrb(signs43)
    (training / "43" / "a.ppm").unlink()
    (training / "00007" / "00000_00000.ppm").unlink()
    for more in ({}, {"num_classes": 8}):
        with pytest.raises(
            DatasetError, match=r"without images: 1 of (43|8), first .*Training/00007; .*Unpack it"
        ):
            gtsrb(signs43, **more)
    assert gtsrb(signs43, num_classes=7).train.labels.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            GTSRB_HEAD + "00001.ppm;;;;;;;1\n99999.ppm;;;;;;;1\n",
            r"csv line 3 lists .*99999\.ppm, which is missing",
        ),
        (GTSRB_HEAD + "\n00001.ppm;;;;;;;43\n", "csv line 3 must hold"),
        (GTSRB_HEAD + "00001.ppm\n", "csv line 2 must hold"),
        (GTSRB_HEAD + "../x.ppm;;;;;;;1\n", "csv line 2 must hold"),
        (GTSRB_HEAD + "00001.ppm;;;;;;;1_0\n", "csv line 2 must hold"),
        (GTSRB_HEAD + "00001.ppm;;;;;;;2.5\n", "csv line 2 must hold"),
        ("Name;Class\n00001.ppm;1\n", "csv line 2 must hold"),
        (GTSRB_HEAD + "a" * 200_000, r"csv is no table in UTF-8 \(field larger"),
        (b"\xff\xfe\x00\x80binary", "csv is no table in UTF-8"),
        (GTSRB_HEAD, "csv lists no test image"),
        ("", "csv lists no test image"),
        (None, "GT-final_test.csv, which lists"),
    ],
    ids=[
        "missing image",
        "class 43",
        "cut row",
        "path",
        "underscore",
        "fraction",
        "columns",
        "long field",
        "binary",
        "header only",
        "empty",
        "absent",
    ],
)
def test_gtsrb_table_errors(signs43, content, message):
    table = signs43 / "GT-final_test.csv"
    table.unlink()
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=message):
        gtsrb(signs43)


def test_gtsrb_table_may_begin_with_a_byte_order_mark_and_pad(signs43):
    (signs43 / "GT-final_test.csv").write_bytes(
        b"\xef\xbb\xbf" + GTSRB_HEAD.encode() + b"00003.ppm;;;;;;; 00003 \n"
    )
    assert gtsrb(signs43).test.labels.tolist() == [3]


def test_no_images_left_by_the_choice_of_classes(signs43):
    (signs43 / "GT-final_test.csv").write_text(
        GTSRB_HEAD + "00010.ppm;;;;;;;10\n00042.ppm;;;;;;;42\n"
    )
    assert len(gtsrb(signs43, num_classes=11).test) == 1
    with pytest.raises(DatasetError, match="no test images of its first 5 classes"):
        gtsrb(signs43, num_classes=5)


def own_site(base, top):
    """The layout of GTSRB's own archives below ``top``, made from torchvision's."""
    top.mkdir(parents=True, exist_ok=True)
    (base / "GTSRB").rename(top / "GTSRB")
    (top / "GTSRB" / "Final_Training").mkdir()
    (top / "GTSRB" / "Training").rename(top / "GTSRB" / "Final_Training" / "Images")
    (base / "GT-final_test.csv").rename(top / "GT-final_test.csv")
    return top


@pytest.mark.parametrize("table", ["", "GTSRB", "GTSRB/Final_Test", "GTSRB/Final_Test/Images"])
@pytest.mark.parametrize("at", ["gtsrb", "."])
def test_gtsrb_as_its_own_site_packs_it(signs43, tmp_path, at, table):
    plain = gtsrb(signs43)
    data_dir = tmp_path / "own"
    top = own_site(signs43, data_dir / at)
    (top / "GT-final_test.csv").rename(top / table / "GT-final_test.csv")
    where = {"image_size": 16, "cache_dir": tmp_path / "cache"}
    data = load_dataset("gtsrb", data_dir=data_dir, **where)
    assert data.digest == plain.digest
    assert load_dataset("gtsrb", data_dir=top / "GTSRB", **where).digest == plain.digest


def test_both_kinds_of_training_images(signs43):
    plain = gtsrb(signs43)
    save(signs43 / "GTSRB" / "Final_Training" / "Images" / "00000" / "0.ppm", 1)
    data = gtsrb(signs43)
    assert data.digest == plain.digest
    assert data.left_out.by_reason() == {"folder GTSRB/Final_Training/Images beside Training": 1}


def test_what_there_is_instead_of_gtsrb_is_named(tmp_path):
    for name, said in (
        ("GTSRB_Final_Training_Images.zip", r"GTSRB_Final_Training_Images\.zip is not unpacked"),
        ("Test.csv", r"another site's copy \(Train/, Test/, Test\.csv\), which is not read"),
        ("x.txt", r"it holds x\.txt$"),
    ):
        (tmp_path / "DATA").mkdir()
        (tmp_path / "DATA" / name).write_text("")
        with pytest.raises(DatasetError, match=said):
            load_dataset("gtsrb", data_dir=tmp_path / "DATA")
        (tmp_path / "DATA" / name).unlink()
        (tmp_path / "DATA").rmdir()


def test_the_tables_and_images_of_the_first_phase_are_named(signs43):
    (signs43 / "GT-final_test.csv").unlink()
    (signs43 / "GTSRB" / "Online-Test-sort").mkdir()
    (signs43 / "GTSRB" / "Final_Test" / "Images" / "GT-final_test.test.csv").write_text("")
    with pytest.raises(
        DatasetError,
        match=r"no .*GT-final_test\.csv, .*test\.csv has no classes; Online-Test-sort belongs to "
        "the first phase",
    ):
        gtsrb(signs43)
