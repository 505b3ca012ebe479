"""What the kit can test: a method, a dataset, a network."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdbench.data import Dataset, DatasetRequest, DatasetSource, load_dataset
from kdbench.data.common import split_digest
from kdbench.errors import ConfigError
from kdbench.loading.candidates import FILE_MODULE, Plugin
from kdbench.loading.orders import plugin_order
from kdbench.method import Method, Params
from kdbench.models import ModelSource, create_model
from kdbench.models.base import FeatureModel
from kdbench.testing import scene
from kdbench.testing.method_run import MethodRun, run_method, run_unseeded


@dataclass(frozen=True)
class Tested(ABC):
    """Something that is tested, and what one check has computed and others need, too."""

    kept: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    makes: ClassVar[str]
    """What it computes, for messages."""
    chance: ClassVar[str]
    """What it should draw from, for messages."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """attack, distiller, defense, dataset or model."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the command line calls it."""

    @property
    @abstractmethod
    def known_failures(self) -> Mapping[str, str]:
        """By check: why it cannot pass it."""

    @abstractmethod
    def act(self) -> None:
        """Do what it is for, under its own seed 0. The global random states stay as they are."""

    @abstractmethod
    def digest(self, seed: int) -> str:
        """SHA-256 over what it computes under a seed."""

    @abstractmethod
    def order(self) -> dict[str, Any]:
        """What a new process needs to know, see :func:`kdbench.testing.fresh.digest`."""

    def first_digest(self) -> str:
        """The digest under seed 0, computed once."""
        return self.once("digest", partial(self.digest, 0))

    def once(self, what: str, compute: Any) -> Any:
        """What ``compute()`` returned when it was first asked for."""
        if what not in self.kept:
            self.kept[what] = compute()
        return self.kept[what]


@dataclass(frozen=True)
class Subject(Tested):
    """A method."""

    cls: type[Method]
    params: Params
    """The parameters that it is tested with."""

    makes = "weights"
    chance = "setting.generator"

    @property
    def kind(self) -> str:
        return self.cls.kind

    @property
    def name(self) -> str:
        return self.cls.info.name

    @property
    def known_failures(self) -> Mapping[str, str]:
        return self.cls.known_failures

    @property
    def package(self) -> str:
        """The package whose classes a file of it may name."""
        return self.cls.__module__.partition(".")[0]

    def make(self, **changes: Any) -> Any:
        """A new instance, with other parameters where asked for."""
        return self.cls(type(self.params)(**{**self.params.model_dump(), **changes}))

    def run(self) -> MethodRun:
        """The method's run under seed 0. All checks that only look at it share one."""
        return self.once("run", lambda: run_method(self.make(), 0))

    def act(self) -> None:
        run_unseeded(self.make(), 0)

    def digest(self, seed: int) -> str:
        return run_method(self.make(), seed).digest()

    def first_digest(self) -> str:
        return self.run().digest()

    def order(self) -> dict[str, Any]:
        module = self.cls.__module__
        file = sys.modules[module].__file__ if module.startswith(FILE_MODULE) else None
        params = json.loads(self.params.model_dump_json())
        return {"module": module, "cls": self.cls.__qualname__, "file": file, "params": params}

    def modules(self) -> dict[str, nn.Module]:
        """By role, the modules of its run that take images."""
        return {role: m for role, m in self.run().modules.items() if "objective" not in role}

    def images(self) -> Tensor:
        """Images that they take."""
        return scene.dataset().test.read(torch.arange(16))


