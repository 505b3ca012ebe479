"""The checks of a distiller, and of the losses that a defense adds while distilling."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.models.base import FeatureModel
from kdbench.models.views import FrozenTeacher
from kdbench.testing import scene
from kdbench.testing.checks import NotApplicableError, check, ensure
from kdbench.testing.common import run_once
from kdbench.testing.method_run import MethodRun, first_batches
from kdbench.testing.subjects import Subject


def _distillation(subject: Subject) -> MethodRun:
    run = run_once(subject)
    if not run.losses:
        raise NotApplicableError("it adds no loss while distilling")
    return run


@check("losses are named, finite float32 scalars", "distiller", "defense")
def losses(subject: Subject) -> None:
    for terms in _distillation(subject).losses:
        ensure(
            isinstance(terms, dict) and terms,
            f"forward returned {type(terms).__name__}; return a dict of named losses",
        )
        for name, value in terms.items():
            ensure(isinstance(value, Tensor) and value.ndim == 0, f"{name} is no scalar tensor")
            ensure(value.dtype == torch.float32, f"{name} is {value.dtype}; use float32")
            ensure(bool(torch.isfinite(value)), f"{name} is {float(value.detach())}")


@check("the teacher stays bit for bit what it was while distilling", "distiller", "defense")
def teacher_untouched(subject: Subject) -> None:
    run, clean = run_once(subject), scene.teacher().state_dict()
    roles = [r for r in ("teacher", "during.teacher", "repair.teacher") if r in run.modules]
    if not roles:
        raise NotApplicableError("it meets no frozen teacher")
    for role in roles:
        for name, tensor in run.modules[role].state_dict().items():
            ensure(torch.equal(tensor, clean[name]), f"{name} of the teacher was changed")


@check("the student gets gradients and the teacher none; the objective holds neither", "distiller")
def gradients(subject: Subject) -> None:
    with scene.seeded(0):
        method = subject.make()
        frozen = FrozenTeacher(scene.teacher(), method.batch_norm_mode())
        student = scene.network(scene.STUDENT, 7).train()
        objective = method.objective(frozen, student).train()
        for module in objective.modules():
            ensure(
                not isinstance(module, FeatureModel),
                "a network is part of the objective, and would be trained with it",
            )
        for parameter in frozen.model.parameters():
            parameter.requires_grad_(True)  # so that a gradient that reaches it would show
        batch = next(first_batches(0))
        terms = objective(batch, frozen.features(batch.images), student.features(batch.images))
        torch.stack(list(terms.values())).sum().backward()
    ensure(
        all(p.grad is None for p in frozen.model.parameters()),
        "the teacher gets a gradient; use its outputs detached",
    )
    reached = [
        name
        for name, p in student.named_parameters()
        if p.grad is not None and bool(p.grad.abs().sum() > 0)
    ]
    ensure(reached, "no parameter of the student gets a gradient")
    without = [n for n, p in student.named_parameters() if p.grad is None]
    ensure(
        not without,
        f"these parameters of the student get no gradient: {', '.join(without)}; is the task loss "
        "there?",
    )
