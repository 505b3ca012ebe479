"""``kdbench import-teacher``: what it says, and what it hands to the store."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import kdbench.bench.store.teachers
from kdbench.bench.plan.teacher_reading import Stated, TeacherReading
from kdbench.cli import main
from kdbench.data.builtin import DATASETS
from kdbench.errors import IntegrityError
from tests.untrusted.weights.files import save_half, sha256
from tests.untrusted.weights.good import MODEL, good


@pytest.fixture
def saved(monkeypatch):
    """What the command handed to the store."""
    calls = []

    def save_teacher(store_root, name, state, origin, **facts):
        calls.append({"store": store_root, "name": name, "state": state, "origin": origin, **facts})
        return "key-of-it"

    monkeypatch.setattr(kdbench.bench.store.teachers, "save_teacher", save_teacher)
    return calls


def _call(*arguments):
    return CliRunner().invoke(main, ["import-teacher", *map(str, arguments)])


def test_the_command_imports_and_says_that_it_is_suspect(tmp_path, saved):
    path = tmp_path / "private" / "downloaded.pth"
    path.parent.mkdir()
    save_half(path)
    answer = _call(
        path,
        "--model",
        MODEL,
        "--dataset",
        "cifar10",
        "--store",
        tmp_path / "store",
        "--sha256",
        sha256(path),
    )
    assert answer.exit_code == 0, answer.output
    (call,) = saved
    facts = {
        "store": tmp_path / "store",
        "name": "downloaded",
        "model": MODEL,
        "dataset": "cifar10",
    }
    assert {key: call[key] for key in facts} == facts
    assert (call["num_classes"], call["image_size"]) == (10, 32)
    assert list(call["state"]) == list(good())
    parameters = sum(
        t.numel() for name, t in good().items() if "running" not in name and "tracked" not in name
    )
    for said in (
        sha256(path),
        "46 tensors",
        f"{parameters:,} parameters",
        "suspect",
        "kdbench run --teacher-from downloaded",
    ):
        assert said in answer.output
    assert "float16 became float32" in answer.output
    assert "--student wrn16_2 --data-dir DATA --store" in answer.output
    assert str(path.parent) not in answer.output


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["x.pth", "--model", MODEL], 2, "--dataset"),
        (["x.pth", "--model", MODEL, "--dataset", "cifar11"], 2, "did you mean 'cifar10'"),
        (["x.pth", "--model", MODEL, "--dataset", "signs:x"], 2, "unknown dataset"),
        (["x.pth", "--model", MODEL, "--dataset", "imagefolder:x"], 2, "--num-classes"),
        (["X y.pth", "--model", MODEL, "--dataset", "signs"], 2, "'X y' is no name"),
        (["x.pth", "--model", MODEL, "--dataset", "signs", "--name", "../x"], 2, "no name"),
        (["x.pth", "--model", MODEL, "--dataset", "signs", "--name", "x\n"], 2, "no name"),
        (["absent.pth", "--model", MODEL, "--dataset", "signs"], 2, "No such file"),
        (["x.pth", "--model", MODEL, "--dataset", "signs", "--memory", "nan"], 2, "nan"),
        (
            ["x.pth", "--model", MODEL, "--dataset", "signs", "--i-trust-this-file"],
            2,
            "No such option",
        ),
    ],
)
def test_a_wrong_command_is_refused(saved, arguments, code, says):
    answer = _call(*arguments)
    assert (answer.exit_code, saved) == (code, [])
    assert says in answer.output


def _sizes(dataset, num_classes, image_size, sources):
    how = TeacherReading(Stated(dataset, num_classes=num_classes, image_size=image_size), sources)
    return how.num_classes[0], how.image_size[0]


def test_sizes_follow_from_the_dataset():
    for name, source in DATASETS.items():
        if name != "imagefolder":
            sizes = source.num_classes, source.image_size
            assert _sizes(name, None, None, DATASETS) == sizes
            assert None not in sizes
    assert _sizes("gtsrb", None, None, DATASETS) == (43, 32)
    assert _sizes("signs", 6, 48, DATASETS) == (6, 48)
    assert _sizes("imagefolder:flowers", 5, None, DATASETS) == (5, 224)


def test_a_refusal_stores_nothing(tmp_path, saved, monkeypatch):
    def refuse(*_, **__):
        raise IntegrityError("'x' was not imported: \x1b[31mred")

    monkeypatch.setattr("kdbench.untrusted.weights.read_foreign", refuse)
    answer = _call("x.pth", "--model", MODEL, "--dataset", "signs")
    assert (answer.exit_code, saved) == (4, [])
    assert "\x1b" not in answer.output
