"""What each kind of stage does. A stage is told a task, opens its inputs, and leaves files and
numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdbench.attack import AttackSetting, Trigger
from kdbench.bench.keys import MODEL, PICTURE, TRIGGER
from kdbench.bench.work.task import Product, Task
from kdbench.capture import Pass
from kdbench.data.base import Augmentation, Batch, ImageSet
from kdbench.data.files import load_images
from kdbench.data.fraction import defender_images
from kdbench.defense import DefenseSetting
from kdbench.errors import ContractError, IntegrityError
from kdbench.loading.registry import Registry
from kdbench.metrics import accuracy, attacked, evaluate
from kdbench.models import create_model
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.files import load_module, save_module
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.report.pictures import MAX_COLUMNS, write_trigger_picture
from kdbench.training import (
    DifferentEpochsError,
    Fit,
    Progress,
    RandomStates,
    Recipe,
    Trainee,
    cross_entropy,
    train_together,
)
from kdbench.training.checkpoint import FolderCheckpoints
from kdbench.training.profiling import spanned
from kdbench.variance import variance_of_each

#: Test images whose feature variance is kept: as many as in RobustKD's Fig. 2.
VARIANCE_IMAGES = 100


def perform(task: Task, registry: Registry, progress: Progress) -> Product:
    """Compute one stage under its own random state; the caller's is untouched."""
    work = _work(task, registry, progress)
    with _seeded(task.random_seed):
        return _with_loss(work, _KINDS[task.kind](work))


def perform_together(
    tasks: Sequence[Task], registry: Registry, progress: Sequence[Progress]
) -> list[Product | Exception]:
    """Compute several distillations from one teacher, by one recipe; each ends in a product or an
    error of its own."""
    works = [_work(task, registry, one) for task, one in zip(tasks, progress, strict=True)]
    with _seeded(tasks[0].random_seed):
        found = _distill_together(works)
    return [
        p if isinstance(p, Exception) else _with_loss(work, p)
        for work, p in zip(works, found, strict=True)
    ]


def _work(task: Task, registry: Registry, progress: Progress) -> _Work:
    numerics = Numerics(torch.device(task.device), task.bf16, task.threads)
    checkpoints = FolderCheckpoints(task.folder / "checkpoints", task.checkpoint_s)
    (task.folder / "out").mkdir(exist_ok=True)
    return _Work(task, registry, numerics, Fit(numerics, progress, checkpoints=checkpoints))


def _with_loss(work: _Work, product: Product) -> Product:
    if work.fit.losses:
        product.facts.setdefault("loss", work.fit.losses[-1])
    return product


