"""Names, imports, and what every loader refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kdbench.data import dataset_names, load_dataset
from kdbench.errors import ConfigError, DatasetError, UnknownMethodError


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


@pytest.mark.parametrize("name", ["imagefolder", "flower17", "imagenet1k"])
def test_download_where_there_is_none(tmp_path, name):
    with pytest.raises(ConfigError, match=r"drop --download .*the folder \(it holds"):
        load_dataset(name, data_dir=tmp_path / "new", download=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["gtsrb", "cifar10"])
def test_a_file_where_the_folder_should_be(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file.*--data-dir"):
        load_dataset(name, data_dir=tmp_path / "file", download=True)
    with pytest.raises(
        DatasetError, match=r"cannot use .*file.*: Not a directory; check --data-dir"
    ):
        load_dataset(name, data_dir=tmp_path / "file" / "below", download=True)
