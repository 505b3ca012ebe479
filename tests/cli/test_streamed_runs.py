"""The whole command on images that stay on disk, behind the wall."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kdbench.bench.run import runner
from kdbench.cli import main
from kdbench.data import load
from kdbench.report.read import read_results


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """300 images of three classes. The files of one class are links to a common folder."""
    root = tmp_path_factory.mktemp("ein Bild \u00e4")
    draw = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 20)):
        for label in range(3):
            folder = root / "set" / part / f"class {label}"
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = draw.integers(0, 60, (32, 32, 3)).astype("uint8")
                pixels[..., label] += 120
                path = folder / f"{n}.jpg"
                Image.fromarray(pixels).save(path)
                if label == 2:
                    target = root / "pool" / f"{part}-{n}.jpg"
                    target.parent.mkdir(exist_ok=True)
                    path.rename(target)
                    os.symlink(target, path)
    return root / "set"


def run(pictures, out, *options, attack="badnets"):
    arguments = ["run", "--attack", attack, "--pair", "wrn10_1-wrn10_1", "--image-size", "32"]
    arguments += ["--dataset", f"imagefolder:{pictures}", "--threads", "1", "--no-controls"]
    for part in ("clean", "poison", "distill", "repair"):
        arguments += ["--set", f"{part}.epochs=1"]
    arguments += ["--set", "min_teacher_acc=0"]
    arguments += ["--store", str(out.parent / f"{out.name}-store"), "--out", str(out), *options]
    result = CliRunner().invoke(main, arguments)
    rows = read_results(out / "results.csv").rows if (out / "results.csv").exists() else []
    return result, rows


NUMBERS = ("student_acc_hits", "student_asr_hits", "student_sha256", "teacher_sha256")


def numbers(rows):
    return [[row[name] for name in NUMBERS] for row in rows]


@pytest.fixture(scope="module")
def resident(pictures, tmp_path_factory, zygote):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.bench.session.processes.start_zygote", lambda computes: zygote)
        result, rows = run(pictures, tmp_path_factory.mktemp("resident") / "out")
    assert result.exit_code == 0, result.output
    return numbers(rows)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_streamed_run_has_the_numbers_of_a_resident_one(
    pictures, resident, tmp_path, monkeypatch, threads
):
    monkeypatch.setattr(load, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(runner, "decoding_threads", lambda jobs: threads)
    result, rows = run(pictures, tmp_path / "out", "--stall-limit", "60")
    assert result.exit_code == 0, result.output
    assert numbers(rows) == resident


def test_a_defense_gets_its_share_of_a_streamed_set(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "MEMORY_LIMIT", 0)
    options = ("--clean-fraction", "0.9", "--defense", "finetune", "--stall-limit", "60")
    result, rows = run(pictures, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert [row["status"] for row in rows] == ["ok"]


def test_a_file_that_changed_during_the_run_is_named_by_the_row(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "MEMORY_LIMIT", 0)
    copy = tmp_path / "set"
    shutil.copytree(pictures, copy)
    broken = copy / "train" / "class 1" / "7.jpg"
    broken.write_bytes(b"?" * broken.stat().st_size)
    result, rows = run(copy, tmp_path / "out", "--stall-limit", "60")
    assert result.exit_code == 1
    assert f"cannot decode image {broken}: " in rows[0]["reason"]
    assert "its log: " in result.output
