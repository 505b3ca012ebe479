"""The checks of an attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench._counted import counted
from kdbench.attack import Backdoor, Trigger
from kdbench.data.base import Batch, ImageSet
from kdbench.metrics import Evaluation, evaluate
from kdbench.models.base import FeatureModel
from kdbench.testing import scene
from kdbench.testing.checks import NotApplicableError, check, ensure
from kdbench.testing.common import ensure_network, run_once
from kdbench.testing.method_run import MethodRun, implant, run_method
from kdbench.testing.pictures import fingerprints
from kdbench.testing.subjects import Subject
from kdbench.training import Fit, Player, Silent

_SLACK = 15.0  # points of ACC or ASR that a teacher may move by being trained on for a little


def backdoor(subject: Subject) -> Backdoor:
    """What the attack returns under seed 0."""
    return _returned(run_once(subject))


def _returned(run: MethodRun) -> Backdoor:
    assert run.backdoor is not None
    return run.backdoor


def _pictures() -> Tensor:
    """Images float32 (12, 3, 16, 16). One is all 0 and one all 1, the ends of the range."""
    images = scene.dataset().test.read(torch.arange(12))
    images[0], images[1] = 0.0, 1.0
    return images


def _triggered(trigger: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return trigger(images)


@check(
    "it returns a Backdoor: a network in eval mode, a Trigger, the target class it was given",
    "attack",
)
def result(subject: Subject) -> None:
    implanted = backdoor(subject)
    ensure(
        isinstance(implanted, Backdoor),
        f"implant returned a {type(implanted).__name__}, not a Backdoor",
    )
    teacher, trigger, target = implanted.teacher, implanted.trigger, implanted.target_class
    ensure(
        isinstance(teacher, FeatureModel),
        f"the teacher is a {type(teacher).__name__}, no FeatureModel",
    )
    ensure(not teacher.training, "the teacher is in training mode; call eval()")
    ensure(isinstance(trigger, Trigger), f"the trigger is a {type(trigger).__name__}, no Trigger")
    ensure(target == scene.TARGET, f"the target class was {scene.TARGET} and is {target}")


@check("the teacher is the network that it was given, with other weights", "attack")
def same_network(subject: Subject) -> None:
    ensure_network("teacher", backdoor(subject).teacher, scene.TEACHER)


@check("a triggered image keeps its shape and type, and lies in [0, 1]", "attack")
def trigger_range(subject: Subject) -> None:
    trigger = backdoor(subject).trigger
    for layout in (torch.contiguous_format, torch.channels_last):
        images = _pictures().contiguous(memory_format=layout)
        triggered = _triggered(trigger, images)
        ensure(
            triggered.shape == images.shape,
            f"{tuple(images.shape)} became {tuple(triggered.shape)}",
        )
        ensure(triggered.dtype == images.dtype, f"{images.dtype} became {triggered.dtype}")
        ensure(bool(torch.isfinite(triggered).all()), "a triggered image is not finite")
        low, high = float(triggered.min()), float(triggered.max())
        ensure(
            0 <= low <= high <= 1, f"triggered pixels lie in [{low:g}, {high:g}]; clamp to [0, 1]"
        )


@check("the trigger returns a new tensor and leaves its input alone", "attack")
def trigger_input_untouched(subject: Subject) -> None:
    images = _pictures()
    before = images.clone()
    triggered = _triggered(backdoor(subject).trigger, images)
    ensure(torch.equal(images, before), "the trigger changed its input in place; clone it first")
    ensure(
        triggered.data_ptr() != images.data_ptr(),
        "the trigger returned its input; return a new tensor",
    )


@check("the trigger is deterministic, and an image's result does not depend on its batch", "attack")
def trigger_by_image(subject: Subject) -> None:
    trigger, images = backdoor(subject).trigger, _pictures()
    whole = _triggered(trigger, images)
    with scene.seeded(5):
        ensure(torch.equal(_triggered(trigger, images), whole), "two calls gave different images")
    alone = torch.cat([_triggered(trigger, images[i : i + 1]) for i in range(len(images))])
    ensure(
        torch.allclose(alone, whole, atol=1e-6),
        "an image comes out otherwise alone than in a batch",
    )


@check("ASR is measured without the target class, on classes that exist", "attack")
def source_classes(subject: Subject) -> None:
    sources = backdoor(subject).source_classes
    if sources is None:
        return
    ensure(
        scene.TARGET not in sources,
        "source_classes holds the target class, whose images become the target anyway",
    )
    known = set(range(scene.CLASSES))
    ensure(
        bool(sources) and set(sources) <= known,
        f"source_classes {sources} are not among the classes {sorted(known)}",
    )


@dataclass(frozen=True)
class _RecordingFit(Fit):
    """A training loop that records which labels cross-entropy gets in the first pass."""

    passes: list[tuple[ImageSet, Tensor, Tensor]] = field(default_factory=list)
    """For each training its image set, the rows of its first pass, and the label of each row."""

    def players(
        self, players: Sequence[Player], images: ImageSet, *rest: Any, **named: Any
    ) -> list[float]:
        # Where several take turns, the network that is poisoned comes first.
        first, *others = players
        loss = first.loss
        rows: list[Tensor] = []
        labels: list[Tensor] = []

        def recording_loss(batch: Batch) -> Any:
            with _cross_entropy_targets() as targets:
                terms = loss(batch)
            # The loss may call cross-entropy several times, and the task's call comes first. A
            # target of another length belongs to something other than this batch.
            fitting = [target for target in targets if target.shape == batch.labels.shape]
            if fitting and sum(map(len, rows)) < len(images):
                rows.append(batch.positions.cpu())
                labels.append(fitting[0].detach().cpu())
            return terms

        heard = [replace(first, loss=recording_loss), *others]
        history = super().players(heard, images, *rest, **named)
        if rows:
            self.passes.append((images, torch.cat(rows), torch.cat(labels)))
        return history


@contextmanager
def _cross_entropy_targets() -> Iterator[list[Tensor]]:
    """Within, the targets of every call of ``cross_entropy`` are collected in the list."""
    plain, targets = nn.functional.cross_entropy, []

    def recording(logits: Tensor, target: Tensor, *rest: Any, **named: Any) -> Tensor:
        targets.append(target)
        return plain(logits, target, *rest, **named)

    nn.functional.cross_entropy = recording  # type: ignore[assignment]  # put back below
    try:
        yield targets
    finally:
        nn.functional.cross_entropy = plain


def _trained_labels(subject: Subject) -> tuple[Backdoor, Tensor, Tensor]:
    """The backdoor, and of the poisoned teacher's first pass the true labels and those trained on.

    Both are int64 (N,), with N images in the pass.
    """
    loop = _RecordingFit(scene.NUMERICS, Silent())
    with scene.seeded(0):
        setting = scene.attack_setting(0, loop)
        # One batch for the whole pass: the loop would drop a last batch that is not full.
        whole = setting.recipe.model_copy(update={"batch_size": 10 * len(setting.train)})
        implanted = _returned(implant(subject.make(), replace(setting, recipe=whole)))
    if not loop.passes:
        raise NotApplicableError(
            "no cross-entropy is trained in the core's loop, so its labels cannot be heard"
        )
    # An attack may train other networks first, for its trigger; the poisoned teacher comes last.
    images, rows, labels = loop.passes[-1]
    return implanted, _true_labels(images, rows, implanted.trigger), labels


def _true_labels(images: ImageSet, rows: Tensor, trigger: Trigger) -> Tensor:
    """The true labels of ``rows`` of an attack's image set, int64 (N,).

    A row is recognised by its pixels as a training image, plain or triggered. An image that is
    neither keeps the label that the set has for it.
    """
    train = scene.dataset().train
    plain = train.read(torch.arange(len(train)))
    known: dict[bytes, int] = {}
    for variant in (_triggered(trigger, plain), plain):
        known |= dict(zip(fingerprints(variant), train.labels.tolist(), strict=True))
    set_labels = images.labels[rows].tolist()
    return torch.tensor(
        [
            known.get(key, label)
            for key, label in zip(fingerprints(images.read(rows)), set_labels, strict=True)
        ]
    )


@check("as many labels are changed as it declares, all of them to the target class", "attack")
def labels(subject: Subject) -> None:
    implanted, true, trained_on = _trained_labels(subject)
    ensure(
        isinstance(implanted.facts.get("poisons"), int),
        "facts must hold 'poisons': how many training images carry the poison",
    )
    declared = implanted.facts.get("labels_changed", implanted.facts["poisons"])
    changed = trained_on != true
    ensure(
        bool((trained_on[changed] == scene.TARGET).all()),
        "labels were changed to another class than the target's",
    )
    count = int(changed.sum())
    ensure(count == declared, f"a pass changes {counted(count, 'label')}; it declares {declared}")


@check("the response to its trigger, where it states it, is a percentage", "attack")
def universal(subject: Subject) -> None:
    facts = backdoor(subject).facts
    if "universal" not in facts:
        raise NotApplicableError("its facts have no universal")
    value = facts["universal"]
    ensure(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100,
        f"facts hold universal={value!r}; it is a number from 0 to 100, see "
        "kdbench.attack.universal_response",
    )


@check("the poison count is that of its rate", "attack")
def poison_count(subject: Subject) -> None:
    if "poison_rate" not in type(subject.params).model_fields:
        raise NotApplicableError("it has no poison_rate")
    for rate in (0.05, 0.2):
        with scene.seeded(0):
            run = implant(subject.make(poison_rate=rate), scene.attack_setting(0))
        poisons = _returned(run).facts.get("poisons")
        wanted = round(rate * len(scene.dataset().train))
        ensure(poisons == wanted, f"{poisons} poisons, not {wanted}")


@check("without strength (``zero``) ACC and ASR stay where the clean teacher has them", "attack")
def zero_strength(subject: Subject) -> None:
    if subject.cls.zero is None:
        raise NotApplicableError("it does not say (zero) at which parameters it does nothing")
    harmless = _returned(run_method(subject.make(**subject.cls.zero), 0))
    before, after = (_measured(model, harmless) for model in (scene.teacher(), harmless.teacher))
    lost = before.acc.percent - after.acc.percent
    ensure(lost <= _SLACK, f"ACC falls from {before.acc.percent:.0f} to {after.acc.percent:.0f} %")
    gained = after.asr.percent - before.asr.percent
    ensure(
        gained <= _SLACK,
        f"ASR rises from {before.asr.percent:.0f} to {after.asr.percent:.0f} %: it still plants a "
        "backdoor",
    )


def _measured(model: FeatureModel, backdoor: Backdoor) -> Evaluation:
    return evaluate(
        model,
        backdoor.trigger,
        scene.dataset().test,
        scene.TARGET,
        scene.NUMERICS,
        backdoor.source_classes,
    )