@dataclass(frozen=True)
class DatasetSubject(Tested):
    """A dataset."""

    asked: str
    """As in a request: ``NAME`` or ``NAME:PATH``."""
    source: DatasetSource
    plugin: Plugin
    """The plugin that brings it."""
    others: Collection[str] = ()
    """The names of all other datasets."""
    data_dir: Path | None = None
    """Its folder, if it reads one."""
    cache_dir: str = ""
    """Where decoded images are kept. Empty: in a folder that goes with this object."""

    makes = "images"
    chance = "generators that are seeded with request.seed"

    kind = "dataset"

    @property
    def name(self) -> str:
        return self.asked.partition(":")[0]

    @property
    def known_failures(self) -> Mapping[str, str]:
        return self.source.known_failures

    def load(self, **request: Any) -> Dataset:
        """Load it as a run does, see :func:`kdbench.data.load_dataset`."""
        given = {"data_dir": self.data_dir, "cache_dir": self._cache(), **request}
        return load_dataset(self.asked, sources={self.name: self.source}, **given)

    def _cache(self) -> str:
        # All loads share the cache, so pictures are decoded once.
        return self.cache_dir or self.once("cache", _Folder).path

    def from_folder(self, folder: Path) -> Dataset:
        """Load it from another folder."""
        given: dict[str, Any] = {"data_dir": folder, "cache_dir": self._cache()}
        return load_dataset(self.name, sources={self.name: self.source}, **given)

    def root(self) -> Path | None:
        """The folder that it reads. None: it reads none."""
        path = self.asked.partition(":")[2] or self.data_dir
        return Path(path).expanduser() if path else None

    def request(self) -> DatasetRequest:
        """What a loader gets where a request leaves everything open."""
        side, nothing = self.source.image_size, None
        given = (self.asked, self.root(), False, 0, side, nothing, nothing, nothing)
        return DatasetRequest(*given, Path(self._cache()))

    def whole(self) -> Dataset:
        """All of it, under seed 0."""
        return self.once("whole", self.load)

    def few(self, seed: int = 0, **request: Any) -> Dataset:
        """About ten images of each class in both splits, so that a drawn dataset takes no time.

        They are half of the images at most. So the seed has a choice.
        """
        whole = self.whole()
        splits = {"train_size": whole.train, "test_size": whole.test}
        most = 10 * whole.num_classes
        sizes = {name: max(1, min(most, len(part) // 2)) for name, part in splits.items()}
        return self.load(seed=seed, **{**sizes, **request})

    def act(self) -> None:
        self.few()

    def digest(self, seed: int) -> str:
        return content_digest(self.few(seed))

    def order(self) -> dict[str, Any]:
        data_dir = None if self.data_dir is None else str(self.data_dir)
        # The process is ended from outside, and could not remove a folder of its own.
        places = {"data_dir": data_dir, "cache_dir": self._cache()}
        asked = {"kind": self.kind, "asked": self.asked}
        return {**asked, **places, "plugin": plugin_order(self.plugin)}


class _Folder:
    """A folder that goes with this object, or with the process."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="kdbench-check-")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def content_digest(data: Dataset) -> str:
    """SHA-256 over all that can change a result, whatever digests the dataset states."""
    facts = (data.class_names, data.mean, data.std, data.augmentation.pad, data.augmentation.flip)
    parts = (split_digest(facts, part) for part in (data.train, data.test))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


#: Sides at which a network is tried, in pixels. The first two that it takes are used.
_SIDES = (16, 32, 64, 224)


@dataclass(frozen=True)
class NetworkSubject(Tested):
    """A network."""

    asked: str
    """Its name."""
    source: ModelSource
    plugin: Plugin
    """The plugin that brings it."""

    makes = "weights"
    chance = "torch's global random state"

    kind = "model"

    @property
    def name(self) -> str:
        return self.asked

    @property
    def known_failures(self) -> Mapping[str, str]:
        return self.source.known_failures

    @property
    def package(self) -> str:
        """The package whose classes a file of it may name."""
        return self.plugin.module.partition(":")[0].partition(".")[0]

    @property
    def sources(self) -> dict[str, ModelSource]:
        return {self.name: self.source}

    def build(
        self, *, seed: int = 0, classes: int = scene.CLASSES, side: int | None = None
    ) -> FeatureModel:
        """The network with fresh weights from the seed, in eval mode, as a stage has it."""
        with scene.seeded(seed):
            return self.unseeded(classes, side or self.sides()[0])

    def unseeded(self, classes: int, side: int) -> FeatureModel:
        """As :meth:`build`, with the global random state as it is."""
        model = create_model(self.name, classes, image_size=side, sources=self.sources)
        data = scene.dataset()
        model.set_normalization(data.mean, data.std)
        scene.NUMERICS.place(model)
        return model.eval()

    def sides(self) -> list[int]:
        """The first two sides of images that it takes. It refuses one by a ConfigError."""
        return self.once("sides", self._sides)

    def _sides(self) -> list[int]:
        taken: list[int] = []
        for side in _SIDES:
            try:
                with scene.seeded(0), torch.no_grad():
                    self.unseeded(scene.CLASSES, side)(scene.pictures(side, 2))
            except ConfigError:
                continue
            taken.append(side)
            if len(taken) == 2:
                break
        if not taken:
            raise ConfigError(f"{self.name} takes images of none of the sides {_SIDES}")
        return taken

    def images(self, count: int = 8) -> Tensor:
        """Images of the first side, float32 (count, 3, H, W)."""
        return scene.pictures(self.sides()[0], count)

    def act(self) -> None:
        with torch.no_grad():
            self.unseeded(scene.CLASSES, self.sides()[0])(self.images())

    def digest(self, seed: int) -> str:
        model = self.build(seed=seed)
        with torch.no_grad(), scene.seeded(0):
            logits = model(self.images())
        return MethodRun({"network": model, "logits": _Held(logits)}).digest()

    def order(self) -> dict[str, Any]:
        return {"kind": self.kind, "asked": self.asked, "plugin": plugin_order(self.plugin)}

    def trained(self) -> FeatureModel:
        """The network after three training steps, in eval mode."""
        return self.once("trained", self._trained)

    def _trained(self) -> FeatureModel:
        model = self.build().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with scene.seeded(0):
            for _ in range(3):
                optimizer.zero_grad()
                loss_of(model, self.images()).backward()
                optimizer.step()
        return model.eval()

    def modules(self) -> dict[str, nn.Module]:
        """The network after a training, by its role."""
        return {"network": self.trained()}


class _Held(nn.Module):
    """A tensor as a module."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer("tensor", tensor)


def loss_of(model: FeatureModel, images: Tensor) -> Tensor:
    """Cross-entropy of the images, with the classes in turn as labels."""
    labels = torch.arange(len(images)) % scene.CLASSES
    return nn.functional.cross_entropy(model(images).float(), labels)
