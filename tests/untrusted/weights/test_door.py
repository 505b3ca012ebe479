"""The door for foreign weights: good files come in unchanged, and a wrong request is told from a
bad file."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
import torch

import kdbench
from kdbench.errors import ConfigError, IntegrityError, UnknownMethodError, UsageError
from kdbench.untrusted.weights import Foreign, door, process, read_foreign
from tests.untrusted.weights.files import build, read, save_half, save_zip, sha256
from tests.untrusted.weights.good import good


def _save_legacy_wrapped(path):
    wrapped = {
        "epoch": 3,
        "state_dict": {f"module.{name}": tensor for name, tensor in good().items()},
        "best": 71.2,
    }
    torch.save(wrapped, path, _use_new_zipfile_serialization=False)


def _save_parameters(path):
    state = {
        name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in good().items()
    }
    torch.save(
        {
            "model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
            "optimizer": {"lr": 0.1},
        },
        path,
    )


def _save_channels_last(path):
    # What every network saves that was trained in this layout: strides in another order, and a view
    # of a larger storage.
    state = {
        name: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
        for name, t in good().items()
    }
    state["fc.bias"] = torch.cat([torch.ones(7), state["fc.bias"]])[7:]
    torch.save(
        {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name}, path
    )


@pytest.mark.parametrize(
    ("write", "facts"),
    [
        (save_zip, {"format": "torch zip"}),
        (
            _save_legacy_wrapped,
            {"format": "torch legacy", "unwrapped": ["state_dict"], "prefixes": ["module."]},
        ),
        (
            _save_parameters,
            {"format": "torch zip", "unwrapped": ["model"], "prefixes": ["module.", "_orig_mod."]},
        ),
        (_save_channels_last, {"format": "torch zip", "absent_counters": 7}),
        (save_half, {"format": "safetensors", "converted": ["float16"]}),
    ],
)
def test_good_weights_come_in_bit_by_bit(tmp_path, write, facts):
    # A suffix that fits none of them: the content decides.
    path = tmp_path / "weights.onnx"
    write(path)
    foreign = read(path)
    assert (
        foreign.origin
        == {
            "file": "weights.onnx",
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "converted": [],
            "unwrapped": [],
            "prefixes": [],
            "absent_counters": 0,
            "kdbench": kdbench.__version__,
            "torch": torch.__version__,
            "confinement": foreign.origin["confinement"],
        }
        | facts
    )
    assert re.fullmatch(r"none|landlock [1-7]", foreign.origin["confinement"])
    original = good()
    assert list(foreign.state) == list(original)
    for name, tensor in foreign.state.items():
        expected = (
            original[name].half().float()
            if facts.get("converted") and tensor.is_floating_point()
            else original[name]
        )
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected), name


def test_a_library_s_own_names_fit(tmp_path):
    import torchvision

    network = torchvision.models.mobilenet_v3_small(num_classes=4)
    torch.save(network.state_dict(), tmp_path / "weights")
    foreign = read_foreign(
        tmp_path / "weights", model="torchvision/mobilenet_v3_small", num_classes=4, image_size=64
    )
    assert foreign.origin["prefixes"] == ["body."]
    assert all(
        torch.equal(foreign.state[f"body.{name}"], tensor)
        for name, tensor in network.state_dict().items()
    )


def test_the_caller_s_random_state_is_left_alone(tmp_path):
    save_zip(tmp_path / "weights")
    before = torch.get_rng_state()
    read(tmp_path / "weights")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"memory_bytes": 1000}, ConfigError, "at least that"),
        ({"seconds": 0}, ConfigError, "time limit"),
        ({"seconds": float("nan")}, ConfigError, "time limit"),
        ({"expect_sha256": "12"}, ConfigError, "64 hexadecimal"),
        ({"expect_sha256": "0" * 64}, IntegrityError, "not the one expected"),
        ({"model": "wrn11_1"}, UnknownMethodError, "did you mean"),
        (
            {"num_classes": 11},
            IntegrityError,
            r"'fc.weight' is of the shape \[10, 64\], where \[11, 64\]",
        ),
    ],
)
def test_a_wrong_request_is_told_from_a_bad_file(tmp_path, options, error, says):
    save_zip(tmp_path / "weights")
    with pytest.raises(error, match=says):
        read(tmp_path / "weights", **options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"cannot open .*No such file"):
        read(tmp_path / "absent")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(UsageError, match="cannot open"):
        read(tmp_path / "link")


def test_a_file_larger_than_memory_is_not_copied(tmp_path, monkeypatch):
    with (tmp_path / "weights").open("wb") as file:
        file.truncate((1 << 30) + 1)
    monkeypatch.setattr(door, "chunks", lambda file: pytest.fail("it was copied"))
    with pytest.raises(IntegrityError, match="larger than the 1 GiB"):
        read(tmp_path / "weights", memory_bytes=1 << 30)


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="no file without an end")
def test_a_file_without_an_end_is_not_copied(tmp_path, monkeypatch):
    written = []
    (tmp_path / "weights").symlink_to("/proc/self/pagemap")
    monkeypatch.setattr(door, "Reader", lambda *_: pytest.fail("it was read"))
    copy = door._copy

    def watched(path, to, most):
        try:
            return copy(path, to, most)
        finally:
            written.append(to.stat().st_size)

    monkeypatch.setattr(door, "_copy", watched)
    with pytest.raises(IntegrityError, match="it has more bytes than its size says"):
        read(tmp_path / "weights")
    assert written == [0]


def test_a_copy_that_takes_too_long_ends(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(b"x" * 100)
    monkeypatch.setattr(door, "_COPY_SECONDS", -1.0)
    with pytest.raises(IntegrityError, match=r"copying it takes more than -1 s; copy it to a fast"):
        read(tmp_path / "weights")


def test_the_result_is_plain_data():
    assert set(Foreign.__annotations__) == {"state", "origin"}


def test_the_copy_is_private(tmp_path, monkeypatch):
    modes = []

    class Watched(process.Reader):
        def start(self):
            modes.append(
                [stat.S_IMODE(Path(folder).stat().st_mode) for folder in tmp_path.glob("kdbench-*")]
            )
            return super().start()

    monkeypatch.setattr(door, "Reader", Watched)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(IntegrityError, match="bare pickle"):
        read(build("bare pickle: protocol 4, called safetensors", tmp_path)[0])
    assert modes == [[0o700]]
    assert list(tmp_path.glob("kdbench-*")) == []
