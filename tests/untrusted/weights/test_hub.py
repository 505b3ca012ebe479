"""Teachers from the hub: pinned, and as foreign as any other file. The hub is a folder here."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors.torch import save_file

from kdbench.cli import main
from kdbench.errors import ConfigError, IntegrityError, UsageError
from kdbench.untrusted.weights.hub import fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = f"hf:somebody/small@{COMMIT}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that stands for the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()

    def download(repository, name, *, revision):
        assert revision == COMMIT
        if repository == "somebody/nowhere":
            raise LocalEntryNotFoundError("no network")
        if repository != "somebody/small":
            raise RepositoryNotFoundError("404", response=_Response())
        if not (folder / name).exists():
            raise EntryNotFoundError("404")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return folder


class _Response:
    headers: dict = {}
    request = None
    status_code = 404


def describe(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))


def test_a_teacher_comes_in_by_the_same_door(hub, tmp_path):
    import timm

    network = timm.create_model("resnet10t", num_classes=5)
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, hub / "model.safetensors"
    )
    describe(hub, architecture="resnet10t", num_classes=5)
    ran = CliRunner().invoke(
        main, ["import-teacher", NAME, "--dataset", "signs", "--store", str(tmp_path / "store")]
    )
    assert ran.exit_code == 0, ran.output
    assert "imported small: timm/resnet10t for signs, 5 classes" in ran.output
    (entry,) = (tmp_path / "store").glob("vault.*/teachers/*.json")
    record = json.loads(entry.read_text())
    assert record["origin"]["hub"] == NAME
    assert record["num_classes"] == 5


def test_the_older_file_will_do_and_a_description_may_lack(hub):
    torch.save({}, hub / "pytorch_model.bin")
    fetched = fetch(NAME)
    assert (fetched.file, fetched.model, fetched.num_classes) == (
        Path(hub / "pytorch_model.bin"),
        None,
        None,
    )


@pytest.mark.parametrize(
    "config",
    [{"architecture": "../x", "num_classes": "5"}, {"architecture": 3, "num_classes": True}, {}],
)
def test_a_description_is_not_believed(hub, config):
    (hub / "model.safetensors").write_bytes(b"")
    describe(hub, **config)
    fetched = fetch(NAME)
    assert (fetched.model, fetched.num_classes) == (None, None)


def test_what_a_description_says_of_the_use_is_taken_if_it_can_be(hub):
    (hub / "model.safetensors").write_bytes(b"")
    use = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 1], "input_size": [3, 96, 96]}
    describe(hub, num_classes=2, label_names=["b", "a"], pretrained_cfg=use)
    hints = fetch(NAME).hints
    assert (hints.mean, hints.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    assert (hints.image_size, hints.num_classes, hints.labels) == (96, 2, ("b", "a"))
    for wrong in (
        {"mean": [124, 116, 104], "input_size": [1, 28, 28]},
        {"mean": "half", "input_size": [3, 96, 128]},
        {"std": [0, 0, 0], "input_size": [3, True, True]},
        {"std": [True, 0.5, 0.5], "input_size": [3, 10**9, 10**9]},
        {"mean": None, "input_size": "96"},
    ):
        describe(hub, label_names=[1], pretrained_cfg=use | wrong)
        hints = fetch(NAME).hints
        assert (hints.mean, hints.std, hints.image_size, hints.labels) == (None, None, None, ())
    describe(hub, pretrained_cfg=[])
    assert fetch(NAME).hints.mean is None


@pytest.mark.parametrize(
    ("reference", "error", "says"),
    [
        (
            "hf:somebody/small@main",
            ConfigError,
            "a branch or a tag may name other weights tomorrow",
        ),
        ("hf:somebody/small", ConfigError, "40 hexadecimal digits"),
        (f"hf:../small@{COMMIT}/x", ConfigError, "is not hf:OWNER/NAME@COMMIT"),
        (f"hf:somebody/else@{COMMIT}", UsageError, "there is no somebody/else at"),
        (f"hf:somebody/nowhere@{COMMIT}", UsageError, "is there a network"),
        (NAME, UsageError, r"has none of model.safetensors, pytorch_model.bin"),
    ],
)
def test_what_cannot_be_fetched(hub, reference, error, says):
    with pytest.raises(error, match=says):
        fetch(reference)


@pytest.mark.parametrize(
    ("content", "says"), [(b"{", "is not JSON"), (b" " * (1 << 20) + b"{}", "larger than 1 MiB")]
)
def test_a_bad_description(hub, content, says):
    (hub / "config.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=says):
        fetch(NAME)


def test_a_repository_names_a_network(hub):
    describe(hub, architecture="resnet10t", num_classes=5, model_args={})
    arguments = ["plan", "--attack", "badnets", "--teacher", NAME, "--student", "wrn16_2", "--toml"]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.output
    assert f"{NAME} is timm/resnet10t" in ran.stderr
    assert 'pairs = [["timm/resnet10t", "wrn16_2"]]' in ran.stdout


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"architecture": "resnet10t", "model_args": {"depth": 3}},
            "changes the network that it names",
        ),
        ({}, "names no network of timm"),
        ({"architecture": "no_such_network"}, "unknown timm model 'no_such_network'"),
    ],
)
def test_a_repository_that_names_none(hub, config, says):
    describe(hub, **config)
    ran = CliRunner().invoke(
        main, ["plan", "--attack", "badnets", "--teacher", NAME, "--student", "wrn16_2"]
    )
    assert ran.exit_code == 2
    assert says in ran.output


def test_without_a_model_nothing_is_read(hub):
    (hub / "model.safetensors").write_bytes(b"")
    ran = CliRunner().invoke(main, ["import-teacher", NAME, "--dataset", "signs"])
    assert ran.exit_code == 2
    assert "give --model" in ran.output
