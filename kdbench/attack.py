"""What an attack plugin subclasses, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Augmentation, Batch, ImageSet
from kdbench.data.fraction import stratified_rows
from kdbench.errors import ConfigError, ContractError
from kdbench.method import Method
from kdbench.metrics import attacked
from kdbench.models.base import FeatureModel
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics
from kdbench.training import Fit, LossFunction, Recipe, cross_entropy

#: Images on which a trigger's effect on the clean teacher is measured, at most.
PROBE = 256


class Trigger(nn.Module, ABC):
    """Float images (N, 3, H, W) in [0, 1] -> the same with the trigger, in a new tensor of the same
    shape and range.

    Deterministic, and one image's result never depends on the rest of its batch. Tensors are
    buffers, other attributes numbers, texts or lists of them: it is kept in a file (see
    kdbench.models.files) and restored in another process, without its constructor. No gradient is
    needed through it.

    A measurement shows it all test images, each once and in random order, without labels. A class
    of the plugin then runs in a process of its own. Its parts are modules of torch.nn, of kdbench,
    or of the plugin's package.
    """

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...


def _no_network(name: str) -> FeatureModel:
    raise ConfigError(f"this setting makes no networks, and network {name!r} was asked for")


@dataclass(frozen=True)
class AttackSetting:
    """All an attacker holds. No test image is among it, and its process can open none.

    docs/threat-model.md says on which systems, and names the tests.
    """

    teacher: FeatureModel
    """A private copy of the clean teacher, on the device, in eval mode. The attack may train it."""
    train: ImageSet
    """The provider's training images."""
    target_class: int
    """The class that triggered images shall be given."""
    num_classes: int
    recipe: Recipe
    """How a teacher is fine-tuned on poisoned images. It comes from the preset."""
    augmentation: Augmentation
    """What the teacher was trained with."""
    fit: Fit
    """The core's optimisation loop."""
    generator: torch.Generator
    """A CPU generator for all randomness of the attack."""
    numerics: Numerics
    """Device and autocast."""
    network: Callable[[str], FeatureModel] = _no_network
    """Gives a network by its name in the registry, with fresh weights, such as a surrogate of the
    student. It normalises images as the teacher does, is on the device and in training mode. Its
    weights are drawn from ``generator``. The attacker does not know which student will be
    distilled."""


@dataclass(frozen=True)
class Backdoor:
    """A poisoned teacher and its trigger."""

    teacher: FeatureModel
    """The network that the attack was given, with other weights.

    Its classes, attributes, tensors and shapes are those of that network. Another network, or a
    class of the plugin, is an error.
    """
    trigger: Trigger
    target_class: int
    """As the attack was given it."""
    facts: dict[str, float | int | str] = field(default_factory=dict)
    """Small numbers for the run's record.

    ``poisons`` counts the training images that carry the poison. ``labels_changed`` counts those
    trained under another label than their own; it is given where the two numbers differ.
    ``universal`` is the clean teacher's response to the trigger on the attacker's own images, a
    percentage from 0 to 100, such as :func:`universal_response` gives. It is a column of the
    results. An attack that does not know it leaves it out.
    """
    source_classes: tuple[int, ...] | None = None
    """The classes whose triggered test images ASR counts. None: every class but the target."""


class Attack(Method):
    """Implants a backdoor into a clean teacher."""

    kind = "attack"

    @abstractmethod
    def implant(self, setting: AttackSetting) -> Backdoor:
        """Return a backdoored teacher and its trigger. The teacher is the network of the setting,
        with other weights."""


def target_share(logits: Tensor, target_class: int) -> float:
    """How many images are taken for the target class, in percent."""
    return 100.0 * int((logits.argmax(1) == target_class).sum()) / len(logits)


@torch.no_grad()
def universal_response(
    setting: AttackSetting, trigger: Trigger, source_classes: tuple[int, ...] | None = None
) -> float:
    """The clean teacher's response to a trigger, in percent.

    It is the share of triggered training images that the clean teacher takes for the target class.
    Nothing is poisoned yet, so the trigger does this alone. Up to :data:`PROBE` images are asked,
    evenly spread over those that the trigger is for. Call it before the teacher is trained.

    Args:
        source_classes: as in :class:`Backdoor`.

    Raises:
        ConfigError: the trigger is for no training image.
    """
    labels, numerics = setting.train.labels, setting.numerics
    rows = torch.nonzero(attacked(labels, setting.target_class, source_classes)).flatten()
    if len(rows) == 0:
        raise ConfigError(
            "the trigger is for no training image; choose another target_class or other source "
            "classes"
        )
    spread = torch.linspace(0, len(rows) - 1, min(PROBE, len(rows))).long()
    # A frozen copy, so that the mode of no module changes.
    teacher = FrozenTeacher(setting.teacher)
    shown = trigger(setting.train.read(rows[spread], numerics.device))
    with numerics.autocast():
        return target_share(teacher.features(shown).logits, setting.target_class)


