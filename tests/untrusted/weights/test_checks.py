"""What the door checks by itself: the kind of a file, its names, and its tensors."""

from __future__ import annotations

import json
import re

import pytest
import torch

from kdbench.errors import IntegrityError
from kdbench.untrusted.weights import kinds, weights
from tests.untrusted.weights.files import expected_tensors
from tests.untrusted.weights.good import good


def _expected(*names):
    return {name: ((1,), "float32") for name in names}


def _find(loaded, *names):
    return weights.find(loaded, _expected(*names), "torch zip")


def test_unwrapping_needs_one_table_of_tensors():
    state = {"a": torch.zeros(1)}
    read = _find({"net": {"state_dict": state}, "epoch": 1}, "a")
    assert (read.state, read.unwrapped) == (state, ("net", "state_dict"))
    for loaded, says in (
        ([state], "a 'list' where"),
        ({"model": state, "net": state}, "several networks: model, net"),
        ({"model": {"model": {"model": {"model": state}}}}, "too deeply"),
        ({1: torch.zeros(1), **state}, "not a text"),
        ({"a": 1.0, "b": torch.zeros(1)}, "'a' is a 'float'"),
        ({**state, "b": [1]}, "'b' is a 'list'"),
    ):
        with pytest.raises(IntegrityError, match=says):
            _find(loaded, "a")


def test_the_table_that_fits_is_taken_wherever_it_is():
    state, other = {"a": torch.zeros(1)}, {"a": torch.zeros(2)}
    assert _find({"weights": state}, "a").unwrapped == ("weights",)
    assert _find({"net": other, "model": state}, "a").unwrapped == ("model",)
    assert _find({"optimizer": {0: state}, "run": {"best": state}}, "a").unwrapped == (
        "run",
        "best",
    )
    beside = _find({"state_dict": state, "ema_state_dict": {"a": torch.ones(1)}}, "a")
    assert (beside.unwrapped, beside.beside) == (("state_dict",), ("ema_state_dict",))
    assert float(beside.state["a"]) == 0
    with pytest.raises(IntegrityError, match="several networks: best, last"):
        _find({"best": state, "last": state}, "a")


def test_a_word_goes_only_where_the_names_then_are_those_of_the_network():
    tensor = torch.zeros(1)

    def found(*names, network=("a", "b")):
        read = _find({"state_dict": {name: tensor for name in names}}, *network)
        return list(read.state), list(read.prefixes), list(read.words)

    assert found("module.a", "module.b") == (["a", "b"], ["module."], [])
    assert found("any.word.a", "any.word.b") == (["a", "b"], ["any.", "word."], [])
    assert found("module.a", "b") == (["a", "b"], [], ["module."])
    assert found("f.module.a", "c.b", network=("f.a", "c.b")) == (["f.a", "c.b"], [], ["module."])
    assert found("backbone.a", "head.b") == (["a", "b"], [], ["backbone.", "head."])
    assert found("module.a", network=("module.a",)) == (["module.a"], [], [])
    assert found("a", network=("body.a",)) == (["body.a"], ["body."], [])
    assert found("body.a", network=("body.a",)) == (["body.a"], [], [])
    assert found("x.body.a", network=("body.a",)) == (["body.a"], ["x."], [])
    # A word that a terminal could obey, or a long one, is none that a script puts there.
    for names, says in (
        (("one.a", "one.b", "two.a", "two.b"), "the network 2 times, behind 'one.' and 'two.'"),
        (("one.a", "c"), "1 missing ('b'), 1 unknown ('c')"),
        (("\x1b[31m.a", "\x1b[31m.b"), "2 missing"),
        (("x" * 61 + ".a", "x" * 61 + ".b"), "2 missing"),
    ):
        with pytest.raises(IntegrityError, match=re.escape(says)):
            found(*names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_become_float32(dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in good().items()}
    tensors, converted, absent = weights.to_weights(state, expected_tensors())
    assert (converted, absent) == ([str(dtype).removeprefix("torch.")], 0)
    assert all(torch.equal(t, state[name].to(t.dtype)) for name, t in tensors.items())


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
