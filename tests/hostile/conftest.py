"""An honest run, the machine that hostile plugins find, and the run in which they all play."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from safetensors import safe_open

from kdbench.data import load_dataset
from tests.hostile.outside import Machine, machine
from tests.hostile.running import Acts, Ended, Ground, copied

RIVALS = ["none", "finetune"]
#: The plugin that reaches for others comes last: where it succeeds, it takes the run along.
DEFENSES = [
    *("imports.nothing", "imports.listen"),
    *("networks.own_class", "networks.own_part", "networks.own_attribute"),
    *("networks.another_network", "networks.more_classes", "networks.a_wrapper"),
    *("networks.own_class_late", "networks.own_part_late", "networks.own_attribute_late"),
    *("networks.another_network_late", "networks.more_classes_late", "networks.a_wrapper_late"),
    *("networks.own_teacher", "networks.own_teacher_late", "networks.editing"),
    *("searching.searches", "searching.share"),
    *("outcomes.no_files", "outcomes.manifest", "outcomes.other_files", "outcomes.nested"),
    "outcomes.a_list_for_a_word",
    *("outcomes.sparse", "outcomes.escape", "outcomes.boast", "outcomes.boast_in_lines"),
    *("outcomes.steps", "outcomes.wait_for_outcome", "outcomes.wait_for_log"),
    *("outcomes.wait_for_result", "outcomes.linked_log", "outcomes.linked_result"),
    *("outcomes.garble", "outcomes.pour", "outcomes.pour_steps", "outcomes.hand_over"),
    *("outcomes.say_twice", "outcomes.silent"),
    *("folders.crash", "folders.crash_with_links", "folders.crash_with_checkpoints"),
    *("folders.linked_folders", "folders.linked_folders_late"),
    *("processes.swap", "processes.survive", "processes.crowd"),
    *("system.network", "system.memory_of_others", "system.letter", "system.keyring"),
    *("system.files_of_others", "system.watch", "system.about_the_machine"),
    *("system.first_process", "system.uncounted", "system.other_processes"),
]


@pytest.fixture(scope="session")
def honest_ground(tmp_path_factory) -> Ground:
    return Ground(tmp_path_factory.mktemp("h"))


@pytest.fixture(scope="session")
def honest(honest_ground) -> Ended:
    """A run without a hostile plugin."""
    run = honest_ground.run([], RIVALS)
    assert run.code == 0, run.tail
    return run


@pytest.fixture(scope="session")
def outside(honest_ground) -> Iterator[Machine]:
    """What else goes on while the plugins run."""
    with ExitStack() as stack:
        yield machine(stack, honest_ground.folder)


@pytest.fixture
def ground(honest_ground, honest, tmp_path) -> Ground:
    """A ground with the store of the honest run."""
    return copied(Ground(tmp_path / "g"), honest_ground.store)


@pytest.fixture(scope="session")
def hints(outside, honest_ground, honest) -> dict[str, Any]:
    """What the author of a plugin may know in advance."""
    keys = [stage["key"] for stage in honest.record["stages"]]
    # Not as they are: a search must not find what it was told.
    texts = [(text[0], text[1:]) for text in ("with badnets", "implant badnets", *keys)]
    return {
        **outside.hints,
        "comm": f"kdb-{secrets.token_hex(5)}",
        "network": os.readlink("/proc/self/ns/net"),
        "processes": os.readlink("/proc/self/ns/pid"),
        "keys": [(key[0], key[1:]) for key in keys],
        "texts": texts,
        "trigger": digests_of_trigger(honest_ground),
        "test_images": digests_of_test_images(),
    }


@pytest.fixture(scope="session")
def acts(honest_ground, honest, hints, tmp_path_factory) -> Acts:
    ground = copied(Ground(tmp_path_factory.mktemp("a")), honest_ground.store)
    ground.hints |= hints
    return Acts(ground, DEFENSES, RIVALS, ("--memory-limit", "1.7"))


def digests_of_trigger(ground: Ground) -> list[str]:
    """Of each tensor of the trigger that the honest run left in its store."""
    (path,) = ground.store.rglob("trigger.safetensors")
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return [digest(file.get_tensor(name).numpy().tobytes()) for name in names]


def digests_of_test_images() -> list[str]:
    """Of each test image. Anybody can draw these, so that the search is for the run's own copy."""
    test = load_dataset("signs", train_size=200, test_size=100).test
    return [digest(image.contiguous().numpy().tobytes()) for image in test.pixels]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