@dataclass(frozen=True)
class _Work:
    task: Task
    registry: Registry
    numerics: Numerics
    fit: Fit

    # -- one method a kind ---------------------------------------------------------------------

    def clean(self) -> Product:
        """A network trained with labels alone: a teacher, or the student without a teacher of
        control C2."""
        model = self._new_model(self.task.values["model"]).train()
        self.fit(
            model,
            cross_entropy(Pass(model, self.numerics).logits),
            self._train(),
            self._recipe(),
            generator=self._generator(),
            augmentation=self._augmentation,
        )
        return self._keep(model)

    def backdoor(self) -> Product:
        attack = self._method(self.task.values)
        setting = AttackSetting(
            teacher=self._input("clean"),
            train=self._train(),
            target_class=self.task.values["target_class"],
            num_classes=self.task.num_classes,
            recipe=self._recipe(),
            augmentation=self._augmentation,
            fit=self.fit,
            generator=self._generator(),
            numerics=self.numerics,
        )
        backdoor = attack.implant(setting)
        if (
            not isinstance(backdoor.trigger, Trigger)
            or backdoor.target_class != setting.target_class
        ):
            raise ContractError(
                f"attack {attack.info.name!r} must return a Trigger and keep the target class it "
                "was given"
            )
        product = self._keep(backdoor.teacher, dict(backdoor.facts))
        sources = None if backdoor.source_classes is None else list(backdoor.source_classes)
        save_module(
            backdoor.trigger.eval(), self.task.folder / "out" / TRIGGER, {"source_classes": sources}
        )
        return Product((*product.files, TRIGGER), product.facts)

    def cleanse(self) -> Product:
        defense = self._method(self.task.values)
        return self._keep(defense.cleanse_teacher(self._input("teacher"), self._defense_setting()))

    def distill(self) -> Product:
        (found,) = _distill_together([self])
        if isinstance(found, Exception):
            raise found
        return found

    def distiller(self) -> Any:
        return self._method(self.task.values["distiller"])

    def trainee(self, teacher: FrozenTeacher, images: int) -> tuple[FeatureModel, Trainee]:
        """A new student and its training from ``teacher`` on that many images, under the random
        state of this stage."""
        with _seeded(self.task.random_seed):
            student = self._new_model(self.task.values["model"]).train()
            objectives = [self.numerics.place(self.distiller().objective(teacher, student)).train()]
            if self.task.values["defense"] is not None:
                extra = self._method(self.task.values["defense"]).objective(
                    teacher, student, self._defense_setting()
                )
                if extra is not None:
                    objectives.append(self.numerics.place(extra).train())
            states = RandomStates()
        student_pass = Pass(student, self.numerics)

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
        return student, Trainee(self.fit, trained, loss, self._recipe(), images, states=states)

    def repair(self) -> Product:
        defense = self._method(self.task.values)
        teacher = FrozenTeacher(self._input("teacher"))
        return self._keep(
            defense.repair_student(self._input("student"), teacher, self._defense_setting())
        )

    def evaluate(self) -> Product:
        """Counts on the test images, untriggered and, where there is a trigger, triggered."""
        model, test = self._input("model"), self._test()
        if "trigger" not in self.task.inputs:
            return Product(facts={"acc": list(accuracy(model, test, self.numerics))})
        trigger, sources = self._trigger()
        target = self.task.values["target_class"]
        facts = evaluate(model, trigger, test, target, self.numerics, sources).as_facts()
        return Product(
            facts=facts
            | {"variance": self._variances(model, trigger, attacked(test.labels, target, sources))}
        )

    def _variances(
        self, model: FeatureModel, trigger: Trigger, wanted: torch.Tensor
    ) -> dict[str, list[float]]:
        """Variance of each example's last group, untriggered and triggered, on the first of the
        test images (Fig. 2)."""
        images = self._test().read(
            torch.nonzero(wanted).flatten()[:VARIANCE_IMAGES], self.numerics.device
        )
        found = {}
        with torch.inference_mode():
            for name, shown in (("clean", images), ("triggered", trigger(images))):
                with self.numerics.autocast():
                    last = model.features(shown).groups[-1]
                found[name] = [float(f"{v:.6g}") for v in variance_of_each(last).tolist()]
        return found

    def picture(self) -> Product:
        """The first test images that the trigger is for: clean, triggered, difference."""
        (trigger, sources), test = self._trigger(), self._test()
        wanted = attacked(test.labels, self.task.values["target_class"], sources)
        images = test.read(torch.nonzero(wanted).flatten()[:MAX_COLUMNS], self.numerics.device)
        with torch.inference_mode():
            triggered = trigger(images)
        write_trigger_picture(
            images.cpu(), triggered.cpu(), self.task.folder / "out" / PICTURE, self.task.picture
        )
        return Product((PICTURE,))

    def imported(self) -> Product:
        """Asked for only where the store's copy was found to be damaged."""
        raise IntegrityError(
            "the weights of the imported teacher are damaged and were put aside; import it again"
        )

    # -- shared pieces -------------------------------------------------------------------------
    #
    #

    @property
    def _augmentation(self) -> Augmentation:
        return Augmentation(self.task.pad, self.task.flip)

    @spanned("files")
    def _train(self) -> ImageSet:
        assert self.task.train is not None
        return load_images(self.task.folder / "in" / self.task.train)

    @spanned("files")
    def _test(self) -> ImageSet:
        assert self.task.test is not None
        return load_images(self.task.folder / "in" / self.task.test)

    def _recipe(self) -> Recipe:
        return Recipe(**self.task.values["recipe"])

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.task.random_seed)

    def _method(self, values: dict[str, Any]) -> Any:
        cls = self.registry.get(values["kind"], values["name"])
        return cls(cls.Params(**values["params"]))

    @spanned("files")
    def _input(self, role: str) -> FeatureModel:
        """A private copy of a network that the stage rests on, on the device, in eval mode."""
        model, record = load_module(
            self.task.folder / "in" / self.task.inputs[role], self.task.packages
        )
        if not isinstance(model, FeatureModel):
            raise IntegrityError(
                f"{self.task.inputs[role]} holds a {type(model).__name__}, no network"
            )
        # an imported teacher, which came as weights alone
        if record.get("normalization") == "dataset":
            model.set_normalization(self.task.mean, self.task.std)
        return self.numerics.place(model)  # type: ignore[return-value]

    @spanned("files")
    def _trigger(self) -> tuple[Trigger, tuple[int, ...] | None]:
        trigger, record = load_module(
            self.task.folder / "in" / self.task.inputs["trigger"], self.task.packages
        )
        if not isinstance(trigger, Trigger):
            raise IntegrityError(
                f"{self.task.inputs['trigger']} holds a {type(trigger).__name__}, no trigger"
            )
        sources = record["source_classes"]
        return self.numerics.place(trigger), None if sources is None else tuple(sources)  # type: ignore[return-value]

    @spanned("files")
    def _keep(self, model: FeatureModel, facts: dict[str, Any] | None = None) -> Product:
        if not isinstance(model, FeatureModel):
            raise ContractError(
                f"a stage must return a network (FeatureModel), got {type(model).__name__}"
            )
        save_module(model.eval(), self.task.folder / "out" / MODEL)
        return Product((MODEL,), facts or {})

    @spanned("files")
    def _new_model(self, name: str) -> FeatureModel:
        model = create_model(
            name,
            self.task.num_classes,
            image_size=self.task.image_size,
            sources=self.registry.models,
        )
        model.set_normalization(self.task.mean, self.task.std)
        return self.numerics.place(model)  # type: ignore[return-value]

    def _defense_setting(self) -> DefenseSetting:
        values = self.task.values if self.task.kind != "distill" else self.task.values["defense"]
        return DefenseSetting(
            clean=defender_images(self._train(), values["clean_fraction"], self.task.seed),
            num_classes=self.task.num_classes,
            recipe=Recipe(**values["recipe"]),
            augmentation=self._augmentation,
            fit=self.fit,
            generator=self._generator(),
            numerics=self.numerics,
        )


