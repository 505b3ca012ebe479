"""Fixtures that many tests share."""

from __future__ import annotations

import copy
import functools

import hypothesis
import pytest
import torch

from kdbench.bench.session.processes import start_zygote
from kdbench.data import signs
from kdbench.data.base import Augmentation, Dataset
from kdbench.data.tensor import TensorImages
from kdbench.loading.registry import Registry
from tests.forked.client import served

# The networks here are tiny, and two threads that spin on a core someone else uses are many times
# slower than one.
torch.set_num_threads(1)
# Nor does a test depend on how fast the machine is.
hypothesis.settings.register_profile(
    "kdbench", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("kdbench")


#: They take longest. A process that began one of them when the others are done would keep all
#: waiting. Those of a folder share whole runs, so one process should have them.
FIRST = ("tests/hostile/", "tests/fuzz/", "tests/docs/test_commands.py", "tests/test_docs.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    def place(item):
        return next((k for k, path in enumerate(FIRST) if item.nodeid.startswith(path)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def registry():
    """Every installed plugin; a broken built-in is a failure of its own."""
    found = Registry.load()
    assert found.broken == {}
    return found


class SharedZygote:
    """One zygote for all commands that a test process calls: each costs seconds to start."""

    def __init__(self):
        self._zygote = None

    def start(self, *arguments, **options):
        # The function itself: the tests call this one in its place.
        self._zygote = self._zygote or start_zygote(computes=True)
        return self._zygote.start(*arguments, **options)

    def close(self):
        """A command may not end it."""

    def end(self):
        if self._zygote is not None:
            self._zygote.close()


@pytest.fixture(scope="session")
def zygote():
    shared = SharedZygote()
    yield shared
    shared.end()


@pytest.fixture(scope="session", autouse=True)
def _forked_processes():
    with served():
        yield


@pytest.fixture(autouse=True)
def _one_zygote(zygote, monkeypatch):
    monkeypatch.setattr("kdbench.bench.session.processes.start_zygote", lambda computes: zygote)


@pytest.fixture(autouse=True)
def _usual_width(monkeypatch):
    """Tables are as wide as $COLUMNS says, and some libraries set it."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def _no_trial(monkeypatch):
    """No command tries how fast the machine is: that takes seconds, and no test may depend on
    it."""
    monkeypatch.setattr(
        "kdbench.bench.run.calibration.calibrate", lambda *arguments, **options: None
    )


_drawn = functools.lru_cache(maxsize=8)(signs.draw_signs)


@pytest.fixture
def signs_once(monkeypatch):
    """A test process draws the same signs once, and each command of it gets a copy. This is for
    commands that plan: they need the digest of five thousand pictures, and nobody looks at
    those."""
    monkeypatch.setattr(signs, "draw_signs", lambda *a, **k: copy.deepcopy(_drawn(*a, **k)))


@pytest.fixture
def stripes():
    """A data set that a tiny network learns in seconds: class k has a bright band in row block k. 3
    classes, 16x16."""

    def draw(count: int, seed: int) -> TensorImages:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 3
        images = torch.randint(0, 120, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
        for k in range(3):
            images[labels == k, :, 4 * k + 2 : 4 * k + 5] += 120
        return TensorImages(images, labels)

    return Dataset(
        name="stripes",
        train=draw(240, 1),
        test=draw(120, 2),
        num_classes=3,
        class_names=("top", "middle", "low"),
        mean=(0.3, 0.3, 0.3),
        std=(0.25, 0.25, 0.25),
        augmentation=Augmentation(pad=1, flip=False),
        train_digest="stripes-train",
        test_digest="stripes-test",
    )


@pytest.fixture(autouse=True)
def _own_store(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's store."""
    monkeypatch.setenv("KDBENCH_STORE", str(tmp_path_factory.getbasetemp() / "store"))


@pytest.fixture
def sandbox(tmp_path_factory):
    """A folder with something outside the folder to unpack to. Its path is short, so that it fits
    into a tar's header."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "outside").mkdir()
    (folder / "outside" / "victim").write_text("untouched")
    return folder
