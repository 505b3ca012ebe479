"""Where splits and classes are found, and what is said where they are not."""

from __future__ import annotations

import re
import shutil
import zipfile

import pytest

from kdbench.data.layout import class_folders
from kdbench.errors import DatasetError
from tests.data.pictures import folder, save

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def packed(source, path, top=""):
    with zipfile.ZipFile(path, "w") as file:
        for entry in sorted(source.rglob("*")):
            file.write(entry, f"{top}{entry.relative_to(source)}")
    return path


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("training", "testing"),
        ("Training", "Validation"),
        ("train", "valid"),
        ("train", "eval"),
    ],
)
def test_other_names_of_the_splits(tree, train, test):
    plain = folder(tree)
    (tree / "train").rename(tree / train)
    (tree / "test").rename(tree / test)
    assert folder(tree).digest == plain.digest
    assert class_folders(tree) == ["ant", "bee", "cat"]


def test_the_usual_names_come_first(tree):
    plain = folder(tree)
    for name in ("val", "Test", "eval"):
        save(tree / name / "ant" / "0.png", 5)
    save(tree / "Train" / "ant" / "0.png", 5)
    data = folder(tree)
    assert data.digest == plain.digest
    assert data.left_out.by_reason() == {
        "folder Test beside test": 1,
        "folder eval beside test": 1,
        "folder val beside test": 1,
    }


def test_two_folders_of_training_images(tree):
    (tree / "train").rename(tree / "Train")
    shutil.copytree(tree / "Train", tree / "training")
    with pytest.raises(DatasetError, match=r"two folders of training images, training, Train"):
        folder(tree)


def test_test_images_without_labels_are_not_taken_for_test_images(tree):
    """As Kaggle, ImageNet and Tiny ImageNet have them."""
    (tree / "test").rename(tree / "val")
    plain = folder(tree)
    save(tree / "test" / "images" / "0.png", 5)
    save(tree / "test" / "1.png", 5)
    data = folder(tree)
    assert data.digest == plain.digest
    assert data.left_out.by_reason() == {"folder test beside val": 1}


@pytest.mark.parametrize("packing", ["folder", "zip"])
def test_one_more_folder_and_a_readme_beside(tree, packing):
    plain = folder(tree)
    outer = tree.parent / "outer"
    outer.mkdir()
    tree.rename(outer / "photos")
    (outer / "README.txt").write_text("my photos")
    (outer / "notes").mkdir()
    (outer / "notes" / "a.txt").write_text("")
    (outer / "__MACOSX" / "train").mkdir(parents=True)
    source = outer if packing == "folder" else packed(outer, tree.parent / "photos.zip")
    assert folder(source if packing == "zip" else outer).digest == plain.digest
    assert class_folders(outer) == ["ant", "bee", "cat"]


def test_two_folders_that_hold_training_images(tree):
    outer = tree.parent / "outer"
    shutil.copytree(tree, outer / "one")
    shutil.copytree(tree, outer / "two")
    (outer / "README.txt").write_text("")
    archive = packed(outer, tree.parent / "photos.zip")
    for source in (outer, archive):
        with pytest.raises(DatasetError) as caught:
            folder(source)
        text = str(caught.value)
        assert "must contain train/<class>/ and test/<class>/ or val/<class>/" in text
        assert "one, two do, so name one of them" in text
        assert "it holds README.txt, one/, two/" in text
        assert not re.search("[0-9a-f]{64}", text)


def test_an_error_in_an_archive_names_the_archive(tree):
    (tree / "test").rename(tree / "other")
    (tree / "train" / "ant" / "3.png").write_bytes(b"no picture")
    archive = packed(tree, tree.parent / "photos.zip")
    with pytest.raises(DatasetError) as caught:
        folder(archive)
    assert str(caught.value).startswith(f"dataset 'imagefolder:{archive}': {archive} must contain")
    assert "no folder of test images (test, val, " in str(caught.value)
    assert "it holds other/, train/" in str(caught.value)
    (tree / "other").rename(tree / "test")
    with pytest.raises(DatasetError) as caught:
        folder(packed(tree, archive))
    assert f"cannot decode image {archive}/train/ant/3.png: " in str(caught.value)
    assert not re.search("[0-9a-f]{64}", str(caught.value))


def test_a_folder_too_deep_or_too_high(tree, tmp_path):
    for name in ("train", "test"):
        with pytest.raises(
            DatasetError, match=rf"must contain .*one of these folders itself, so name {tree}; "
        ):
            folder(tree / name)
    high = tmp_path / "ILSVRC" / "Data"
    high.mkdir(parents=True)
    tree.rename(high / "CLS-LOC")
    with pytest.raises(DatasetError, match=rf"; {high}/CLS-LOC does, so name it; it holds Data/"):
        folder(tmp_path / "ILSVRC")