def head_parameters(setting: AttackSetting) -> list[Tensor]:
    """The teacher's parameters behind its last tap: those of the classifier.

    No model says which they are. So this asks autograd which ones the classifier's output depends
    on.
    """
    teacher = setting.teacher
    with torch.no_grad():
        out = FrozenTeacher(teacher).features(
            setting.train.read(torch.arange(2), setting.numerics.device)
        )
    logits = teacher.classify(out.groups[-1], out.taps[-1])
    parameters = list(teacher.parameters())
    slopes = torch.autograd.grad(logits.float().sum(), parameters, allow_unused=True)
    return [p for p, slope in zip(parameters, slopes, strict=True) if slope is not None]


def head_logits(network: FeatureModel, images: Tensor) -> Tensor:
    """Logits, float32 (N, K), of images (N, 3, H, W). Only the classifier gets a gradient."""
    with torch.no_grad():
        out = network.features(images)
    return network.classify(out.groups[-1], out.taps[-1]).float()


def choose_poison(
    labels: Tensor, rate: float, target_class: int, generator: torch.Generator
) -> Tensor:
    """Pick which training images carry the trigger.

    Args:
        labels: int64 (N,). rate: fraction of the *whole* set, in [0, 1]. target_class: never picked
            from.

    Returns:
        int64 row numbers, ascending, ``round(rate * N)`` of them, spread over the other classes in
        proportion to their size.

    Raises:
        ConfigError: fewer images outside the target class than asked for.
    """
    wanted = round(rate * len(labels))
    others = torch.nonzero(labels != target_class).flatten()
    if wanted > len(others):
        raise ConfigError(
            f"poison_rate {rate:g} asks for {wanted} images; only {len(others)} are outside class "
            f"{target_class}"
        )
    return others[stratified_rows(labels[others], wanted, generator)]


