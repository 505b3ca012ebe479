"""Jobs that are laid out as a run does it, with nothing to compute."""

from __future__ import annotations

import os

from kdbench.bench.kinds import Kind
from kdbench.bench.work.job import Companion, Job
from tests.bench.work.tasks import task_record


def laid_out(folder, key="key", kind=Kind.DISTILL, **changes):
    """A job in a new folder, with an image file, a model, a plugin and a checkpoint."""
    for name in ("in", "plugins", "box", "box/out", "box/checkpoints", "box/traces", "box/tmp"):
        (folder / name).mkdir(parents=True)
    images = folder.parent / "images.safetensors"
    if not images.exists():
        images.write_bytes(b"images")
    os.link(images, folder / "in" / "images.safetensors")
    (folder / "in" / "model.safetensors").write_bytes(f"model of {key}".encode())
    (folder / "plugins" / "mine.py").write_text("x = 1\n")
    (folder / "box" / "checkpoints" / "fit-0.safetensors").write_bytes(b"half way")
    task = task_record(folder, kind, inputs={"model": "model.safetensors"})
    return Job(key, kind, f"title of {key}", folder, task, **changes)


def companion_of(folder):
    """A companion as a measurement has it."""
    (folder / "plugins" / "network").mkdir()
    (folder / "plugins" / "network" / "mine.py").write_text("x = 2\n")
    path, plugins = folder / "in" / "model.safetensors", folder / "plugins" / "network"
    order = {"role": "network", "file": str(path), "plugins": str(plugins), "packages": ["mine"]}
    return Companion("network", "module:function", order, (path, plugins))
