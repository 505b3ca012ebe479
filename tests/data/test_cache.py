"""Decoded pixels on disk: used, rebuilt, never half-written, decoded once."""

from __future__ import annotations

import os
import resource
import threading
import time

import pytest
import torch

from kdbench.data import cache as cache_module
from kdbench.data import load as load_module
from kdbench.data import load_dataset
from tests.data.pictures import folder, save


def test_cache_is_used_and_rebuilt(tree, monkeypatch):
    first = folder(tree)
    entries = sorted((tree.parent / "cache").glob("*.safetensors"))
    assert len(entries) == 2
    assert {e.suffix for e in (tree.parent / "cache").iterdir()} == {".safetensors", ".lock"}
    with monkeypatch.context() as patch:
        patch.setattr(load_module, "decode_image", lambda *a: pytest.fail("decoded again"))
        assert folder(tree).digest == first.digest
    for damage in (lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:50], lambda b: b""):
        for entry in entries:
            entry.write_bytes(damage(entry.read_bytes()))
        assert folder(tree).digest == first.digest
    save(tree / "train" / "ant" / "0.png", 7)
    assert folder(tree).digest != first.digest


def test_no_cache_is_no_error(tree):
    expected = folder(tree).digest
    assert (
        load_dataset(
            f"imagefolder:{tree}", image_size=8, cache_dir=tree / "train" / "ant" / "0.png"
        ).digest
        == expected
    )
    entry, limits = tree / "full" / "entry.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk, writing fails half-way.
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        cache_module.write_entry(entry, torch.zeros(100_000, dtype=torch.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(entry.parent.iterdir()) == []


def test_an_interrupted_cache_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache_module.write_entry(tmp_path / "entry.safetensors", torch.zeros(10, dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == []


def test_two_runs_decode_once(tree, monkeypatch):
    decode, begun, count = load_module.decode_image, threading.Event(), []

    def slow(path, size, alone):
        count.append(path)
        begun.set()
        time.sleep(0.02)
        return decode(path, size, alone)

    monkeypatch.setattr(load_module, "decode_image", slow)
    other = threading.Thread(target=folder, args=(tree,))
    other.start()
    assert begun.wait(300)
    folder(tree)
    other.join()
    assert len(count) == 27
    # A lock that is never released costs the wait, not the run.
    monkeypatch.setattr(cache_module, "_PATIENCE", 0.05)
    entry = tree.parent / "held.safetensors"
    with cache_module.one_at_a_time(entry):
        begin = time.monotonic()
        with cache_module.one_at_a_time(entry):
            assert time.monotonic() - begin >= 0.05
