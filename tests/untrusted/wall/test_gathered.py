"""Many single files of one folder have one mount."""

from __future__ import annotations

import pytest

from kdbench.untrusted.wall.build import gathered


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "all" / f"{n}.txt" for n in range(200)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text("text")
    return paths


def test_a_folder_takes_the_place_of_many_files(files, tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to(files[0])
    few = (tmp_path, files[3], link)
    assert gathered(few) == few
    assert gathered((tmp_path, *files[:100], link)) == (tmp_path, link, files[0].parent)