def _distill_together(works: Sequence[_Work]) -> list[Product | Exception]:
    """Students of one teacher, by one recipe, on the same batches: its forward pass is computed
    once for all of them.

    Each student is what it would be alone. One that raises takes nobody along.
    """
    first = works[0]
    modes = {work.distiller().batch_norm_mode() for work in works}
    if len(modes) > 1:
        raise ContractError(
            f"distillers that want the teacher's batch norms {' and '.join(sorted(modes))} cannot "
            "share it"
        )
    (mode,) = modes
    teacher, images = FrozenTeacher(first._input("teacher"), mode), first._train()
    found: list[Product | Exception | None] = [None] * len(works)
    ready: dict[int, tuple[FeatureModel, Trainee]] = {}
    for i, work in enumerate(works):
        try:
            # A copy each, where there are several: what one does to its teacher is its own
            # business.
            ready[i] = work.trainee(
                teacher if len(works) == 1 else FrozenTeacher(teacher.model, mode), len(images)
            )
        except Exception as error:
            found[i] = error

    teacher_pass = Pass(teacher.model, first.numerics)

    def share(batch: Batch) -> FeatureOutput:
        with torch.no_grad(), first.numerics.autocast():
            return teacher_pass(batch.images)

    def train(trainees: list[Trainee]) -> None:
        generator = torch.Generator().manual_seed(first.task.stream_seed)
        train_together(
            trainees, images, generator=generator, augmentation=first._augmentation, share=share
        )

    trainees = [trainee for _, trainee in ready.values()]
    try:
        if trainees:
            train(trainees)
    except DifferentEpochsError:
        for trainee in trainees:
            train([trainee])
    for i, (student, trainee) in ready.items():
        try:
            found[i] = trainee.error or works[i]._keep(student)
        except Exception as error:
            found[i] = error
    return found  # type: ignore[return-value]


_KINDS: dict[str, Callable[[_Work], Product]] = {
    "clean": _Work.clean,
    "alone": _Work.clean,
    "imported": _Work.imported,
    "backdoor": _Work.backdoor,
    "cleanse": _Work.cleanse,
    "distill": _Work.distill,
    "repair": _Work.repair,
    "evaluate": _Work.evaluate,
    "picture": _Work.picture,
}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global random states of torch, numpy and Python, seeded inside and restored outside."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