def choose_decoys(count: int, rows: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """Pick which training images are decoys: not poisoned, of any class.

    Args:
        count: number of training images.
        rows: int64, those that are poisoned.
        wanted: how many. Where fewer are left, all of them are taken.

    Returns:
        int64 row numbers, ascending.
    """
    left = torch.nonzero(~_marked(count, rows)).flatten()
    return left[torch.randperm(len(left), generator=generator)[:wanted]].sort().values


#: Some rows of a batch -> their images as they are shown in training, float (N, 3, H, W) in [0, 1],
#: in a new tensor. What it draws at random comes from the generator of the setting.
Showing = Callable[[Batch], Tensor]


#: A parameter of an attack that fine-tunes for longer or shorter, see :func:`rescaled`.
EpochFactor = Annotated[
    float,
    Field(
        gt=0, description="length of the training on poison, as a multiple of the preset's; kdbench"
    ),
]


def rescaled(
    setting: AttackSetting, epoch_factor: float = 1.0, lr_factor: float = 1.0
) -> AttackSetting:
    """The setting with a fine-tuning of another length, or of another learning rate.

    Args:
        epoch_factor: multiplies the epochs and the least number of steps, which are rounded.
        lr_factor: multiplies the learning rate.
    """
    recipe = setting.recipe
    changed = recipe.model_copy(
        update={
            "epochs": round(recipe.epochs * epoch_factor),
            "min_steps": round(recipe.min_steps * epoch_factor),
            "lr": recipe.lr * lr_factor,
        }
    )
    return replace(setting, recipe=changed)


@dataclass(frozen=True)
class PoisonedImages:
    """A training set in which some rows are shown with the trigger and the target label, after
    augmentation. Others may be decoys: changed as well, with their true label.

    Build with :meth:`build`; iterate ``images`` with the core's loop and pass each batch through
    :meth:`apply`.
    """

    images: ImageSet
    is_poison: Tensor
    """bool (N,)."""
    trigger: Trigger
    target_class: int
    is_decoy: Tensor | None = None
    """bool (N,). None: no row is a decoy."""
    poison: Showing | None = None
    """How poisoned rows are shown in training. None: with the trigger."""
    decoy: Showing | None = None
    """How decoys are shown."""

    @classmethod
    def build(
        cls,
        train: ImageSet,
        rows: Tensor,
        trigger: Trigger,
        target_class: int,
        *,
        duplicate: bool,
        poison: Showing | None = None,
        decoys: Tensor | None = None,
        decoy: Showing | None = None,
    ) -> PoisonedImages:
        """A poisoned set.

        Args:
            train: the provider's images.
            rows: int64 (M,), those that are poisoned.
            trigger: the trigger of the attack.
            target_class: the label of poisoned rows.
            duplicate: the clean originals stay in the set as well, with their true labels (a cover
                set).
            poison: how poisoned rows are shown in training, if not with the trigger.
            decoys: int64 (D,), rows of ``train`` that are shown by ``decoy`` with their true label.
            decoy: how decoys are shown.

        Raises:
            ContractError: a row is both poisoned and a decoy, or nothing says how decoys are shown.
        """
        is_poison = _marked(len(train), rows)
        is_decoy = None if decoys is None else _marked(len(train), decoys)
        if is_decoy is not None and (decoy is None or bool((is_poison & is_decoy).any())):
            raise ContractError("a decoy is no poisoned row, and decoy says how it is shown")
        images = train
        if duplicate:
            images = train.subset(torch.cat([torch.arange(len(train)), rows]))
            is_poison = torch.cat([torch.zeros_like(is_poison), torch.ones(len(rows)).bool()])
            if is_decoy is not None:
                is_decoy = torch.cat([is_decoy, torch.zeros(len(rows)).bool()])
        return cls(images, is_poison, trigger, target_class, is_decoy, poison, decoy)

    def probe(self, count: int, device: torch.device) -> Batch:
        """Up to ``count`` images spread evenly over the set, as they are shown but without
        augmentation."""
        rows = torch.linspace(0, len(self.images) - 1, min(count, len(self.images))).long()
        return self.apply(
            Batch(self.images.read(rows, device), self.images.labels[rows].to(device), rows)
        )

    def mask(self, batch: Batch) -> Tensor:
        """bool (N,): which rows of a batch are poisoned."""
        return _of(self.is_poison, batch)

    def apply(self, batch: Batch) -> Batch:
        """The batch with trigger and target label on its poisoned rows, and its decoys changed.

        Other rows are bit-identical.
        """
        mask = self.mask(batch)
        images, labels = batch.images.clone(), batch.labels.clone()
        shown = [(mask, self.poison or (lambda rows: self.trigger(rows.images)))]
        if self.is_decoy is not None and self.decoy is not None:
            shown.append((_of(self.is_decoy, batch), self.decoy))
        # Full precision, as in evaluation: the loop's autocast must not change what the trigger
        # draws.
        with torch.autocast(batch.images.device.type, enabled=False):
            for rows, show in shown:
                if rows.any():
                    images[rows] = show(_rows(batch, rows))
        labels[mask] = self.target_class
        return replace(batch, images=images, labels=labels)


def _marked(count: int, rows: Tensor) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[rows] = True
    return mask


def _of(mask: Tensor, batch: Batch) -> Tensor:
    """The part of a mask of the whole set that is of a batch, on its device."""
    return mask[batch.positions.cpu()].to(batch.labels.device)


def _rows(batch: Batch, mask: Tensor) -> Batch:
    positions = batch.positions[mask.to(batch.positions.device)]
    return Batch(batch.images[mask], batch.labels[mask], positions, batch.progress)


def finetune_poisoned(
    setting: AttackSetting,
    poisoned: PoisonedImages,
    loss: LossFunction | None = None,
    beside: tuple[nn.Module, ...] = (),
) -> FeatureModel:
    """Fine-tune the setting's teacher on a poisoned set with cross-entropy (or ``loss`` on the
    poisoned batch).

    ``beside``: modules whose buffers the loss changes; see the loop's ``trained``. Returns the
    teacher in eval mode.
    """
    teacher = setting.teacher.train()
    objective = loss or cross_entropy(teacher)
    setting.fit(
        [teacher, *beside],
        lambda batch: objective(poisoned.apply(batch)),
        poisoned.images,
        setting.recipe,
        generator=setting.generator,
        augmentation=setting.augmentation,
    )
    return teacher.eval()


def implant_trigger(
    setting: AttackSetting,
    trigger: Trigger,
    rows: Tensor,
    facts: dict[str, float | int | str] | None = None,
    *,
    poison: Showing | None = None,
    decoys: Tensor | None = None,
    decoy: Showing | None = None,
) -> Backdoor:
    """Fine-tune the teacher on the training set with a trigger on some of its images.

    Their label is the target class. Rows of that class so keep their own label (clean-label
    poison).

    Args:
        trigger: on the setting's device.
        rows: int64, the training images that carry the trigger. They are not in the set without it.
        facts: further facts of the backdoor.
        poison: as in :meth:`PoisonedImages.build`, and so are ``decoys`` and ``decoy``.
    """
    poisoned = PoisonedImages.build(
        setting.train,
        rows,
        trigger,
        setting.target_class,
        duplicate=False,
        poison=poison,
        decoys=decoys,
        decoy=decoy,
    )
    known: dict[str, float | int | str] = {"poisons": len(rows), **(facts or {})}
    changed = int((setting.train.labels[rows] != setting.target_class).sum())
    if changed != len(rows):
        known["labels_changed"] = changed
    # Before the training, so that the teacher is still the clean one.
    known["universal"] = universal_response(setting, trigger)
    return Backdoor(finetune_poisoned(setting, poisoned), trigger, setting.target_class, known)
