"""Which packages a job may import, and which companions a measurement gets."""

from __future__ import annotations

import pytest
import torch
from kdbench_htba.method import PlacedPatch
from kdbench_robustkd.method import Detoxification, RobustKDParams

from kdbench.bench.plan.plan import Stage
from kdbench.bench.run.measures import Measures
from kdbench.bench.work.companions import ENTRY
from kdbench.errors import IntegrityError
from kdbench.models import create_model
from kdbench.models.files import save_module
from kdbench.models.named import named_facts
from kdbench.models.views import Edited
from kdbench.triggers import PatchTrigger

TASK = {
    "num_classes": 4,
    "image_size": 16,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "device": "cpu",
    "bf16": False,
    "threads": 1,
    "values": {"target_class": 3},
    "images": "images.safetensors",
    "folder": "secret",
    "picture": "implant htba",
}


def stage(kind, key, inputs, networks=("wrn10_1",), /, **values):
    return Stage(kind, key, 1, f"{kind} {key}", 0, 0, inputs, values, (), {}, networks=networks)


STAGES = {
    stage.key: stage
    for stage in (
        stage("clean", "clean", {}, model="wrn10_1"),
        stage("backdoor", "b", {"clean": "clean"}, kind="attack", name="htba"),
        stage("cleanse", "c", {"teacher": "b"}, kind="defense", name="robustkd"),
        stage("distill", "d", {"teacher": "c"}, model="wrn10_1"),
        stage("evaluate", "measure c", {"model": "c", "trigger": "b"}, target_class=3),
        stage("evaluate", "measure d", {"model": "d", "trigger": "b"}, target_class=3),
        stage("evaluate", "accuracy of c", {"model": "c"}),
        stage("picture", "p", {"trigger": "b"}, target_class=3),
        stage("clean", "mine", {}, ("mine",), model="mine"),
        stage("evaluate", "measure mine", {"model": "mine", "trigger": "b"}, ("mine",)),
    )
}
POINTS = {
    ("attack", "htba"): {"htba": "kdbench_htba"},
    ("defense", "robustkd"): {"robustkd": "kdbench_robustkd"},
    ("attack", "other"): {"other": "somebody.attack:plugin"},
    ("model", "mine"): {"mine": "kdbench_file_mine"},
}


def points(methods):
    return {k: v for method in methods for k, v in POINTS.get(method, {}).items()}


@pytest.fixture
def measures():
    return Measures(STAGES, points, named_facts)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path


def put(folder, **modules):
    """Lay inputs out, and say what the process is told of them."""
    for role, module in modules.items():
        save_module(module.eval(), folder / "in" / f"{role}.safetensors")
    return TASK | {"inputs": {role: f"{role}.safetensors" for role in modules}}


def network():
    return create_model("wrn10_1", 4)


def edited():
    editor = Detoxification({0: torch.zeros(1, 16, 16, 16)}, RobustKDParams())
    return Edited(network(), editor)


def patch():
    return PatchTrigger(torch.ones(3, 2, 2), (3, 16, 16))


def placed():
    return PlacedPatch(torch.rand(3, 4, 4), (3, 16, 16))


@pytest.mark.parametrize(
    ("key", "modules", "names"),
    [
        ("measure d", {"model": network, "trigger": patch}, []),
        ("measure d", {"model": network, "trigger": placed}, ["trigger"]),
        ("measure c", {"model": edited, "trigger": patch}, ["first", "second"]),
        ("measure c", {"model": edited, "trigger": placed}, ["first", "second", "trigger"]),
        ("measure c", {"model": network, "trigger": patch}, []),
        ("accuracy of c", {"model": edited}, ["first"]),
        ("picture", {"trigger": placed}, ["trigger"]),
        ("picture", {"trigger": patch}, []),
        ("measure mine", {"model": network, "trigger": patch}, ["first", "second"]),
        ("distill", {"teacher": edited}, []),
    ],
)
def test_companions_of_a_job(measures, folder, key, modules, names):
    key = {"picture": "p", "distill": "d"}.get(key, key)
    task = put(folder, **{role: make() for role, make in modules.items()})
    companions = measures.companions(STAGES[key], folder, task)
    assert [companion.name for companion in companions] == names
    for companion in companions:
        role = "trigger" if companion.name == "trigger" else "model"
        assert companion.entry == ENTRY
        # Its own file, and nothing else of the job.
        assert companion.reads == (
            folder / "in" / f"{role}.safetensors",
            folder / "plugins" / companion.name,
        )
        assert companion.order.keys() == {
            *("role", "file", "packages", "plugins", "num_classes", "image_size"),
            *("mean", "std", "device", "bf16", "threads"),
        }
        told = str(companion.order)
        for secret in ("secret", "target", "implant", "test.safetensors"):
            assert secret not in told
    wanted = {"first": "kdbench_robustkd", "second": "kdbench_robustkd", "trigger": "kdbench_htba"}
    if key != "measure mine":
        assert all(c.order["packages"] == [wanted[c.name]] for c in companions)


def test_a_measurement_imports_nothing_and_others_what_their_inputs_need(measures, folder):
    task = put(folder, model=edited(), trigger=placed(), teacher=edited())
    inputs = {role: task["inputs"][role] for role in ("model", "trigger")}
    assert measures.packages(STAGES["measure c"], folder, inputs) == {}
    inputs = {"teacher": task["inputs"]["teacher"]}
    assert measures.packages(STAGES["d"], folder, inputs) == {"teacher": ["kdbench_robustkd"]}
    put(folder, teacher=network())
    assert measures.packages(STAGES["d"], folder, inputs) == {"teacher": []}


class Stranger(torch.nn.Module):
    """A class of a package that has no part in any stage."""


def test_a_class_of_another_package_is_an_error(measures, folder):
    task = put(folder, model=Edited(network(), Stranger()), trigger=patch())
    with pytest.raises(IntegrityError, match=r"names classes of tests, .*known: .*robustkd"):
        measures.companions(STAGES["measure c"], folder, task)


def test_results_are_held_against_the_name_in_the_plan(measures, tmp_path):
    save_module(network().eval(), tmp_path / "model.safetensors")
    measures.check(STAGES["d"], 4, 16)(tmp_path)
    with pytest.raises(IntegrityError, match="holds no wrn10_1"):
        measures.check(STAGES["d"], 5, 16)(tmp_path)
    assert measures.check(STAGES["measure c"], 4, 16) is None
    assert measures.limit(STAGES["d"], 4, 16) < 16 << 20 < measures.limit(STAGES["b"], 4, 16)