def test_classes_without_splits(tree):
    with pytest.raises(DatasetError) as caught:
        class_folders(tree / "train")
    assert "must contain train/<class>/; it holds ant/, bee/, cat/" in str(caught.value)


def test_splits_in_folders_of_the_same_name(tree):
    for part in ("train", "test"):
        (tree / part).rename(tree / "inner")
        (tree / part).mkdir()
        (tree / "inner").rename(tree / part / "photos")
    with pytest.raises(
        DatasetError, match=r"has 1 class in train/; expected at least 2; it holds photos/"
    ):
        folder(tree)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda tree: (tree / "test" / "ant").rename(tree / "test" / "ant "),
            r"'ant' and 'ant ' differ only in blanks, capitals",
        ),
        (
            lambda tree: (tree / "test" / "ant").rename(tree / "test" / "Ant"),
            r"'ant' and 'Ant' differ only in blanks, capitals",
        ),
        (
            lambda tree: (tree / "test" / "ant").rename(tree / "test" / "\uff41nt"),
            r"'ant' and '\\uff41nt' differ only in blanks, capitals or look-alike",
        ),
        (
            lambda tree: shutil.rmtree(tree / "test" / "bee"),
            r"different classes: bee; 1 only in train/ \(bee\); add the missing folders",
        ),
        (
            lambda tree: save(tree / "test" / "dog" / "0.png", 1),
            r"different classes: dog; 1 only in test/ \(dog\); add",
        ),
        (
            lambda tree: (
                shutil.rmtree(tree / "test" / "bee"),
                (tree / "test" / "bee").symlink_to("nowhere"),
            ),
            r"1 only in train/ \(bee\), and test/bee is a broken link; add",
        ),
        (
            lambda tree: (
                shutil.rmtree(tree / "test" / "bee"),
                (tree / "test" / "bee").write_text(""),
            ),
            r"1 only in train/ \(bee\), and test/bee is a file; add",
        ),
        (
            lambda tree: (
                shutil.rmtree(tree / "test"),
                [save(tree / "test" / f"{k}.png", k) for k in range(10)],
            ),
            r"test/ has no class folder; it holds 0\.png, .*, 2 more; sort its pictures into test",
        ),
        (
            lambda tree: (
                shutil.rmtree(tree / "test"),
                save(tree / "val" / "images" / "0.png", 5),
                (tree / "val" / "val_annotations.txt").write_text(""),
            ),
            r"3 only in train/ \(ant, bee, cat\); 1 only in val/ \(images\); add",
        ),
    ],
    ids=[
        "blank",
        "capital",
        "look-alike",
        "missing",
        "more",
        "broken link",
        "file",
        "flat",
        "tiny imagenet",
    ],
)
def test_splits_of_different_classes(tree, change, said):
    change(tree)
    with pytest.raises(DatasetError, match=said):
        folder(tree)


def test_accents_composed_in_one_split_and_decomposed_in_the_other(tree):
    (tree / "train" / "bee").rename(tree / "train" / COMPOSED)
    (tree / "test" / "bee").rename(tree / "test" / COMPOSED)
    plain = folder(tree)
    (tree / "test" / COMPOSED).rename(tree / "test" / DECOMPOSED)
    (tree / "test" / DECOMPOSED / "x.gif").write_bytes(b"")
    data = folder(tree)
    assert data.class_names == plain.class_names == ("ant", COMPOSED, "cat")
    assert data.digest == plain.digest
    assert data.left_out.total == 1


def test_decomposed_names_keep_their_digests(tree):
    """A dataset that is spelt in one way was always read, and its results stay."""
    for part in ("train", "test"):
        (tree / part / "bee").rename(tree / part / DECOMPOSED)
    assert folder(tree).class_names == ("ant", DECOMPOSED, "cat")


def test_two_folders_of_one_name(tree):
    for name in (COMPOSED, DECOMPOSED):
        for part in ("train", "test"):
            save(tree / part / name / "0.png", 5)
    with pytest.raises(
        DatasetError, match=r"two folders of one name, 'cafe\\u0301' and 'caf\\xe9'; .*one folder"
    ):
        folder(tree)
    with pytest.raises(DatasetError, match="two folders of one name"):
        class_folders(tree)


def test_classes_of_a_folder_are_told_without_its_pictures(tree):
    (tree / "train" / ".hidden").mkdir()
    (tree / "train" / "10").mkdir()
    (tree / "train" / "notes.txt").write_text("")
    (tree / "train" / "ant" / "0.png").write_bytes(b"no picture")
    assert class_folders(tree) == ["10", "ant", "bee", "cat"]


def test_a_path_that_is_almost_right_is_suggested(tmp_path):
    save(tmp_path / "photos" / "train" / "a" / "0.png", 1)
    with pytest.raises(DatasetError) as caught:
        folder(tmp_path / "photo")
    assert f"did you mean {tmp_path / 'photos'}?; name the folder (it holds" in str(caught.value)
    assert "--data-dir" not in str(caught.value)
