"""One run of a method under a seed. Every check looks at such a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.attack import AttackSetting, Backdoor
from kdbench.data.base import Batch, ImageSet
from kdbench.defense import DefenseSetting, Finding
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.testing import scene

_BATCHES = 3


@dataclass
class MethodRun:
    """What a method returned, and what it did to its inputs."""

    modules: dict[str, nn.Module] = field(default_factory=dict)
    """By role, for example ``teacher``, ``student``, ``objective``, ``cleansed``."""
    backdoor: Backdoor | None = None
    """What an attack returned."""
    losses: list[dict[str, Tensor]] = field(default_factory=list)
    """The named losses of each batch of a distillation."""
    image_sets: list[ImageSet] = field(default_factory=list)
    """The sets that the method was handed, as they are after the run."""
    pools: list[ImageSet] = field(default_factory=list)
    """The unlabeled sets among them."""
    findings: list[Finding] = field(default_factory=list)
    """What a defense reported."""
    spoilt: bool = False
    """The method changed a batch, or the teacher's features, in place."""

    def digest(self) -> str:
        """SHA-256 over every number of every module."""
        sha256 = hashlib.sha256()
        for role, module in sorted(self.modules.items()):
            for name, tensor in module.state_dict().items():
                if isinstance(tensor, Tensor):
                    sha256.update(
                        f"{role}.{name}".encode() + tensor.detach().contiguous().numpy().tobytes()
                    )
        return sha256.hexdigest()


def run_method(method: Any, seed: int = 0) -> MethodRun:
    """Run a method with the global random states, and the generators that it gets, seeded."""
    with scene.seeded(seed):
        return run_unseeded(method, seed)


def run_unseeded(method: Any, seed: int) -> MethodRun:
    """Run a method and leave the global random states as they are. ``seed`` seeds only the
    generators that the method gets."""
    return {"attack": _attack, "distiller": _distiller, "defense": _defense}[method.kind](
        method, seed
    )


def _attack(method: Any, seed: int) -> MethodRun:
    return implant(method, scene.attack_setting(seed))


def implant(method: Any, setting: AttackSetting) -> MethodRun:
    """Run an attack under a setting that the caller made."""
    backdoor = method.implant(setting)
    modules = {"teacher": backdoor.teacher, "trigger": backdoor.trigger}
    return MethodRun(modules, backdoor, image_sets=[setting.train])


def _distiller(method: Any, seed: int) -> MethodRun:
    frozen, student = (
        FrozenTeacher(scene.teacher(), method.batch_norm_mode()),
        scene.network(scene.STUDENT, 7).train(),
    )
    objective = scene.NUMERICS.place(method.objective(frozen, student)).train()
    return _train_with(objective, frozen, student, seed)


def _train_with(
    objective: nn.Module, frozen: FrozenTeacher, student: FeatureModel, seed: int
) -> MethodRun:
    """A few training steps by hand.

    The loop of a real run would stop at a loss that is not finite, and a check has to see it.
    """
    run = MethodRun({"teacher": frozen.model, "student": student, "objective": objective})
    parameters = [*student.parameters(), *objective.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    for batch in first_batches(seed):
        images, labels = batch.images.clone(), batch.labels.clone()
        teacher_out = frozen.features(batch.images)
        kept = [tensor.clone() for tensor in _tensors(teacher_out)]
        losses = objective(batch, teacher_out, student.features(batch.images))
        run.spoilt |= not (torch.equal(batch.images, images) and torch.equal(batch.labels, labels))
        # Other students may get the same features, so an objective must not change them.
        run.spoilt |= not all(
            torch.equal(a, b) for a, b in zip(kept, _tensors(teacher_out), strict=True)
        )
        run.losses.append(losses)
        optimizer.zero_grad()
        total = torch.stack([value.float() for value in losses.values()]).sum()
        if total.requires_grad:
            total.backward()
        optimizer.step()
    return run


def _tensors(out: FeatureOutput) -> list[Tensor]:
    stem = [] if out.stem is None else [out.stem]
    return [*out.groups, *out.taps, out.logits, *stem]


def first_batches(seed: int) -> Iterator[Batch]:
    """The first three batches of 40 training images, shuffled by the seed."""
    generator = torch.Generator().manual_seed(seed)
    for i, batch in enumerate(
        scene.dataset().train.batches(40, generator=generator, drop_last=True)
    ):
        if i == _BATCHES:
            return
        yield replace(batch, progress=i / _BATCHES)


def defend_with_pool(method: Any) -> MethodRun:
    """Run a defense that has unlabeled images, too, under seed 0."""
    with scene.seeded(0):
        return _defense(method, 0, pool=True)


def _defense(method: Any, seed: int, *, pool: bool = False) -> MethodRun:
    run, steps = MethodRun(), method.steps()

    # A new setting for each step, as in a run: a step must not see what another did to its images.
    def new_setting() -> DefenseSetting:
        setting = replace(scene.defense_setting(seed, pool=pool), report=run.findings.append)
        run.image_sets.append(setting.clean)
        run.pools += [] if setting.unlabeled is None else [setting.unlabeled]
        return setting

    if "cleanse_teacher" in steps:
        run.modules["cleansed"] = method.cleanse_teacher(scene.teacher(), new_setting())
    if "objective" in steps:
        frozen, student = FrozenTeacher(scene.teacher()), scene.network(scene.STUDENT, 7).train()
        extra = method.objective(frozen, student, new_setting())
        if extra is not None:
            training_run = _train_with(
                _WithTask(scene.NUMERICS.place(extra).train()), frozen, student, seed
            )
            run.modules |= {f"during.{role}": m for role, m in training_run.modules.items()}
            run.losses, run.spoilt = training_run.losses, training_run.spoilt
    if "repair_student" in steps:
        frozen = FrozenTeacher(scene.teacher())
        run.modules["repaired"] = method.repair_student(scene.teacher(), frozen, new_setting())
        run.modules["repair.teacher"] = frozen.model
    return run


class _WithTask(nn.Module):
    """The task's loss and a defense's losses in one objective."""

    def __init__(self, extra: nn.Module) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, batch: Batch, teacher_out: Any, student_out: Any) -> dict[str, Tensor]:
        task = nn.functional.cross_entropy(student_out.logits.float(), batch.labels)
        return {"task": task, **self.extra(batch, teacher_out, student_out)}
