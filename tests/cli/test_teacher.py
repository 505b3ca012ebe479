"""A teacher from elsewhere on the command line: imported, used, read wrongly, renamed, removed."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.data import load_dataset
from kdbench.data.class_order import number_order
from kdbench.models import blank_model
from kdbench.report.read import read_results
from tests.data.pictures import save

#: Gray levels: a network that takes pixels as they are is lost when they are normalised.
LEVELS = {"1": 20, "10": 90, "2": 160}
SIDE = ["--image-size", "16"]


def call(*arguments):
    return CliRunner().invoke(main, [str(word) for word in arguments])


def line_of(output, start):
    """The first line that begins so, as the words of a shell."""
    lines = [line.strip() for line in output.splitlines()]
    return shlex.split(next(line for line in lines if line.startswith(start)))


def teach(data, mean, std, labels):
    """A small network that is right on the pictures, if it is read as it learned."""
    torch.manual_seed(0)
    network = blank_model("wrn10_1", 3, image_size=16)
    network.set_normalization(mean, std)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
    adam = torch.optim.Adam(network.parameters(), 1e-2)
    images, wanted = data.train.read(torch.arange(len(data.train))), labels[data.train.labels]
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(network(images), wanted)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return network.state_dict()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of pictures with classes 1, 10 and 2, and files of teachers.

    number.pth counts them as numbers, raw.pth takes pixels as they are.
    """
    place = tmp_path_factory.mktemp("teachers")
    for part, count in (("train", 8), ("test", 12)):
        for name, level in LEVELS.items():
            for number in range(count):
                save(place / "my photos" / part / name / f"{number}.png", level + 4 * (number % 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDBENCH_CACHE", str(place / "cache"))
        data = load_dataset(f"imagefolder:{place / 'my photos'}", image_size=16)
    order = number_order(data.class_names)
    as_numbers = torch.tensor([order.index(name) for name in data.class_names])
    torch.save(teach(data, data.mean, data.std, as_numbers), place / "number.pth")
    raw = teach(data, (0.0,) * 3, (1.0,) * 3, torch.arange(3))
    torch.save(raw, place / "raw.pth")
    return place


@pytest.fixture(autouse=True)
def _there(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("KDBENCH_CACHE", str(place / "cache"))
    monkeypatch.setenv("KDBENCH_STORE", str(tmp_path / "store"))


def import_teacher(file, *more):
    dataset = ["--dataset", "imagefolder:my photos", *SIDE]
    done = call("import-teacher", file, "--model", "wrn10_1", *dataset, *more)
    assert done.exit_code == 0, done.output
    return done.output


def test_another_order_of_the_classes_is_said_and_mended_by_the_command_that_is_shown(place):
    output = import_teacher("number.pth")
    assert "classes   3 (the dataset's): 0 = 1, 1 = 10, 2 = 2" in output
    assert "(assumed: a default; --class-order number or FILE states another)" in output
    assert "side      16x16 (given)" in output
    assert "mean 0.485,0.456,0.406 std 0.229,0.224,0.225 (assumed" in output
    assert "WARNING: number: the teacher is right on 33.3 % of the test images" in output
    assert "100.0 % if its outputs count the classes in number order" in output
    mend = line_of(output, "kdbench import-teacher")
    assert mend[-5:] == ["--class-order", "number", "--name", "number", "--replace"]
    assert mend[2] == str(place / "number.pth")
    mended = call(*mend[1:])
    assert mended.exit_code == 0, mended.output
    assert "accuracy  100.0 % of the test images" in mended.output
    assert "replaced  order of classes 1, 10, 2, now 1, 2, 10" in mended.output
    assert "WARNING" not in mended.output


def test_another_normalisation_is_said_and_mended_by_the_command_that_is_shown():
    output = import_teacher("raw.pth")
    assert "100.0 % if its input is not normalised (mean 0, std 1)" in output
    mended = call(*line_of(output, "kdbench import-teacher")[1:])
    assert mended.exit_code == 0, mended.output
    assert "normalised with mean 0,0,0 std 1,1,1 (given)" in mended.output
    assert "accuracy  100.0 % of the test images" in mended.output


@pytest.fixture
def no_check(monkeypatch):
    """Imports that measure nothing."""
    return lambda file, *more: import_teacher(file, "--no-check", *more)


def test_the_command_that_is_shown_runs_as_it_is_from_anywhere(no_check, tmp_path, monkeypatch):
    shown = line_of(no_check("number.pth", "--class-order", "number"), "kdbench run")
    assert shown == ["kdbench", "run", "--teacher-from", "number", "--student", "wrn16_2"]
    monkeypatch.chdir(tmp_path)
    done = call(*shown[1:], "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    request = json.loads(done.output[done.output.index("{") :])["config"]["request"]
    assert request["image_size"] == 16
    assert request["class_names"] == ["1", "2", "10"]
    (dataset,) = request["datasets"]
    assert dataset.endswith("my photos")


def test_the_command_that_is_shown_names_the_store_and_what_is_missing(tmp_path, no_check):
    store = tmp_path / "a store"
    output = no_check("number.pth", "--store", store)
    assert line_of(output, "kdbench run")[-2:] == ["--store", str(store)]
    assert call("teacher", "show", "number", "--store", store).exit_code == 0
    assert "number" in call("list", "teachers", "--store", store).output


def test_a_run_marks_its_rows_and_a_ranking_counts_them(no_check, tmp_path):
    no_check("number.pth")
    out = tmp_path / "out"
    run = ["run", "--teacher-from", "number", "--student", "wrn10_1", "--threads", "1"]
    done = call(*run, "--set", "distill.epochs=1", "--out", out)
    assert done.exit_code == 0, done.output
    assert "WARNING: number: the teacher is right on 33.3 %" in done.output
    assert done.output.index("WARNING") > done.output.index("results (%)")
    (row,) = read_results(out).rows
    assert row["teacher_remark"] == "number_order"
    assert row["teacher_acc_hits"] == 12
    assert "number order" in row["reason"]
    ranking = call("leaderboard", out, "--out", tmp_path / "ranking.csv")
    assert "1 of 1 rows have a teacher that seems to be read wrongly" in ranking.output
    (teacher,) = json.loads((out / "run.json").read_text())["teachers"]
    assert (teacher["name"], teacher["class_names"]) == ("number", ["1", "10", "2"])
    for changed in (["--image-size", "32"], ["--dataset", "signs"]):
        refused = call(*run, *changed, "--dry-run")
        assert refused.exit_code == 2, refused.output
        assert "--teacher-from number" in refused.output


def test_outputs_that_stand_for_other_classes_are_written_down(no_check, place, tmp_path):
    state = torch.load(place / "number.pth")
    rolled = {name: state[name].roll(1, 0) for name in ("fc.weight", "fc.bias")}
    torch.save(state | rolled, tmp_path / "rolled.pth")
    no_check(tmp_path / "rolled.pth")
    out = tmp_path / "out"
    run = ["run", "--teacher-from", "rolled", "--student", "wrn10_1", "--threads", "1"]
    done = call(*run, "--set", "distill.epochs=1", "--out", out)
    assert read_results(out).rows[0]["teacher_remark"] == "other_order"
    order = out / "class-order-rolled.json"
    assert json.loads(order.read_text()) == ["10", "1", "2"]
    mend = line_of(done.output, "kdbench import-teacher")
    assert mend[mend.index("--class-order") + 1] == str(order)
    mend[2] = str(tmp_path / "rolled.pth")
    assert "accuracy  100.0 %" in call(*mend[1:]).output


def test_a_run_with_a_teacher_alone_asks_for_the_student(no_check):
    no_check("number.pth")
    done = call("run", "--teacher-from", "number")
    assert done.exit_code == 2
    assert "--teacher-from number needs a student; add --student NAME" in done.output


def test_teachers_are_listed_shown_renamed_and_removed(no_check, tmp_path):
    no_check("number.pth", "--class-order", "number", "--mean", "0,0,0", "--std", "1,1,1")
    listed = json.loads(call("list", "teachers", "--json").output)["teachers"]
    assert [(t["side"], t["classes"], t["order"], t["mean/std"]) for t in listed] == [
        ("16", 3, "number", "0,0,0 / 1,1,1 (given)")
    ]
    shown = call("teacher", "show", "number").output
    assert "order     number (given), which is not the dataset's own" in shown
    assert json.loads(call("teacher", "show", "number", "--json").output)["mean"] == [0, 0, 0]
    assert call("teacher", "rename", "number", "mine").exit_code == 0
    assert call("teacher", "show", "number").exit_code == 2
    (path,) = (tmp_path / "store").glob("vault.*/teachers/mine.json")
    path.write_text('{"model": 1}')
    assert call("teacher", "show", "mine").exit_code == 4
    damaged = call("list", "teachers")
    assert damaged.exit_code == 0
    assert "damaged" in damaged.output
    assert call("teacher", "rm", "mine").exit_code == 0
    assert json.loads(call("list", "teachers", "--json").output) == {"teachers": []}


def test_the_same_file_at_another_side_says_so(no_check):
    no_check("number.pth")
    again = ["number.pth", "--model", "wrn10_1", "--dataset", "imagefolder:my photos"]
    done = call("import-teacher", *again, "--image-size", "32")
    assert done.exit_code == 2
    assert "already there, of the same file: side 16, now 32; add --replace" in done.output
    assert call("import-teacher", *again, *SIDE, "--no-check").exit_code == 0


def test_mean_and_std_must_be_three_numbers():
    for value, says in (("0.5", "three numbers"), ("a,b,c", "three numbers"), ("", "three")):
        done = call(
            "import-teacher", "x.pth", "--model", "wrn10_1", "--dataset", "signs", "--mean", value
        )
        assert done.exit_code == 2
        assert says in done.output
