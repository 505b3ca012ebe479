"""The measured numbers. Everything is counted, and percentages and intervals follow from counts.

With T the target class and T- the test images whose true class is not T (methods: BackdoorBench,
ANP, NAD all exclude T):

    ACC  = correct / all            on untriggered test images
    ASR  = predicted T / |T-|       on triggered images of T-
    RA   = still correct / |T-|     on triggered images of T-
    BASE = predicted T / |T-|       on untriggered images of T-
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench._intervals import wilson
from kdbench.data.base import ImageSet
from kdbench.errors import ConfigError, ContractError, DivergedError
from kdbench.numerics import Numerics
from kdbench.training.profiling import loop, span

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


def _check_finite(*logits: Tensor) -> None:
    if not all(bool(torch.isfinite(part).all()) for part in logits):
        raise DivergedError(
            "the network's outputs are not finite, so it has no accuracy and no ASR"
        )


@torch.inference_mode()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    trigger: Callable[[Tensor], Tensor],
    test: ImageSet,
    target_class: int,
    numerics: Numerics,
    source_classes: tuple[int, ...] | None = None,
    batch_size: int = 250,
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
    plain, triggered = [], []
    for batch in loop(test.batches(batch_size, device=numerics.device)):
        marked = trigger(batch.images)
        if marked.shape != batch.images.shape or not bool(((marked >= 0) & (marked <= 1)).all()):
            raise ContractError("the trigger must keep the images' shape and the range [0, 1]")
        with span("forward"), numerics.autocast():
            logits = predict(batch.images), predict(marked)
        _check_finite(*logits)
        plain.append(logits[0].argmax(1).cpu())
        triggered.append(logits[1].argmax(1).cpu())
    return count(torch.cat(plain), torch.cat(triggered), test.labels, target_class, source_classes)


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
