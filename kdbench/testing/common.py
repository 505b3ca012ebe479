"""The checks of every method. Datasets and networks share some of them."""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from kdbench.errors import KdbenchError
from kdbench.models.base import FeatureModel
from kdbench.models.named import check_network
from kdbench.models.views import FrozenTeacher
from kdbench.testing import fresh, scene
from kdbench.testing.checks import ALL, NotApplicableError, check, ensure
from kdbench.testing.method_run import MethodRun
from kdbench.testing.subjects import NetworkSubject, Subject, Tested


@check("parameters are described, survive JSON, and every preset and variant is valid")
def parameters(subject: Subject) -> None:
    cls, params = subject.cls.Params, subject.params
    again = cls(**json.loads(params.model_dump_json()))
    ensure(again == params, f"{params!r} became {again!r} by way of JSON")
    for name, field in cls.model_fields.items():
        ensure(
            field.description, f"{name} has no description; say what it is, its unit and its source"
        )
        ensure(not field.is_required(), f"{name} has no default")
    known = set(cls.model_fields)
    tables = {f"preset {name}": values for name, values in subject.cls.presets.items()}
    tables |= {f"variant {name}": variant.params for name, variant in subject.cls.variants.items()}
    tables |= {"for_checks": subject.cls.for_checks, "zero": subject.cls.zero or {}}
    for name, values in tables.items():
        ensure(
            set(values) <= known,
            f"{name} sets {', '.join(sorted(set(values) - known))}, which does not exist",
        )
        try:
            cls(**values)
        except ValidationError as error:
            ensure(False, f"{name} is not valid: {error}")
    try:
        cls.model_validate({"no_such_parameter": 1})
    except ValidationError:
        return
    ensure(False, "an unknown parameter is accepted; derive Params from kdbench.method.Params")


def run_once(subject: Subject) -> MethodRun:
    """The method's run under seed 0."""
    return subject.run()


@check("the same seed gives the same bits", *ALL)
def same_seed(tested: Tested) -> None:
    first, second = tested.first_digest(), tested.digest(0)
    ensure(
        first == second,
        f"two calls with one seed gave different {tested.makes}; draw from {tested.chance} only",
    )


@check("another seed gives something else", *ALL)
def another_seed(subject: Tested) -> None:
    if not isinstance(subject, Subject):
        first, second = subject.first_digest(), subject.digest(1)
    elif subject.kind == "distiller":
        # Before any training: another seed also means other batches, which would hide that the
        # distiller draws nothing itself.
        runs = [_untrained_objective(subject, seed) for seed in (0, 1)]
        if not list(runs[0].modules["objective"].parameters()):
            raise NotApplicableError("it has no connectors, so it draws nothing")
        first, second = (run.digest() for run in runs)
    else:
        if not run_once(subject).modules:
            raise NotApplicableError("it takes no step")
        first, second = subject.first_digest(), subject.digest(1)
    ensure(first != second, f"two seeds gave the same {subject.makes}; draw from {subject.chance}")


def _untrained_objective(subject: Subject, seed: int) -> MethodRun:
    """A distiller's objective before the first batch."""
    with scene.seeded(seed):
        method = subject.make()
        frozen = FrozenTeacher(scene.teacher(), method.batch_norm_mode())
        student = scene.network(scene.STUDENT, 7)
        return MethodRun({"objective": method.objective(frozen, student)})


@check("the global random state is not set to anything", *ALL)
def random_state(subject: Tested) -> None:
    after = []
    for seed in (0, 1):
        with scene.seeded(seed):
            subject.act()
            after.append(
                (
                    torch.get_rng_state().numpy().tobytes(),
                    str(np.random.get_state()),
                    str(random.getstate()),
                )
            )
    for i, name in enumerate(("torch", "numpy", "random")):
        ensure(
            after[0][i] != after[1][i],
            f"the state of {name} is the same after two seeds: something seeds it anew",
        )


