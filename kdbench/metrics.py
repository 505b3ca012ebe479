"""The measured numbers. Everything is counted, and percentages and intervals follow from counts.

With T the target class and T- the test images whose true class is not T (methods: BackdoorBench,
ANP, NAD all exclude T):

    ACC  = correct / all            on untriggered test images
    ASR  = predicted T / |T-|       on triggered images of T-
    RA   = still correct / |T-|     on triggered images of T-
    BASE = predicted T / |T-|       on untriggered images of T-

A network is asked about images in an order that nobody can guess, and is told nothing else. Two
copies of it are asked. The one sees a random half of the images with the trigger and the others
without, and the second sees the complement. So no copy sees an image twice, and it makes no
difference to a network whose answers depend on the image alone.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdbench._intervals import wilson
from kdbench.data.base import ImageSet
from kdbench.errors import ConfigError, ContractError, DivergedError
from kdbench.models.base import FeatureModel
from kdbench.numerics import Numerics
from kdbench.training.profiling import loop, span
from kdbench.variance import variance_of_each

#: Images that a network is asked about at once.
BATCH = 250
_RATES = ("acc", "asr", "ra", "base")


@dataclass(frozen=True)
class Rate:
    """A count out of a total."""

    hits: int
    """How many images count."""
    total: int
    """Out of how many."""

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.total)


@dataclass(frozen=True)
class Evaluation:
    """One network measured on the test set. The rates are defined at the top of this module."""

    acc: Rate
    asr: Rate
    ra: Rate
    base: Rate
    asr_hits: np.ndarray
    """bool (|T-|,): which triggered images are taken for the target class."""

    def as_facts(self) -> dict[str, Any]:
        """Strict JSON: each rate as [hits, total], and the hits as base64 of packed bits."""
        rates = {name: [rate.hits, rate.total] for name in _RATES for rate in [getattr(self, name)]}
        return {
            **rates,
            "asr_hits": base64.b64encode(np.packbits(self.asr_hits).tobytes()).decode(),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`as_facts`."""
        bits = np.unpackbits(np.frombuffer(base64.b64decode(facts["asr_hits"]), dtype=np.uint8))
        rates = {name: Rate(*facts[name]) for name in _RATES}
        return cls(**rates, asr_hits=bits[: rates["asr"].total].astype(bool))


@torch.inference_mode()
def accuracy(
    predict: Callable[[Tensor], Tensor], test: ImageSet, numerics: Numerics, batch_size: int = 250
) -> tuple[int, int]:
    """(correct, all) on untriggered test images.

    Of a network whose trigger nobody knows, nothing else can be measured.

    Raises:
        DivergedError: the network's outputs are not finite.
    """
    correct = 0
    for batch in loop(test.batches(batch_size, device=numerics.device)):
        with span("forward"), numerics.autocast():
            logits = predict(batch.images)
        _check_finite(logits)
        correct += int((logits.argmax(1) == batch.labels).sum())
    return correct, len(test)


def _check_finite(logits: Tensor) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError(
            "the network's outputs are not finite, so it has no accuracy and no ASR"
        )


class Answer(NamedTuple):
    """What a network says of N images."""

    logits: Tensor
    """(N, K)."""
    variance: Tensor
    """float32 (N,): of each image's last group, see :func:`kdbench.variance.variance_of_each`."""


#: Float images (N, 3, H, W) in [0, 1] -> the answer.
Network = Callable[[Tensor], Answer]


def network_of(model: FeatureModel, numerics: Numerics) -> Network:
    """A network in this process, in the arithmetic of the run."""

    @torch.inference_mode()
    def answer(images: Tensor) -> Answer:
        with numerics.autocast():
            out = model.features(images)
            return Answer(out.logits, variance_of_each(out.groups[-1]))

    return answer


@dataclass(frozen=True)
class Measured:
    """What a network answered about a test set, without and with the trigger."""

    plain: Tensor
    """int64 (N,): the predicted classes of the images."""
    triggered: Tensor
    """The same with the trigger."""
    variance: Tensor
    """float32 (N,), see :class:`Answer`."""
    variance_triggered: Tensor
    """The same with the trigger."""


@torch.inference_mode()
def measure(
    networks: tuple[Network, Network],
    trigger: Callable[[Tensor], Tensor],
    test: ImageSet,
    numerics: Numerics,
    batch_size: int = BATCH,
) -> Measured:
    """Ask two copies of a network about every test image, without and with the trigger.

    Each image is read once.

    Args:
        networks: two copies in two processes, or one in this process twice.

    Raises:
        DivergedError: the network's outputs are not finite.
        ContractError: the trigger changed the shape or left [0, 1].
    """
    rows = _random_order(len(test))
    predicted = torch.empty(2, len(test), dtype=torch.int64)
    variances = torch.empty(2, len(test))
    for batch in loop(test.subset(rows).batches(batch_size, device=numerics.device)):
        stamped = stamp(trigger, batch.images)
        shown = rows[batch.positions.cpu()]
        # With 1 the first copy sees the image with the trigger, with 0 the second copy.
        coins = _coins(len(shown))
        mask = coins.bool().to(stamped.device).view(-1, 1, 1, 1)
        for place, network in enumerate(networks):
            images = torch.where(mask if place == 0 else ~mask, stamped, batch.images)
            with span("forward"):
                logits, variance = network(images)
            _check_finite(logits)
            with_trigger = coins if place == 0 else 1 - coins
            predicted[with_trigger, shown] = logits.argmax(1).cpu()
            variances[with_trigger, shown] = variance.cpu()
    return Measured(predicted[0], predicted[1], variances[0], variances[1])


