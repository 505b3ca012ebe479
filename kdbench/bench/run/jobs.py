"""From a stage to a job: its folder laid out, and everything said that its process may know. And
from what the job left there to the stage's result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench.bench.keys import MODEL, TRIGGER
from kdbench.bench.plan.plan import Stage
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.run.folders import JobFolders
from kdbench.bench.run.measures import Measures
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.images import IMAGES, POOL, Seen, keep_images
from kdbench.bench.store.manifest import Manifest
from kdbench.bench.work.job import BOX, IN, OUT, PLUGINS, Companion, Job, Outcome
from kdbench.loading.answers import Answers


@dataclass(frozen=True)
class Jobs:
    """Lays out the jobs of a run."""

    prepared: Prepared
    registry: Answers
    store: Store
    folders: JobFolders
    checkpoint_s: float
    profile: bool
    #: Threads that decode images which stay on disk, for each job.
    decoders: int = 1
    seen: dict[Any, Seen] = field(default_factory=dict)

    def lay_out(self, stage: Stage) -> Job:
        """Lay out a new folder of a job: copies of its inputs, so that nobody can change what the
        store holds.

        Raises:
            DamagedError: an input is damaged.
            DatasetError: an image of an unlabeled pool cannot be decoded.
            IntegrityError: an input names a class that it cannot be made of.
            OSError: the disk is full.
        """
        folder = self.folders.make(stage.key)
        inputs = {}
        for role, key in stage.inputs.items():
            inputs[role] = f"{role}.safetensors"
            held = TRIGGER if role == "trigger" else MODEL
            self.store.copy_out(key, held, folder / IN / inputs[role])
        dataset, numerics = self.prepared.parts[stage.part].dataset, self.prepared.numerics
        seen = self._seen(stage)
        keep_images(self.store, seen, folder / IN / IMAGES)
        pool = self._pool(stage, seen)
        if pool is not None:
            keep_images(self.store, pool, folder / IN / POOL)
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
            "images": IMAGES,
            "pool": "" if pool is None else POOL,
            "num_classes": dataset.num_classes,
            "image_size": dataset.image_size,
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "pad": dataset.augmentation.pad,
            "flip": dataset.augmentation.flip,
            "device": str(numerics.device),
            "bf16": numerics.bf16,
            "threads": numerics.threads,
            "packages": self.measures.packages(stage, folder, inputs),
            "network": stage.networks[0] if stage.networks else "",
            "points": self.registry.points(_methods(stage, values)),
            "checkpoint_s": self.checkpoint_s,
            "profile": self.profile,
            "decoders": self.decoders,
        }
        companions = self.measures.companions(stage, folder, task)
        self._write_plugins(folder, task, companions)
        return Job(
            stage.key,
            stage.kind,
            stage.title,
            folder,
            task,
            seen.reads,
            companions,
            self.limit_bytes(stage),
        )

    def _write_plugins(
        self, folder: Path, task: dict[str, Any], companions: Iterable[Companion]
    ) -> None:
        """Write those plugins that are files and that a job needs. Others would tell it which
        attacks and defenses the run has."""
        needed = {module.partition(":")[0] for module in task["points"].values()}
        needed |= {name for names in task["packages"].values() for name in names}
        self._write(folder / PLUGINS, needed)
        for companion in companions:
            (folder / PLUGINS / companion.name).mkdir()
            self._write(folder / PLUGINS / companion.name, companion.order["packages"])

    def _write(self, folder: Path, needed: Collection[str]) -> None:
        for name, content in self.registry.files().items():
            if name in needed:
                (folder / f"{name}.py").write_bytes(content)

    def _seen(self, stage: Stage) -> Seen:
        """The images that the process of a stage may open."""
        part = self.prepared.parts[stage.part]
        preset = part.resolved.preset
        seen = Seen(
            part.dataset,
            stage.kind.sees,
            part.resolved.spec.data_seed,
            preset.transfer_fraction,
            preset.clean_fraction,
            stage.seed,
        )
        return self._once(stage, seen)

    def _pool(self, stage: Stage, seen: Seen) -> Seen | None:
        """The images without labels that it may open besides. None: none."""
        # The values of a distillation hold those of its defense. Other kinds have the defense's.
        unlabeled = (stage.values.get("defense") or stage.values).get("unlabeled")
        if unlabeled is None:
            return None
        return self._once(stage, replace(seen, split="pool", unlabeled=unlabeled))

    def _once(self, stage: Stage, seen: Seen) -> Seen:
        """The set is cut once for all stages that see the same images."""
        return self.seen.setdefault((stage.part, *seen.choice), seen)

    def publish(self, stage: Stage, outcome: Outcome, job: Path) -> Manifest:
        """Check what a job left in its folder, and keep it as the result of its stage.

        Raises:
            Exception: it cannot be kept. The plugin of a network may raise anything.
        """
        return self.store.publish(
            stage.key,
            job / BOX / OUT,
            stage.kind.files,
            kind=stage.kind,
            title=stage.title,
            facts=outcome.facts,
            seconds=outcome.seconds,
            peak_mb=outcome.peak_mb,
            ingredients=stage.ingredients(),
            limit_bytes=self.limit_bytes(stage),
            check=self.check(stage),
        )

    def limit_bytes(self, stage: Stage) -> int:
        """How many bytes each file of a stage's result may have."""
        return self.measures.limit(stage, *self._sizes(stage))

    def check(self, stage: Stage) -> Callable[[Path], None] | None:
        """What looks at the folder of a stage's files before they are kept."""
        return self.measures.check(stage, *self._sizes(stage))

    def _sizes(self, stage: Stage) -> tuple[int, int]:
        dataset = self.prepared.parts[stage.part].dataset
        return dataset.num_classes, dataset.image_size

    @cached_property
    def measures(self) -> Measures:
        """Which code inputs are made of, and which companions measure them."""
        return Measures(self.prepared.plan.stages, self.registry.points, self.registry.network)


def _methods(stage: Stage, values: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of every method that a stage is told to use, and of the network that it must
    leave. A stage that measures gets no code of a plugin."""
    nested = [values, values.get("distiller"), values.get("defense")]
    methods = [(v["kind"], v["name"]) for v in nested if isinstance(v, dict) and "kind" in v]
    leaves = [("model", stage.networks[0])] if MODEL in stage.kind.files else []
    return [*methods, *leaves]
