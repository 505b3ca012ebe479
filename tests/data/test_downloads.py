"""What torchvision fetches for us: an archive that is not the published one is never unpacked, by
whichever path it comes."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from torchvision.datasets import utils

from kdbench.data import load_dataset
from kdbench.errors import DatasetError

# Every archive that a loader of ours can make torchvision fetch.
ARCHIVES = [
    ("cifar10", "cifar-10-python.tar.gz"),
    ("cifar100", "cifar-100-python.tar.gz"),
    ("gtsrb", "GTSRB-Training_fixed.zip"),
    ("gtsrb", "GTSRB_Final_Test_Images.zip"),
    ("gtsrb", "GTSRB_Final_Test_GT.zip"),
]


def foreign(name: str) -> bytes:
    """An archive with a file that says where it came from; besides, GTSRB's are to look unpacked
    afterwards."""
    out = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(out, "w") as file:
            file.writestr(f"from-{name}", "")
            folder = {
                "GTSRB-Training_fixed.zip": "Training",
                "GTSRB_Final_Test_Images.zip": "Final_Test/Images",
            }.get(name)
            if folder:
                file.writestr(f"GTSRB/{folder}/00000/0.ppm", "")
            else:
                file.writestr("GT-final_test.csv", "")
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as file:
            file.addfile(tarfile.TarInfo(f"from-{name}"))
    return out.getvalue()


def fetched(folder: Path, name: str, monkeypatch, foreign_one: str | None) -> set[str]:
    """Which foreign archives are unpacked when all come from a stranger, and all but one happen to
    have the right sum."""
    check = utils.check_md5
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(
        utils, "_urlretrieve", lambda url, path: Path(path).write_bytes(foreign(Path(path).name))
    )
    monkeypatch.setattr(
        utils,
        "check_md5",
        lambda path, md5: check(path, md5) if Path(path).name == foreign_one else True,
    )
    with pytest.raises(DatasetError):
        load_dataset(name, data_dir=folder, download=True)
    return {path.name.removeprefix("from-") for path in folder.rglob("from-*")}


@pytest.mark.parametrize(("name", "archive"), ARCHIVES)
def test_an_archive_with_another_sum_is_not_unpacked(tmp_path, monkeypatch, name, archive):
    assert archive not in fetched(tmp_path, name, monkeypatch, archive)
    assert len(list(tmp_path.rglob(archive))) == 1  # it did arrive


@pytest.mark.parametrize(("name", "archive"), ARCHIVES)
def test_nothing_but_the_sum_prevents_that(tmp_path, monkeypatch, name, archive):
    assert archive in fetched(tmp_path, name, monkeypatch, None)


@pytest.mark.parametrize(("name", "archive"), ARCHIVES)
def test_an_archive_that_is_there_already_is_not_trusted_either(
    tmp_path, monkeypatch, name, archive
):
    folder = tmp_path / "gtsrb" if name == "gtsrb" else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / archive).write_bytes(foreign(archive))
    assert archive not in fetched(tmp_path, name, monkeypatch, archive)
