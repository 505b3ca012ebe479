"""What the outputs of a network that came from elsewhere stand for: counted, not guessed.

A teacher that counts the classes in another order than the dataset, or that wants its input
normalised otherwise, answers as if it had learned nothing. So it is counted how many images would
be right if its outputs meant other classes, or if its input was normalised in another usual way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.bench.work.companions import COPIES
from kdbench.bench.work.workbench import Workbench
from kdbench.data.base import ImageSet
from kdbench.metrics import network_of, predictions

#: Of more classes the table of all pairs takes more memory than a measurement should. Only the
#: orders with a name are counted then.
MOST_CLASSES = 2000
#: Usual ways to normalise images in [0, 1]: mean and standard deviation of each channel.
NORMALIZATIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "raw": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
#: Images that are enough to see another normalisation.
SAMPLE = 200
_SHUFFLES = 5


def outputs_facts(
    bench: Workbench, predicted: Tensor, test: ImageSet, orders: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Counts of test images that would be right under other readings.

    Args:
        predicted: the classes that the network says, int64 (N,).
        orders: name -> for each class the output that stands for it in this order.
    """
    classes, labels = bench.task.num_classes, test.labels
    facts: dict[str, Any] = {
        "largest": int(torch.bincount(labels).max()),
        "orders": {
            name: int((torch.tensor(order)[labels] == predicted).sum())
            for name, order in orders.items()
        },
    }
    if classes <= MOST_CLASSES:
        assigned, best = best_assignment(confusion(predicted, labels, classes))
        by_chance = best_by_chance(predicted, labels, classes)
        facts |= {"best": best, "by_chance": by_chance, "assigned": assigned}
    # A plugin's network runs elsewhere, and cannot be asked again.
    if COPIES[0] not in bench.links:
        facts |= _normalized(bench, test, predicted)
    return facts


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    """How often images of class i (row) are taken for class j (column), int64 (K, K)."""
    both = labels.numpy() * classes + predicted.numpy()
    return np.bincount(both, minlength=classes * classes).reshape(classes, classes)


def best_assignment(pairs: np.ndarray) -> tuple[list[int], int]:
    """(for each class the output that stands for it, images right) with the most images right."""
    from scipy.optimize import linear_sum_assignment

    rows, outputs = linear_sum_assignment(pairs, maximize=True)
    return [int(output) for output in outputs], int(pairs[rows, outputs].sum())


def best_by_chance(predicted: Tensor, labels: Tensor, classes: int) -> int:
    """The most images that the best assignment gets right when the predictions are shuffled.

    With few images the best of so many assignments gets many right by chance.
    """
    draw = np.random.default_rng(0)
    most = 0
    for _ in range(_SHUFFLES):
        order = draw.permutation(len(predicted))
        most = max(most, best_assignment(confusion(predicted[order], labels, classes))[1])
    return most


def _normalized(bench: Workbench, test: ImageSet, predicted: Tensor) -> dict[str, Any]:
    """Images of a sample that are right when the input is normalised in each of the usual ways."""
    rows = torch.arange(len(test))[:: -(-len(test) // SAMPLE)]
    sample, labels = test.subset(rows), test.labels[rows]
    model, right = bench.input("model"), {}
    dataset = (tuple(bench.task.mean), tuple(bench.task.std))
    for name, (mean, std) in {**NORMALIZATIONS, "dataset": dataset}.items():
        model.set_normalization(mean, std)
        again = predictions(network_of(model, bench.numerics), sample, bench.numerics)
        right[name] = int((again == labels).sum())
    now = int((predicted[rows] == labels).sum())
    return {"normalizations": right, "sample": [now, len(rows)]}
