"""Folders that several tests of the loaders begin with."""

from __future__ import annotations

import pytest

from tests.data.pictures import GTSRB_HEAD, save


@pytest.fixture
def tree(tmp_path):
    for part, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("ant", "bee", "cat")):
            for k in range(count):
                save(
                    tmp_path / "set" / part / name / f"{k}.png",
                    80 * label + 10 * k + (part == "test"),
                )
    return tmp_path / "set"


@pytest.fixture
def signs43(tmp_path):
    """GTSRB's layout with one training and one test image a class."""
    base = tmp_path / "gtsrb"
    for label in range(43):
        save(base / "GTSRB" / "Training" / f"{label:05d}" / "00000_00000.ppm", label)
        save(base / "GTSRB" / "Final_Test" / "Images" / f"{label:05d}.ppm", 100 + label)
    (base / "GT-final_test.csv").write_text(
        GTSRB_HEAD + "".join(f"{k:05d}.ppm;9;8;0;0;8;8;{k}\n" for k in range(43))
    )
    return base
