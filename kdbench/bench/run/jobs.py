"""From a stage to a job: its folder laid out, and everything said that its process may know."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from kdbench.bench.keys import MODEL, TRIGGER
from kdbench.bench.plan.plan import Stage
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.images import image_reads, keep_images
from kdbench.bench.work.job import Job
from kdbench.loading.answers import Answers


@dataclass(frozen=True)
class Jobs:
    """Lays out the jobs of a run."""

    prepared: Prepared
    registry: Answers
    store: Store
    checkpoint_s: float
    profile: bool

    def lay_out(self, stage: Stage) -> Job:
        """Lay out the folder of a job: copies of its inputs, so that nobody can change what the
        store holds."""
        folder = self.store.workspace(stage.key)
        for name in ("in", "out"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(parents=True)
        inputs = {}
        for role, key in stage.inputs.items():
            inputs[role] = f"{role}.safetensors"
            held = self.store.folder(key) / (TRIGGER if role == "trigger" else MODEL)
            shutil.copyfile(held, folder / "in" / inputs[role])
        dataset, numerics = self.prepared.parts[stage.part].dataset, self.prepared.numerics
        split = stage.kind.sees
        images = keep_images(self.store, dataset, split)
        values = dict(stage.values)
        task = {
            "kind": stage.kind,
            "picture": values.pop("picture", ""),
            "values": values,
            "seed": stage.seed,
            "random_seed": stage.random_seed(),
            "stream_seed": stage.stream_seed(),
            "folder": str(folder),
            "inputs": inputs,
            "train": str(images) if split == "train" else None,
            "test": str(images) if split == "test" else None,
            "num_classes": dataset.num_classes,
            "image_size": dataset.image_size,
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "pad": dataset.augmentation.pad,
            "flip": dataset.augmentation.flip,
            "device": str(numerics.device),
            "bf16": numerics.bf16,
            "threads": numerics.threads,
            "packages": list(self.registry.packages()),
            "points": self.registry.points(_methods(values)),
            "checkpoint_s": self.checkpoint_s,
            "profile": self.profile,
        }
        for name, content in self.registry.files().items():
            (folder / "plugins").mkdir(exist_ok=True)
            (folder / "plugins" / f"{name}.py").write_bytes(content)
        return Job(
            stage.key,
            stage.kind,
            stage.title,
            folder,
            task,
            (images, *image_reads(dataset, split == "test")),
        )


def _methods(values: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of every method, and of the network, that a stage is told to use."""
    nested = [values, values.get("distiller"), values.get("defense")]
    methods = [(v["kind"], v["name"]) for v in nested if isinstance(v, dict) and "kind" in v]
    return [*methods, ("model", values["model"])] if "model" in values else methods
