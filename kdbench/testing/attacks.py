"""What is asked of an attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.attack import Backdoor, Trigger
from kdbench.data.base import Batch, ImageSet
from kdbench.metrics import Evaluation, evaluate
from kdbench.models.base import FeatureModel
from kdbench.testing import scene
from kdbench.testing.acts import act, implant, seeded
from kdbench.testing.checks import NotApplicableError, Subject, check, ensure
from kdbench.testing.common import acted
from kdbench.training import Fit, Silent, Trained

_SLACK = 15.0  # points of ACC or ASR that a teacher may move by being trained on for a little


def backdoor(subject: Subject) -> Backdoor:
    """What the attack made under seed 0."""
    found = acted(subject).backdoor
    assert found is not None
    return found


def _pictures() -> Tensor:
    """Images that reach both ends of the range, float32 (12, 3, 16, 16)."""
    images = scene.dataset().test.read(torch.arange(12))
    images[0], images[1] = 0.0, 1.0
    return images


def _shown(trigger: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return trigger(images)


@check(
    "it returns a Backdoor: a network in eval mode, a Trigger, the target class it was given",
    "attack",
)
def result(subject: Subject) -> None:
    found = backdoor(subject)
    ensure(
        isinstance(found, Backdoor), f"implant returned a {type(found).__name__}, not a Backdoor"
    )
    ensure(
        isinstance(found.teacher, FeatureModel),
        f"the teacher is a {type(found.teacher).__name__}, no FeatureModel",
    )
    ensure(not found.teacher.training, "the teacher is in training mode; call eval()")
    ensure(
        isinstance(found.trigger, Trigger),
        f"the trigger is a {type(found.trigger).__name__}, no Trigger",
    )
    ensure(
        found.target_class == scene.TARGET,
        f"the target class was {scene.TARGET} and is {found.target_class}",
    )


@check("a triggered image keeps its shape and type, and lies in [0, 1]", "attack")
def trigger_range(subject: Subject) -> None:
    trigger = backdoor(subject).trigger
    for layout in (torch.contiguous_format, torch.channels_last):
        images = _pictures().contiguous(memory_format=layout)
        shown = _shown(trigger, images)
        ensure(shown.shape == images.shape, f"{tuple(images.shape)} became {tuple(shown.shape)}")
        ensure(shown.dtype == images.dtype, f"{images.dtype} became {shown.dtype}")
        ensure(bool(torch.isfinite(shown).all()), "a triggered image is not finite")
        low, high = float(shown.min()), float(shown.max())
        ensure(
            0 <= low <= high <= 1, f"triggered pixels lie in [{low:g}, {high:g}]; clamp to [0, 1]"
        )


@check("the trigger returns a new tensor and leaves its input alone", "attack")
def trigger_input_untouched(subject: Subject) -> None:
    images = _pictures()
    before = images.clone()
    shown = _shown(backdoor(subject).trigger, images)
    ensure(torch.equal(images, before), "the trigger changed its input in place; clone it first")
    ensure(
        shown.data_ptr() != images.data_ptr(), "the trigger returned its input; return a new tensor"
    )


@check("the trigger is deterministic, and an image's result does not depend on its batch", "attack")
def trigger_by_image(subject: Subject) -> None:
    trigger, images = backdoor(subject).trigger, _pictures()
    whole = _shown(trigger, images)
    with seeded(5):
        ensure(torch.equal(_shown(trigger, images), whole), "two calls gave different images")
    alone = torch.cat([_shown(trigger, images[i : i + 1]) for i in range(len(images))])
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
class _ListeningFit(Fit):
    """Notes of each training the images of its first pass and the labels that cross-entropy was
    told for them."""

    passes: list[tuple[ImageSet, Tensor, Tensor]] = field(default_factory=list)

    def __call__(
        self,
        trained: Trained,
        loss: Callable[[Batch], Any],
        images: ImageSet,
        *rest: Any,
        **named: Any,
    ) -> list[float]:
        rows: list[Tensor] = []
        told: list[Tensor] = []

        def listening(batch: Batch) -> Any:
            with _cross_entropy_heard() as labels:
                terms = loss(batch)
            # Of several calls the task's comes first; one of another length is over something else.
            fitting = [heard for heard in labels if heard.shape == batch.labels.shape]
            if fitting and sum(map(len, rows)) < len(images):
                rows.append(batch.positions.cpu())
                told.append(fitting[0].detach().cpu())
            return terms

        history = super().__call__(trained, listening, images, *rest, **named)
        if rows:
            self.passes.append((images, torch.cat(rows), torch.cat(told)))
        return history


@contextmanager
def _cross_entropy_heard() -> Iterator[list[Tensor]]:
    plain, labels = nn.functional.cross_entropy, []

    def listening(logits: Tensor, target: Tensor, *rest: Any, **named: Any) -> Tensor:
        labels.append(target)
        return plain(logits, target, *rest, **named)

    nn.functional.cross_entropy = listening  # type: ignore[assignment]  # put back below
    try:
        yield labels
    finally:
        nn.functional.cross_entropy = plain


def _trained_labels(subject: Subject) -> tuple[Backdoor, Tensor, Tensor]:
    """(what came of it, true labels, labels trained on) of the first pass in which the poisoned
    teacher is trained."""
    loop = _ListeningFit(scene.NUMERICS, Silent())
    with seeded(0):
        setting = scene.attack_setting(0, loop)
        # One batch a pass, so that none is dropped at its end.
        whole = setting.recipe.model_copy(update={"batch_size": 10 * len(setting.train)})
        found = implant(subject.make(), replace(setting, recipe=whole)).backdoor
    assert found is not None
    if not loop.passes:
        raise NotApplicableError(
            "no cross-entropy is trained in the core's loop, so its labels cannot be heard"
        )
    images, rows, told = loop.passes[-1]
    return found, _true_labels(images, rows, found.trigger), told


def _true_labels(images: ImageSet, rows: Tensor, trigger: Trigger) -> Tensor:
    """The labels of the training images that these are, as they are or triggered; of images made
    otherwise the set's own."""
    train = scene.dataset().train
    plain = train.read(torch.arange(len(train)))
    known: dict[bytes, int] = {}
    for shown in (_shown(trigger, plain), plain):
        known |= dict(zip(_fingerprints(shown), train.labels.tolist(), strict=True))
    own = images.labels[rows].tolist()
    return torch.tensor(
        [
            known.get(key, label)
            for key, label in zip(_fingerprints(images.read(rows)), own, strict=True)
        ]
    )


