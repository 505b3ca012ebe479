"""What each kind of stage does: it gets a task, opens its inputs, and leaves files and numbers.

The table in kdbench.bench.kinds names the function of each kind.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kdbench.attack import AttackSetting, Trigger
from kdbench.bench.keys import PICTURE, TRIGGER
from kdbench.bench.kinds import Kind
from kdbench.bench.work.distill import distill_together
from kdbench.bench.work.outputs import outputs_facts
from kdbench.bench.work.task import Product, Task
from kdbench.bench.work.workbench import Workbench
from kdbench.capture import Pass
from kdbench.errors import ContractError, DivergedError, IntegrityError, NotLearnedError
from kdbench.loading.registry import Registry
from kdbench.metrics import among_others, attacked, count, measure, predictions, stamp
from kdbench.models.files import save_module
from kdbench.models.views import FrozenTeacher
from kdbench.report.pictures import MAX_COLUMNS, strength, write_trigger_picture
from kdbench.training import Progress, cross_entropy, seeded

#: Test images whose feature variance is kept: as many as in RobustKD's Fig. 2.
VARIANCE_IMAGES = 100
#: Test images among which those of a picture are shown to the trigger.
MIXED_IMAGES = 64


def perform(
    task: Task, registry: Registry, progress: Progress, links: Mapping[str, int]
) -> Product:
    """Compute one stage under its random state. That of the caller stays as it is.

    Args:
        links: companion -> descriptor of the socket that leads to it.
    """
    bench = Workbench.of(task, registry, progress, links)
    with seeded(task.random_seed):
        return _with_loss(bench, function_of(task.kind)(bench))


def function_of(kind: Kind) -> Callable[[Workbench], Product]:
    """The function below that computes stages of a kind."""
    function: Callable[[Workbench], Product] = pkgutil.resolve_name(f"{__name__}:{kind.function}")
    return function


def perform_together(
    tasks: Sequence[Task], registry: Registry, progress: Sequence[Progress]
) -> list[Product | Exception]:
    """Compute several distillations from one teacher, by one recipe.

    Each ends in a product or in an error.
    """
    benches = [
        Workbench.of(task, registry, watcher, links={})
        for task, watcher in zip(tasks, progress, strict=True)
    ]
    with seeded(tasks[0].random_seed):
        products = distill_together(benches)
    return [
        product if isinstance(product, Exception) else _with_loss(bench, product)
        for bench, product in zip(benches, products, strict=True)
    ]


def _with_loss(bench: Workbench, product: Product) -> Product:
    """The product, with the last loss of its training as a fact."""
    if bench.fit.losses:
        product.facts.setdefault("loss", bench.fit.losses[-1])
    return product


# -- one function a kind ---------------------------------------------------------------------------


def train_clean(bench: Workbench) -> Product:
    """A network trained with labels alone: a clean teacher, or the student of control C2."""
    model = bench.new_model(bench.task.values["model"]).train()
    bench.fit(
        model,
        cross_entropy(Pass(model, bench.numerics).logits),
        bench.images(),
        bench.recipe(),
        generator=bench.generator(),
        augmentation=bench.augmentation,
    )
    return bench.keep(model)


def backdoor(bench: Workbench) -> Product:
    """The attack: a backdoored teacher and its trigger."""
    attack = bench.method(bench.task.values)
    generator = bench.generator()
    setting = AttackSetting(
        teacher=bench.input("clean"),
        train=bench.images(),
        target_class=bench.task.values["target_class"],
        num_classes=bench.task.num_classes,
        recipe=bench.recipe(),
        augmentation=bench.augmentation,
        fit=bench.fit,
        generator=generator,
        numerics=bench.numerics,
        network=bench.new_models(generator),
    )
    implanted = attack.implant(setting)
    if not isinstance(implanted.trigger, Trigger) or implanted.target_class != setting.target_class:
        raise ContractError(
            f"attack {attack.info.name!r} must return a Trigger and keep the target class it "
            "was given"
        )
    product = bench.keep(implanted.teacher, dict(implanted.facts))
    sources = None if implanted.source_classes is None else list(implanted.source_classes)
    save_module(implanted.trigger.eval(), bench.task.out / TRIGGER, {"source_classes": sources})
    return product


def cleanse(bench: Workbench) -> Product:
    """A defense before distillation: the teacher that it hands on."""
    defense = bench.method(bench.task.values)
    return bench.keep(defense.cleanse_teacher(bench.input("teacher"), bench.defense_setting()))


def distill(bench: Workbench) -> Product:
    """A student of a teacher."""
    (product,) = distill_together([bench])
    if isinstance(product, Exception):
        raise product
    return product


def repair(bench: Workbench) -> Product:
    """A defense after distillation: the student that it hands on."""
    defense = bench.method(bench.task.values)
    teacher = FrozenTeacher(bench.input("teacher"))
    return bench.keep(
        defense.repair_student(bench.input("student"), teacher, bench.defense_setting())
    )


def check_teacher(bench: Workbench) -> Product:
    """Whether a teacher has learned its task, on images that it was not trained on.

    No plugin is imported here, as in a measurement.

    Raises:
        NotLearnedError: it has not.
    """
    images, least = bench.images(), bench.task.values["min_acc"]
    predicted = predictions(bench.networks()[0], images, bench.numerics)
    right = int((predicted == images.labels).sum())
    percent = 100 * right / len(images)
    if percent < least:
        raise NotLearnedError(
            f"the teacher's ACC is {_under(percent, least)} % on {len(images)} held-out training "
            f"images, under the {least:g} % of min_teacher_acc; train it for longer, or lower the "
            "bound with --set min_teacher_acc=PERCENT"
        )
    return Product({"acc": [right, len(images)]})


def _under(percent: float, bound: float) -> str:
    """A percentage with a digit, or with as many as show that it is under a bound."""
    texts = (f"{percent:.{digits}f}" for digits in range(1, 16))
    return next((text for text in texts if float(text) < bound), repr(percent))


def evaluate_network(bench: Workbench) -> Product:
    """Counts on the test images, and on triggered ones where there is a trigger.

    No plugin is imported here. Where the network or the trigger needs one, a companion runs it.
    """
    networks, test = bench.networks(), bench.images()
    if "trigger" not in bench.task.inputs:
        predicted = predictions(networks[0], test, bench.numerics)
        facts: dict[str, Any] = {"acc": [int((predicted == test.labels).sum()), len(test)]}
        if (orders := bench.task.values.get("orders")) is not None:
            facts["outputs"] = outputs_facts(bench, predicted, test, orders)
        return Product(facts)
    trigger, sources = bench.trigger()
    target = bench.task.values["target_class"]
    measured = measure(networks, trigger, test, bench.numerics)
    counts = count(measured.plain, measured.triggered, test.labels, target, sources).as_facts()
    rows = torch.nonzero(attacked(test.labels, target, sources)).flatten()[:VARIANCE_IMAGES]
    clean, triggered = measured.variance[rows], measured.variance_triggered[rows]
    return Product(
        counts | {"variance": {"clean": _rounded(clean), "triggered": _rounded(triggered)}}
    )


def _rounded(variance: torch.Tensor) -> list[float]:
    """Variance of each example's last group, untriggered or triggered (RobustKD's Fig. 2)."""
    if not bool((torch.isfinite(variance) & (variance >= 0)).all()):
        raise DivergedError("the network's features are not finite, so they have no variance")
    # Six digits are enough for a picture, and keep the record small.
    return [float(f"{v:.6g}") for v in variance.tolist()]


def picture(bench: Workbench) -> Product:
    """The first test images that the trigger is for: clean, triggered, difference. Beside it how
    much these images change, see :func:`kdbench.report.pictures.strength`.

    The trigger draws on other images as well, in random order. So it is not told which class it is
    for.
    """
    (trigger, sources), test = bench.trigger(), bench.images()
    wanted = attacked(test.labels, bench.task.values["target_class"], sources)
    rows = torch.nonzero(wanted).flatten()[:MAX_COLUMNS]
    mixed, places = among_others(rows, len(test), MIXED_IMAGES)
    images = test.read(mixed, bench.numerics.device)
    with torch.inference_mode():
        triggered = stamp(trigger, images)
    before, after = images[places].cpu(), triggered[places].cpu()
    write_trigger_picture(before, after, bench.task.out / PICTURE, bench.task.picture)
    return Product(strength(before, after))


def imported(bench: Workbench) -> Product:
    """Never computed. A run gets here only if the store's copy is damaged."""
    raise IntegrityError(
        "the weights of the imported teacher are damaged and were put aside; import it again"
    )
