"""``kdbench run``: its folder, its exit codes, and what it refuses before anything is computed."""

from __future__ import annotations

import json
import re
import time

import pytest
from PIL import Image

from kdbench._files import write_record
from kdbench.bench.plan import prepare
from kdbench.errors import ConfigError, DivergedError
from tests.cli.calls import RUN, call, row
from tests.data.pictures import save


def test_out_that_cannot_be_written(tmp_path, fake_run):
    (tmp_path / "file").write_text("x")
    result = call(*RUN, "--out", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert fake_run.calls == []


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed", 1), ("diverged", 1)])
def test_exit_code_of_rows(status, code, fake_run, tmp_path):
    fake_run.answer = [row(), row(status=status)]
    assert call(*RUN, "--out", str(tmp_path / "o")).exit_code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("no"), 2), (DivergedError("nan"), 1), (KeyboardInterrupt(), 130)],
)
def test_exit_code_of_errors(error, code, fake_run, tmp_path):
    fake_run.answer = error
    result = call(*RUN, "--out", str(tmp_path / "o"))
    assert result.exit_code == code
    assert "Traceback" not in result.output


@pytest.fixture
def no_device(monkeypatch):
    def refuse(*_):
        raise ConfigError("no such device")

    monkeypatch.setattr(prepare, "choose_numerics", refuse)


def test_refused_request_leaves_no_empty_folder(fake_run, tmp_path, no_device):
    assert call(*RUN, "--out", str(tmp_path / "o")).exit_code == 2
    assert not (tmp_path / "o").exists()


def test_refused_request_leaves_a_folder_that_was_there(fake_run, tmp_path, no_device):
    (tmp_path / "o").mkdir()
    call(*RUN, "--out", str(tmp_path / "o"))
    assert (tmp_path / "o").is_dir()


def test_results_are_never_overwritten(fake_run, tmp_path):
    (tmp_path / "results.csv").write_text("precious")
    result = call(*RUN, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "already holds results" in result.stderr
    assert fake_run.calls == []
    assert (tmp_path / "results.csv").read_text() == "precious"


def test_a_folder_of_the_same_request_is_taken_up(fake_run, tmp_path):
    out = ["--out", str(tmp_path / "o")]
    assert call(*RUN, *out).exit_code == 0
    spec, _, folder = fake_run.calls[0]
    write_record({"config": {"request": spec.model_dump(mode="json")}}, folder / "run.json")
    (folder / "results.csv").write_text("half")
    assert call(*RUN, *out).exit_code == 0
    assert "another request" in call(*RUN, "--seed", "7", *out).stderr


def test_a_folder_used_before_says_what_has_changed_since(fake_run, tmp_path):
    out = ["--out", str(tmp_path / "o")]
    assert call(*RUN, *out).exit_code == 0
    spec, _, folder = fake_run.calls[0]
    config = {"request": spec.model_dump(mode="json")}
    record = {"config": config, "versions": {"torch": "1.0"}, "device": "an older card"}
    write_record(record, folder / "run.json")
    (folder / "results.csv").write_text("half")
    result = call(*RUN, *out)
    assert result.exit_code == 0
    assert f"{folder} holds results of the same request that were made otherwise" in result.stderr
    for words in ("versions.torch 1.0, now ", "device an older card, now cpu"):
        assert words in result.stderr


def test_options_become_a_request(fake_run, tmp_path, registry):
    result = call(
        "run",
        "--attack",
        "all",
        "--attack",
        "badnets",
        "--defense",
        "all",
        "--pair",
        "all",
        "--pair",
        "wrn28_4-wrn16_4",
        "--teacher",
        "wrn10_1",
        "--student",
        "resnet20",
        "--seed",
        "5",
        "--seeds",
        "3",
        "--no-controls",
        "--set",
        "clean.epochs=7",
        "--out",
        str(tmp_path / "o"),
        "--quiet",
    )
    assert result.exit_code == 0, result.output
    assert result.output == f"{tmp_path / 'o'}\n"
    ((spec, settings, out),) = fake_run.calls
    assert out == tmp_path / "o"
    assert list(spec.attacks) == registry.names("attack")
    assert list(spec.defenses) == registry.names("defense")
    assert len(spec.pairs) == 7
    assert spec.pairs[-1] == ("wrn10_1", "resnet20")
    assert spec.seeds == (5, 6, 7)
    assert spec.controls is False
    assert settings[0].resolved.preset.clean.epochs == 7


def test_default_folder(fake_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(*RUN)
    ((_, _, out),) = fake_run.calls
    assert re.fullmatch(r"runs/\d{8}-\d{6}-badnets-none-wrn16_2-wrn16_1(-\d+)?", out.as_posix())
    assert (tmp_path / out).is_dir()


def test_dry_run_shows_everything_and_runs_nothing(fake_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*RUN, "--defense", "robustkd", "--dry-run", "--set", "clean.epochs=123")
    assert result.exit_code == 0, result.output
    for text in (
        "train clean wrn16_2",
        "implant badnets in wrn16_2",
        "clean.epochs",
        "123",
        "defense.robustkd.",
    ):
        assert text in result.output
    assert fake_run.calls == []
    assert list(tmp_path.iterdir()) == []
    found = json.loads(call(*RUN, "--dry-run", "--json").output)
    assert found["config"]["request"]["attacks"] == ["badnets"]
    assert len(found["cells"]) == 1
    assert found["machine"]["device"]


def test_dry_run_shows_the_images_and_no_other_datasets_numbers(fake_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a temporary folder may be long
    for part, count in (("train", 3), ("test", 2)):
        for level, name in enumerate(("cat", "dog")):
            for k in range(count + level):
                save(tmp_path / "set" / part / name / f"{k}.png", 50 * level + k)
    (tmp_path / "set" / "train" / "cat" / ".x.png").write_bytes(b"")
    arguments = [*RUN, "--dataset", "imagefolder:set", "--dry-run"]
    output = call(*arguments).output
    assert (
        "images 224x224 (the default of imagefolder; --image-size changes it), 2 classes, 7 train, "
        "5 test images, 3 (cat) to 4 (dog) train images a class, in memory"
    ) in output
    assert "left out 1 file or folder: hidden file (1); all in train/cat" in output
    assert "2 (cat) to 3 (dog)" in output
    assert "signs" not in output
    assert "signs.image_size" in call(*RUN, "--dry-run").output
    (entry,) = json.loads(call(*arguments, "--json").output)["datasets"]
    assert (entry["image_size"], entry["num_classes"], entry["train"]["images"]) == (224, 2, 7)


def test_dry_run_shows_the_numbers_of_the_teachers_that_are_asked_for(fake_run):
    output = call(*RUN, "--pair", "pyramid200-pyramid110", "--dry-run").output
    assert "preset.networks.pyramid200.clean.min_steps" in output
    assert "networks" not in call(*RUN, "--dry-run").output


def test_dry_run_shows_no_value_as_the_word_that_sets_it(fake_run):
    output = call(
        *RUN, "--attack", "lba", "--set", "attack.lba.max_universal=none", "--dry-run"
    ).output
    lines = [line.split() for line in output.splitlines() if "attack.lba.max_universal" in line]
    assert {line[-1] for line in lines} == {"none"}


def test_dry_run_refuses_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = call(*RUN, "--dry-run", "--device", "cuda")
    assert result.exit_code == 2
    assert "--device cuda" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--target-class", "10"], ["--target-class 10 is out of range", "classes 0 to 9"]),
        (["--num-classes", "65"], ["65"]),
        (["--dataset", "gtsrb", "--data-dir", "nowhere"], ["nowhere"]),
        (["--dataset", "flower17", "--data-dir", "nowhere"], ["nowhere"]),
        (["--dataset", "imagefolder:one", "--num-classes", "5"], ["one", "5"]),
    ],
)
def test_data_that_cannot_be_used_is_refused_and_leaves_nothing(
    arguments, messages, no_stages, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "one" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (16, 16)).save(folder / f"{i}.png")
    result = call(*RUN, *arguments, "--out", "o")
    assert result.exit_code == 2, result.output
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "o").exists()


