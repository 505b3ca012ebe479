"""Students of one teacher, trained side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kdbench.bench.work.task import Product
from kdbench.bench.work.workbench import Workbench
from kdbench.capture import Pass, teacher_features
from kdbench.data.base import Batch
from kdbench.errors import ContractError
from kdbench.models.base import BatchNormMode, FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.training import DifferentEpochsError, RandomStates, Trainee, seeded, train_together
from kdbench.training.profiling import spanned


def distill_together(benches: Sequence[Workbench]) -> list[Product | Exception]:
    """Train students of one teacher, by one recipe, on the same batches.

    The teacher's forward pass is computed once for all of them. Each student ends in the same
    weights as if it were trained alone. If one of them raises, the others go on.
    """
    first = benches[0]
    mode = _shared_mode(benches)
    teacher, images = FrozenTeacher(first.input("teacher"), mode), first.images()
    products: dict[int, Product | Exception] = {}
    ready: dict[int, tuple[FeatureModel, Trainee]] = {}
    for i, bench in enumerate(benches):
        # Several students get a copy of the teacher each, so that a method that changes its
        # teacher changes nobody else's.
        try:
            seen = teacher if len(benches) == 1 else FrozenTeacher(teacher.model, mode)
            ready[i] = _trainee(bench, seen, len(images))
        except Exception as error:
            products[i] = error

    features = spanned("teacher")(teacher_features(teacher, first.numerics))

    def train(trainees: list[Trainee]) -> None:
        generator = torch.Generator().manual_seed(first.task.stream_seed)
        train_together(
            trainees, images, generator=generator, augmentation=first.augmentation, share=features
        )

    trainees = [trainee for _, trainee in ready.values()]
    try:
        if trainees:
            train(trainees)
    # After a crash their checkpoints may be of different epochs. They then train one by one.
    except DifferentEpochsError:
        for trainee in trainees:
            train([trainee])
    for i, (student, trainee) in ready.items():
        try:
            products[i] = trainee.error or benches[i].keep(student)
        except Exception as error:
            products[i] = error
    return [products[i] for i in range(len(benches))]


def _shared_mode(benches: Sequence[Workbench]) -> BatchNormMode:
    """The mode of the teacher's batch norms, which must be the same for all."""
    modes: set[BatchNormMode] = {_distiller(bench).batch_norm_mode() for bench in benches}
    if len(modes) > 1:
        raise ContractError(
            f"distillers that want the teacher's batch norms {' and '.join(sorted(modes))} cannot "
            "share it"
        )
    return modes.pop()


def _distiller(bench: Workbench) -> Any:
    return bench.method(bench.task.values["distiller"])


def _trainee(bench: Workbench, teacher: FrozenTeacher, images: int) -> tuple[FeatureModel, Trainee]:
    """A new student, and its training from ``teacher`` on that many images.

    Weights and objectives are drawn from the random state of the student's stage.
    """
    with seeded(bench.task.random_seed):
        student = bench.new_model(bench.task.values["model"]).train()
        objectives = [bench.numerics.place(_distiller(bench).objective(teacher, student)).train()]
        if bench.task.values["defense"] is not None:
            extra = bench.method(bench.task.values["defense"]).objective(
                teacher, student, bench.defense_setting()
            )
            if extra is not None:
                objectives.append(bench.numerics.place(extra).train())
        states = RandomStates()
    student_pass = Pass(student, bench.numerics)

    def loss(batch: Batch, teacher_out: FeatureOutput) -> dict[str, torch.Tensor]:
        student_out = student_pass(batch.images)
        terms: dict[str, torch.Tensor] = {}
        for objective in objectives:
            named = objective(batch, teacher_out, student_out)
            if clash := terms.keys() & named.keys():
                raise ContractError(
                    f"two objectives name the same loss: {', '.join(sorted(clash))}"
                )
            terms |= named
        return terms

    trained = [student, *objectives]
    return student, Trainee(bench.fit, trained, loss, bench.recipe(), images, states=states)
