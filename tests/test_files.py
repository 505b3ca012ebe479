"""kdbench/_files.py: files that appear whole or not at all, and what a full disk is called."""

from __future__ import annotations

import errno

import pytest
import torch

from kdbench._files import save_tensors


def test_a_folder_that_is_gone_is_an_error_of_the_machine(tmp_path):
    with pytest.raises(OSError, match="No such file or directory") as caught:
        save_tensors({"a": torch.zeros(3)}, tmp_path / "gone" / "a.safetensors")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "gone" / "a.safetensors")


def test_so_is_a_full_disk(tmp_path, monkeypatch):
    """safetensors calls it by a name of its own, which nobody above would expect."""
    import safetensors.torch

    def full(*arguments: object, **options: object) -> None:
        # Its words, as on a full tmpfs.
        raise safetensors.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_tensors({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    assert caught.value.errno == errno.ENOSPC