def test_another_data_seed_draws_other_pictures(no_stages, registry):
    from kdbench.bench.request.spec import RunSpec, resolve

    def digest(seed):
        spec = RunSpec(
            attacks=("badnets",),
            pairs=(("wrn10_1", "wrn10_1"),),
            train_size=20,
            test_size=20,
            data_seed=seed,
        )
        return prepare.load(spec, resolve(spec, registry)).digest

    assert digest(0) == digest(0)
    assert digest(0) != digest(1)


def test_two_runs_in_one_second_get_two_folders(tmp_path, monkeypatch, registry):
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.session.folders import default_out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    spec = RunSpec(attacks=("badnets",), pairs=(("wrn10_1", "wrn10_1"),))
    first, second = default_out(spec), default_out(spec)
    assert first != second
    assert first.is_dir()
    assert second.is_dir()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--jobs", "2"], "drop --jobs"),
        (["--jobs", "1"], "drop --jobs"),
        (["--time-limit", "86400"], "drop --time-limit"),
        (["--memory-limit", "1", "--jobs", "2"], "drop --jobs and --memory-limit"),
    ],
)
def test_what_the_inline_executor_cannot_do_is_refused(fake_run, tmp_path, options, named):
    asked = [*RUN, "--executor", "inline", "--out", str(tmp_path / "o")]
    asked += ["--store", str(tmp_path / "debug")]
    result = call(*asked, *options)
    assert result.exit_code == 2
    assert f"{named}, or use --executor local" in result.stderr
    assert "Traceback" not in result.output
    assert fake_run.calls == []
    assert call("verify", str(tmp_path), "--executor", "inline", "--jobs", "2").exit_code == 2
    result = call(*asked)
    assert result.exit_code == 0
    assert "nothing confines" in result.stderr
    assert "nothing confines" not in call(*RUN, "--out", str(tmp_path / "p")).stderr


@pytest.mark.parametrize("command", [RUN, ("reproduce", "table4", "--data-dir", ".")])
def test_inline_results_are_kept_apart(fake_run, tmp_path, command):
    result = call(*command, "--executor", "inline", "--out", str(tmp_path / "o"))
    assert result.exit_code == 2
    assert "name a store of its own with --store FOLDER" in result.stderr
    assert fake_run.calls == []
