"""Streamed images: the same batches as decoded ones."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from kdbench.data import Augmentation, decoding
from kdbench.data import load as load_module
from kdbench.data.stream import StreamedImages
from kdbench.errors import DatasetError
from tests.data.pictures import folder, seeded


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_names_the_file_it_cannot_decode(tree, workers):
    paths = sorted((tree / "train" / "ant").iterdir())
    paths[3].write_bytes(b"no picture")
    images = StreamedImages(paths, torch.zeros(len(paths)), 8, workers=workers)
    with pytest.raises(
        DatasetError, match=r"^cannot decode image .*3\.png: .*; replace or remove the file$"
    ):
        list(images.batches(2))
    with pytest.raises(DatasetError, match=r"^cannot decode image .*3\.png"):
        images.read(torch.tensor([3]))
    assert images.read(torch.tensor([2])).shape == (1, 3, 8, 8)


def test_streamed_images_match_decoded_ones(tree, monkeypatch):
    held = folder(tree).train
    with monkeypatch.context() as patch:
        patch.setattr(load_module, "MEMORY_LIMIT", 0)
        data = folder(tree, train_size=12)
        streamed = folder(tree).train
        assert data.digest == folder(tree, train_size=12).digest != folder(tree).digest
    assert isinstance(streamed, StreamedImages)
    streamed._workers = 0
    state = torch.get_rng_state()
    for workers in (0, 2):
        streamed._workers = workers
        for a, b in zip(
            held.batches(5, generator=seeded(), augmentation=Augmentation(2)),
            streamed.batches(5, generator=seeded(), augmentation=Augmentation(2)),
            strict=True,
        ):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.positions, b.positions)
            assert torch.equal(a.labels, b.labels)
    assert torch.equal(state, torch.get_rng_state())
    rows, extra = torch.tensor([17, 3, 3]), torch.rand(2, 3, 8, 8)
    streamed._workers = 0
    grown, expected = (
        s.subset(rows).extended(extra, torch.tensor([0, 1])).extended(extra[:1], torch.tensor([2]))
        for s in (streamed, held)
    )
    everything = torch.arange(6)
    assert torch.equal(grown.read(everything), expected.read(everything))
    assert torch.equal(grown.labels, expected.labels)
    back = grown.subset(torch.tensor([5, 0]))
    assert torch.equal(next(back.batches(2)).images, expected.read(torch.tensor([5, 0])))
    assert streamed.read(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 8, 8)


def decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def stream(tree, workers):
    paths = sorted(tree.glob("train/*/*.png"))
    return StreamedImages(paths, torch.zeros(len(paths)), 8, workers=workers)


def test_a_pass_that_is_left_early_leaves_no_thread(tree):
    batches = stream(tree, 2).batches(2)
    next(batches)
    assert decoders()
    batches.close()
    assert not decoders()


def test_few_batches_are_decoded_ahead(tree, monkeypatch):
    decoded = []

    def decode(path, size, alone):
        decoded.append(path)
        return torch.zeros(size, size, 3, dtype=torch.uint8)

    monkeypatch.setattr(decoding, "decode_image", decode)
    batches = stream(tree, 2).batches(2)
    next(batches)
    batches.close()
    assert len(decoded) <= 3 * 2 < 18


def test_a_forked_process_decodes_as_its_parent_did(tree):
    images = stream(tree, 2)
    expected = torch.cat([batch.images for batch in images.batches(5)])
    pid = os.fork()
    if not pid:
        same = torch.equal(torch.cat([batch.images for batch in images.batches(5)]), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_jobs_side_by_side_share_the_cpus(monkeypatch):
    monkeypatch.setattr(decoding, "usable_cpus", lambda: 8)
    assert [decoding.decoding_threads(jobs) for jobs in (1, 2, 3, 20)] == [8, 4, 2, 1]
