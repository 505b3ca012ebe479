"""What the door checks by itself: the kind of a file, its names, and its tensors."""

from __future__ import annotations

import json

import pytest
import torch

from kdbench.errors import IntegrityError
from kdbench.untrusted.weights import kinds, weights
from tests.untrusted.weights.files import expected_tensors
from tests.untrusted.weights.good import good


def test_unwrapping_needs_one_table_of_tensors():
    state = {"a": torch.zeros(1)}
    assert weights.unwrap({"net": {"state_dict": state}, "epoch": 1}) == (
        state,
        ["net", "state_dict"],
    )
    for loaded, says in (
        ([state], "a 'list' where"),
        ({"model": state, "net": state}, "several networks: model, net"),
        ({"model": {"model": {"model": {"model": state}}}}, "too deeply"),
        ({1: torch.zeros(1)}, "not a text"),
        ({"a": 1.0}, "'a' is a 'float'"),
        ({"other": state}, "'other' is a 'dict'"),
    ):
        with pytest.raises(IntegrityError, match=says):
            weights.unwrap(loaded)


def test_a_prefix_goes_only_where_every_name_has_it_and_the_network_has_none():
    one, expected = torch.zeros(1), {"a": ((1,), "float32"), "b": ((1,), "float32")}
    assert weights.rename({"module.a": one, "module.b": one}, expected) == (
        {"a": one, "b": one},
        ["module."],
    )
    mixed = {"module.a": one, "b": one}
    assert weights.rename(mixed, expected) == (mixed, [])
    own = {"module.a": ((1,), "float32")}
    assert weights.rename({"module.a": one}, own) == ({"module.a": one}, [])
    assert weights.rename({"a": one}, {"body.a": ((1,), "float32")}) == ({"body.a": one}, ["body."])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_become_float32(dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in good().items()}
    found, converted, absent = weights.to_weights(state, expected_tensors())
    assert (converted, absent) == ([str(dtype).removeprefix("torch.")], 0)
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("fc.bias", lambda t: t.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
        ("fc.bias", lambda t: t.to(torch.complex64), "is complex64"),
        ("final_norm.num_batches_tracked", lambda t: t.int(), "is int32, where int64"),
        ("final_norm.num_batches_tracked", lambda t: t - 1, "negative"),
        ("fc.bias", lambda t: torch.nested.nested_tensor([t], layout=torch.jagged), "nested"),
        ("fc.bias", lambda t: torch._neg_view(t), "claims more"),
    ],
)
def test_tensors_of_another_kind_are_refused(name, change, says):
    state = good()
    state[name] = change(state[name])
    with pytest.raises(IntegrityError, match=says):
        weights.to_weights(state, expected_tensors())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        ((2).to_bytes(8, "little") + b"{", "cut off within"),
        ((13).to_bytes(8, "little") + b'{"a":1,"a":2}', "twice"),
        ((7).to_bytes(8, "little") + b'{"a":1}', "'a' is not valid"),
        ((2).to_bytes(8, "little") + b"{}x", "do not fill"),
        ((1).to_bytes(8, "little") + b"{", "header is not valid"),
    ],
)
def test_what_is_no_checkpoint_is_told_without_torch(tmp_path, content, says):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(IntegrityError, match=says):
        kinds.kind_of(tmp_path / "file")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
    ],
)
def test_entries_of_a_header_are_checked(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(IntegrityError, match="'a'"):
        kinds.kind_of(tmp_path / "file")