def _fingerprints(images: Tensor) -> list[bytes]:
    return [
        image.tobytes() for image in (images * 255).round().to(torch.uint8).contiguous().numpy()
    ]


@check("as many labels are changed as it declares, all of them to the target class", "attack")
def labels(subject: Subject) -> None:
    found, true, told = _trained_labels(subject)
    ensure(
        isinstance(found.facts.get("poisons"), int),
        "facts must hold 'poisons': how many training images carry the poison",
    )
    declared = found.facts.get("labels_changed", found.facts["poisons"])
    changed = told != true
    ensure(
        bool((told[changed] == scene.TARGET).all()),
        "labels were changed to another class than the target's",
    )
    count = int(changed.sum())
    ensure(count == declared, f"{count} labels are changed in a pass; it declares {declared}")


@check("the poison count is that of its rate", "attack")
def poison_count(subject: Subject) -> None:
    if "poison_rate" not in type(subject.params).model_fields:
        raise NotApplicableError("it has no poison_rate")
    for rate in (0.05, 0.2):
        with seeded(0):
            found = implant(subject.make(poison_rate=rate), scene.attack_setting(0))
        assert found.backdoor is not None
        wanted = round(rate * len(scene.dataset().train))
        ensure(
            found.backdoor.facts.get("poisons") == wanted,
            f"{found.backdoor.facts.get('poisons')} poisons, not {wanted}",
        )


@check("without strength (``zero``) ACC and ASR stay where the clean teacher has them", "attack")
def zero_strength(subject: Subject) -> None:
    if subject.cls.zero is None:
        raise NotApplicableError("it does not say (zero) at which parameters it does nothing")
    found = act(subject.make(**subject.cls.zero), 0).backdoor
    assert found is not None
    before, after = (_measured(model, found) for model in (scene.teacher(), found.teacher))
    lost = before.acc.percent - after.acc.percent
    ensure(lost <= _SLACK, f"ACC falls from {before.acc.percent:.0f} to {after.acc.percent:.0f} %")
    gained = after.asr.percent - before.asr.percent
    ensure(
        gained <= _SLACK,
        f"ASR rises from {before.asr.percent:.0f} to {after.asr.percent:.0f} %: it still plants a "
        "backdoor",
    )


def _measured(model: FeatureModel, found: Backdoor) -> Evaluation:
    return evaluate(
        model,
        found.trigger,
        scene.dataset().test,
        scene.TARGET,
        scene.NUMERICS,
        found.source_classes,
    )
