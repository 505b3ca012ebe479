"""What a defense must not learn: the attack, the target class, the trigger, the test images."""

from __future__ import annotations

import hashlib

import pytest
from safetensors import safe_open

from kdbench.data import load_dataset
from tests.hostile.outside import namespaces
from tests.hostile.running import Ground, copied

pytestmark = pytest.mark.skipif(
    not namespaces(),
    reason="this kernel gives a process no namespaces, so less is out of its reach",
)


@pytest.fixture(scope="module")
def run(honest_ground, honest, tmp_path_factory):
    ground = copied(Ground(tmp_path_factory.mktemp("secrets")), honest_ground.store)
    stages = honest.record["stages"]
    keys = [stage["key"] for stage in stages]
    texts = ["with badnets", "implant badnets", *keys]
    ground.hints |= {
        # Not as they are: the search must not find what it was told.
        "keys": [(key[0], key[1:]) for key in keys],
        "texts": [(text[0], text[1:]) for text in texts],
        "results": str(ground.folder / "out1"),
        "trigger": digests_of_trigger(honest_ground),
        "test_images": digests_of_test_images(),
    }
    return ground.run(["searching"], ["searches", "red.share"], "--clean-fraction", "0.05")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def digests_of_trigger(ground):
    """Of each tensor of the trigger that the honest run left in its store."""
    (path,) = ground.store.rglob("trigger.safetensors")
    with safe_open(path, framework="pt") as file:
        return [digest(file.get_tensor(name).numpy().tobytes()) for name in file.keys()]  # noqa: SIM118


def digests_of_test_images():
    """Of each test image. Anybody can draw these, so that the search is for the run's own copy."""
    test = load_dataset("signs", train_size=200, test_size=100).test
    return [digest(image.contiguous().numpy().tobytes()) for image in test.pixels]


def test_a_search_by_every_route_finds_nothing(run):
    row = run.rows["searches"]
    assert (row["status"], row["n_test"]) == ("ok", 100), row["reason"]


def test_the_rest_of_the_training_images_cannot_be_opened(run):
    row = run.rows["red.share"]
    assert row["status"] == "ok", row["reason"]
