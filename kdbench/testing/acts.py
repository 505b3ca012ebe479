"""A method at work, once, under a seed: what every check looks at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdbench import training
from kdbench.attack import AttackSetting, Backdoor
from kdbench.data.base import Batch, ImageSet
from kdbench.defense import DefenseSetting
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.testing import scene

_BATCHES = 3


@dataclass
class Act:
    """What came of it.

    made: modules by role. backdoor: of an attack. losses: of a distillation, by batch. given: the
    image sets that it was given.
    spoilt: the batch that it was given, or the teacher's features, were changed in place.
    """

    made: dict[str, nn.Module] = field(default_factory=dict)
    backdoor: Backdoor | None = None
    losses: list[dict[str, Tensor]] = field(default_factory=list)
    given: list[ImageSet] = field(default_factory=list)
    spoilt: bool = False

    def digest(self) -> str:
        """SHA-256 over every number of every module."""
        found = hashlib.sha256()
        for role, module in sorted(self.made.items()):
            for name, tensor in module.state_dict().items():
                if isinstance(tensor, Tensor):
                    found.update(
                        f"{role}.{name}".encode() + tensor.detach().contiguous().numpy().tobytes()
                    )
        return found.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global random states seeded inside and restored outside, and one thread, as a stage has
    it."""
    threads = torch.get_num_threads()
    try:
        with training.seeded(seed, cuda=False):
            torch.set_num_threads(scene.NUMERICS.threads)
            yield
    finally:
        torch.set_num_threads(threads)


def act(method: Any, seed: int = 0) -> Act:
    """Let a method do what it does, under a seed."""
    with seeded(seed):
        return perform(method, seed)


def perform(method: Any, seed: int) -> Act:
    """The same under the global random states as they are; ``seed`` is that of the generators it is
    given."""
    return {"attack": _attack, "distiller": _distiller, "defense": _defense}[method.kind](
        method, seed
    )


def _attack(method: Any, seed: int) -> Act:
    return implant(method, scene.attack_setting(seed))


def implant(method: Any, setting: AttackSetting) -> Act:
    """An attack under a setting of the caller's."""
    backdoor = method.implant(setting)
    return Act(
        {"teacher": backdoor.teacher, "trigger": backdoor.trigger}, backdoor, given=[setting.train]
    )


def _distiller(method: Any, seed: int) -> Act:
    frozen, student = (
        FrozenTeacher(scene.teacher(), method.batch_norm_mode()),
        scene.network(scene.STUDENT, 7).train(),
    )
    objective = scene.NUMERICS.place(method.objective(frozen, student)).train()
    return _train_with(objective, frozen, student, seed)


def _train_with(
    objective: nn.Module, frozen: FrozenTeacher, student: FeatureModel, seed: int
) -> Act:
    """A few steps by hand: the loop of a run ends at a loss that is not finite, which a check has
    to see."""
    found = Act({"teacher": frozen.model, "student": student, "objective": objective})
    parameters = [*student.parameters(), *objective.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    for batch in first_batches(seed):
        images, labels = batch.images.clone(), batch.labels.clone()
        teacher_out = frozen.features(batch.images)
        kept = [tensor.clone() for tensor in _tensors(teacher_out)]
        losses = objective(batch, teacher_out, student.features(batch.images))
        found.spoilt |= not (
            torch.equal(batch.images, images) and torch.equal(batch.labels, labels)
        )
        # Other students may be handed the same features.
        found.spoilt |= not all(
            torch.equal(a, b) for a, b in zip(kept, _tensors(teacher_out), strict=True)
        )
        found.losses.append(losses)
        optimizer.zero_grad()
        total = torch.stack([value.float() for value in losses.values()]).sum()
        if total.requires_grad:
            total.backward()
        optimizer.step()
    return found


def _tensors(out: FeatureOutput) -> list[Tensor]:
    return [*out.groups, *out.taps, out.logits]


def first_batches(seed: int) -> Iterator[Batch]:
    """A few training batches."""
    generator = torch.Generator().manual_seed(seed)
    for i, batch in enumerate(
        scene.dataset().train.batches(40, generator=generator, drop_last=True)
    ):
        if i == _BATCHES:
            return
        yield batch


def _defense(method: Any, seed: int) -> Act:
    found, steps = Act(), method.steps()

    def setting() -> DefenseSetting:
        given = scene.defense_setting(seed)
        found.given.append(given.clean)
        return given

    if "cleanse_teacher" in steps:
        found.made["cleansed"] = method.cleanse_teacher(scene.teacher(), setting())
    if "objective" in steps:
        frozen, student = FrozenTeacher(scene.teacher()), scene.network(scene.STUDENT, 7).train()
        extra = method.objective(frozen, student, setting())
        if extra is not None:
            trained = _train_with(
                _WithTask(scene.NUMERICS.place(extra).train()), frozen, student, seed
            )
            found.made |= {f"during.{role}": module for role, module in trained.made.items()}
            found.losses, found.spoilt = trained.losses, trained.spoilt
    if "repair_student" in steps:
        frozen = FrozenTeacher(scene.teacher())
        found.made["repaired"] = method.repair_student(scene.teacher(), frozen, setting())
        found.made["repair.teacher"] = frozen.model
    return found


class _WithTask(nn.Module):
    """A defense's losses beside the task's."""

    def __init__(self, extra: nn.Module) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, batch: Batch, teacher_out: Any, student_out: Any) -> dict[str, Tensor]:
        task = nn.functional.cross_entropy(student_out.logits.float(), batch.labels)
        return {"task": task, **self.extra(batch, teacher_out, student_out)}
