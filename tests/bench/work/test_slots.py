"""Jobs never fight for cores: threads that wait for one another spinning, on cores of others, take
eight times as long."""

from __future__ import annotations

import pytest
import torch

from kdbench.bench.work.executors import slots
from kdbench.numerics import Numerics


def share(monkeypatch, jobs, threads, cores):
    monkeypatch.setattr(slots, "cores", lambda: cores)
    return slots.share_machine(jobs, Numerics(torch.device("cpu"), bf16=False, threads=threads))


@pytest.mark.parametrize(
    ("jobs", "threads", "cores", "found", "pace"),
    [
        (1, 2, 2, 1, 1),
        (2, 2, 2, 1, 1),
        (2, 1, 2, 2, 2),
        (4, 1, 2, 4, 2),
        (4, 2, 16, 4, 4),
        (4, 6, 16, 2, 2),
        (2, 8, 4, 1, 1),
    ],
)
def test_cores_are_divided(monkeypatch, jobs, threads, cores, found, pace):
    shared = share(monkeypatch, jobs, threads, cores)
    assert (shared.jobs, shared.pace, shared.devices) == (found, pace, ())
    assert bool(shared.note) == (found < jobs)


def test_the_note_says_what_to_do(monkeypatch):
    note = share(monkeypatch, 4, 16, 16).note
    assert note.startswith(
        "--jobs 4: stages of 16 threads on 16 cores, so one stage runs at a time; more do with "
        "--threads 4,"
    )
    assert "2 stages run side by side" in share(monkeypatch, 4, 8, 16).note


def test_every_worker_gets_one_of_the_cards(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    shared = slots.share_machine(2, Numerics(torch.device("cuda"), bf16=True, threads=1))
    assert (shared.jobs, shared.devices, shared.note) == (2, ("3", "5"), "")
    assert (
        slots.share_machine(2, Numerics(torch.device("cuda:1"), bf16=True, threads=1)).devices == ()
    )