@torch.inference_mode()
def predictions(
    network: Network, test: ImageSet, numerics: Numerics, batch_size: int = BATCH
) -> Tensor:
    """The predicted class of every test image without a trigger, int64 (N,).

    Raises:
        DivergedError: the network's outputs are not finite.
    """
    rows = _random_order(len(test))
    predicted = torch.empty(len(test), dtype=torch.int64)
    for batch in loop(test.subset(rows).batches(batch_size, device=numerics.device)):
        with span("forward"):
            logits = network(batch.images).logits
        _check_finite(logits)
        predicted[rows[batch.positions.cpu()]] = logits.argmax(1).cpu()
    return predicted


def stamp(trigger: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The images with the trigger, in full precision.

    Raises:
        ContractError: the trigger changed the shape or the type, or left [0, 1].
    """
    stamped = trigger(images)
    same = stamped.shape == images.shape and stamped.dtype == images.dtype
    if not same or not bool(((stamped >= 0) & (stamped <= 1)).all()):
        raise ContractError("the trigger must keep the images' shape and the range [0, 1]")
    return stamped


def _random_order(count: int) -> Tensor:
    """A random order of ``count`` things, int64. No seed, so that nobody can draw it again."""
    draws = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    return torch.from_numpy(draws.argsort(kind="stable").astype(np.int64))


def among_others(rows: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """(up to ``size`` of ``count`` rows in random order, with ``rows`` among them; their places).

    The others are drawn at random from all of them.
    """
    order = _random_order(count)
    others = order[~torch.isin(order, rows)][: max(0, size - len(rows))]
    mixed = torch.cat([rows, others])
    shuffled = _random_order(len(mixed))
    return mixed[shuffled], shuffled.argsort()[: len(rows)]


def _coins(count: int) -> Tensor:
    """0 or 1 for each of ``count`` things, int64. No seed, as for the order."""
    return torch.tensor([byte & 1 for byte in os.urandom(count)], dtype=torch.int64)


@torch.inference_mode()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    trigger: Callable[[Tensor], Tensor],
    test: ImageSet,
    target_class: int,
    numerics: Numerics,
    source_classes: tuple[int, ...] | None = None,
    batch_size: int = BATCH,
) -> Evaluation:
    """Measure a network (float images -> logits (N, K)) on the whole test set.

    Args:
        predict: the network. The caller puts it into eval mode.
        trigger: images -> triggered images of the same shape, in [0, 1].
        source_classes: T- holds only these classes. None: every class but the target.

    Raises:
        ConfigError: no test image lies in T-.
        DivergedError: the network's outputs are not finite.
        ContractError: the trigger changed the shape or left [0, 1].
    """

    def network(images: Tensor) -> Answer:
        with numerics.autocast():
            logits = predict(images)
        return Answer(logits, torch.zeros(len(images)))

    measured = measure((network, network), trigger, test, numerics, batch_size)
    return count(measured.plain, measured.triggered, test.labels, target_class, source_classes)


def attacked(
    labels: Tensor, target_class: int, source_classes: tuple[int, ...] | None = None
) -> Tensor:
    """T-: which images the trigger is for, bool (N,). ``labels`` are int64 (N,)."""
    others = labels != target_class
    if source_classes is not None:
        others &= torch.isin(labels, torch.tensor(source_classes, dtype=labels.dtype))
    return others


def count(
    plain: Tensor,
    triggered: Tensor,
    labels: Tensor,
    target_class: int,
    source_classes: tuple[int, ...] | None = None,
) -> Evaluation:
    """Metrics from predictions.

    T- holds every image whose true class is not ``target_class``. If an attack names
    ``source_classes``, T- holds only images of those.

    Args:
        plain: predictions on untriggered images, int64 (N,).
        triggered: predictions on triggered images, int64 (N,).
        labels: the true classes, int64 (N,).
    """
    others = attacked(labels, target_class, source_classes)
    n = int(others.sum())
    if n == 0:
        classes = "" if source_classes is None else f" and in source classes {list(source_classes)}"
        raise ConfigError(
            f"no test image is outside target class {target_class}{classes}; ASR is undefined"
        )
    hits = triggered[others] == target_class
    return Evaluation(
        acc=Rate(int((plain == labels).sum()), len(labels)),
        asr=Rate(int(hits.sum()), n),
        ra=Rate(int((triggered[others] == labels[others]).sum()), n),
        base=Rate(int((plain[others] == target_class).sum()), n),
        asr_hits=hits.numpy(),
    )
