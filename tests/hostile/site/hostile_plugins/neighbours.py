"""Jobs that interfere with those beside them: in their process, or through what a fork left."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import time

import torch
from hostile_kit import alive, defense, descriptors, frames, say

from kdbench.hookspecs import hookimpl
from kdbench.models.base import FeatureModel

HINTS = {}


def ruins(student, setting):
    """Zeroes every other network that trains in its process."""
    return Zero(student)


class Zero(torch.nn.Module):
    def __init__(self, own):
        super().__init__()
        self.own = [own]

    def forward(self, batch, teacher_out, student_out):
        for model in alive(FeatureModel):
            if model is not self.own[0] and model.training:
                for value in model.parameters():
                    value.data.zero_()
        return {"nothing": student_out.logits.sum() * 0}


def sleeps(student, setting):
    time.sleep(4)


def steals(student, setting):
    """End the neighbours' jobs in their name, by whatever this process still holds of them."""
    end = time.monotonic() + 4
    while time.monotonic() < end:
        for token in tokens():
            say(b"".join(lines(token)))
        for number in descriptors():
            with contextlib.suppress(OSError):
                os.set_blocking(number, False)
                os.read(number, 1 << 16)
        time.sleep(1)


def lines(token):
    """What may end a job of this name."""
    for report in (
        {"job": token, "exit": 0},
        {"job": token, "status": "ok", "facts": {}, "files": []},
        {"exit": 0, "peak_mb": 1.0},
    ):
        yield json.dumps(report).encode() + b"\n"


def tokens():
    """Names of jobs in every variable and object of this process. Its own comes last."""
    others, rest = set(), set()
    for names in frames():
        for value in list(names.values()):
            by_process = type(value) is dict and all(type(key) is int for key in value)
            (others if by_process else rest).update(words_in(value))
    for thing in gc.get_objects():
        if type(thing) is dict and len(thing) < 50:
            rest |= words_in(thing)
    return [*others, *sorted(rest - others)]


def words_in(value):
    with contextlib.suppress(Exception):
        return set(re.findall(r"\b[0-9a-f]{16}\b|\b[0-9a-f]{32}\b", repr(value)[:5000]))
    return set()


@hookimpl
def kdbench_defenses():
    acts = {"sleeps": sleeps, "sleeps_too": sleeps, "steals": steals}
    return [defense("neighbours", acts, training={"ruins": ruins})]