@check(
    "torch's settings, the working directory, the environment and the import path are left as they "
    "were",
    *ALL,
)
def surroundings(subject: Tested) -> None:
    before = _surroundings()
    try:
        with scene.seeded(0):
            subject.act()
        after = _surroundings()
    finally:
        _restore(before)
    for name, value in before.items():
        ensure(after[name] == value, f"{name} was {value!r} and is {after[name]!r}")


def _surroundings() -> dict[str, Any]:
    return {
        "the working directory": os.getcwd(),
        "the environment": dict(os.environ),
        "sys.path": list(sys.path),
        "torch's threads": torch.get_num_threads(),
        "torch's default type": torch.get_default_dtype(),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's anomaly detection": torch.is_anomaly_enabled(),
        "torch's autocast": torch.is_autocast_enabled("cpu"),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "numpy's errors": np.geterr(),
    }


def _restore(before: dict[str, Any]) -> None:
    os.chdir(before["the working directory"])
    os.environ.clear()
    os.environ.update(before["the environment"])
    sys.path[:] = before["sys.path"]
    torch.set_num_threads(before["torch's threads"])
    torch.set_default_dtype(before["torch's default type"])
    torch.set_grad_enabled(before["torch's gradients"])
    torch.use_deterministic_algorithms(before["torch's deterministic algorithms"])
    torch.autograd.set_detect_anomaly(before["torch's anomaly detection"])
    torch.set_autocast_enabled("cpu", before["torch's autocast"])
    torch.backends.cudnn.benchmark = before["cudnn.benchmark"]
    torch.backends.cudnn.deterministic = before["cudnn.deterministic"]
    np.seterr(**before["numpy's errors"])


@check("images and labels that it is given are not changed in place")
def images_untouched(subject: Subject) -> None:
    train, run = scene.dataset().train, run_once(subject)
    rows = torch.arange(len(train))
    for images in run.image_sets:
        ensure(
            torch.equal(images.read(torch.arange(len(images))), train.read(rows)),
            "images were changed in place",
        )
        ensure(torch.equal(images.labels, train.labels), "labels were changed in place")
    ensure(not run.spoilt, "a batch, or the teacher's features, were changed in place")


def ensure_network(
    role: str, model: nn.Module, name: str, wrappers: tuple[type[FeatureModel], ...] = ()
) -> None:
    """Raise CheckFailedError unless a module is the scene's network of that name, as a run asks."""
    try:
        check_network(model, name, scene.CLASSES, scene.SIZE, wrappers=wrappers)
    except KdbenchError as error:
        ensure(False, f"the {role} cannot stand in a table: {error}")


@check("what it makes survives a file, and means the same afterwards", "attack", "defense", "model")
def file(subject: Subject | NetworkSubject) -> None:
    import tempfile
    from pathlib import Path

    from kdbench.models.files import load_module, save_module

    images = subject.images()
    with tempfile.TemporaryDirectory() as folder:
        for role, module in subject.modules().items():
            path = Path(folder) / f"{role}.safetensors"
            try:
                save_module(module.eval(), path)
                again, _ = load_module(path, (subject.package,))
            except KdbenchError as error:
                ensure(False, f"the {role} cannot be kept in a file: {error}")
            # As a stage does. In another memory layout the sums would be in another order.
            scene.NUMERICS.place(again)
            with torch.no_grad():
                ensure(
                    torch.equal(module(images), again(images)),
                    f"the {role} gives other numbers after a file",
                )


@check("a process that has never seen it computes the same", *ALL)
def new_process(tested: Tested) -> None:
    try:
        digest = fresh.digest(tested)
    except Exception as error:
        ensure(False, f"it fails in a process of its own: {type(error).__name__}: {error}")
    ensure(
        digest == tested.first_digest(),
        f"a process of its own computes other {tested.makes}; something is kept outside of it",
    )
