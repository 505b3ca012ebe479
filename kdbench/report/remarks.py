"""What the test images say of how an imported teacher is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench._intervals import is_near_chance, wilson

#: Points that another reading must be better by.
FAR = 20.0
#: Points by which any other assignment must be better than a reading with a name.
CLEAR = 10.0
#: The remark of each reading that has a name.
_OF_ORDER = {"number": "number_order", "text": "text_order"}
_OF_NORMALIZATION = {
    "raw": "raw_input",
    "bytes": "bytes_input",
    "half": "half_input",
    "imagenet": "imagenet_input",
    "dataset": "dataset_input",
}
#: What an import has to state, by the remark.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "number_order": ("--class-order", "number"),
    "text_order": ("--class-order", "text"),
    "raw_input": ("--mean", "0,0,0", "--std", "1,1,1"),
    "bytes_input": ("--mean", "0,0,0", "--std", "0.00392157,0.00392157,0.00392157"),
    "half_input": ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"),
    "imagenet_input": ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
    "dataset_input": (),
}
_READINGS = {
    "number_order": "its outputs count the classes in number order",
    "text_order": "its outputs count the classes in text order",
    "other_order": "its outputs stand for other classes",
    "raw_input": "its input is not normalised (mean 0, std 1)",
    "bytes_input": "its input is pixels of 0 to 255",
    "half_input": "its input is normalised with mean 0.5 and std 0.5",
    "imagenet_input": "its input is normalised with ImageNet's mean and std",
    "dataset_input": "its input is normalised with the dataset's mean and std",
}


def remark_of(acc: tuple[int, int], outputs: Mapping[str, Any]) -> tuple[str | None, str]:
    """(the remark or None, a sentence for people).

    Args:
        acc: test images right, and all of them.
        outputs: images right under other readings, see kdbench.bench.work.outputs.
    """
    if not outputs:
        return None, ""
    right, total = acc
    orders = {_OF_ORDER[name]: hits for name, hits in outputs["orders"].items()}
    tried = outputs.get("normalizations", {})
    inputs = {_OF_NORMALIZATION[name]: hits for name, hits in tried.items()}
    # Normalisations are tried on some of the images only.
    sampled = outputs.get("sample") or (0, 0)
    readings = [(word, hits, right, total) for word, hits in orders.items()]
    readings += [(word, hits, *sampled) for word, hits in inputs.items()]
    best, by_chance = outputs.get("best", 0), outputs.get("by_chance", 0)
    far = [reading for reading in readings if _is_far(*reading[1:])]
    farthest = max(far, key=_share, default=None)
    other = ("other_order", best, right, total)
    # Of two readings the one with a name is likelier, unless it is clearly worse.
    clearly = farthest is None or _share(other) - _share(farthest) >= CLEAR
    if clearly and _is_far(best, right, total) and 100 * (best - by_chance) >= FAR * total:
        farthest = other
    if farthest is not None:
        return farthest[0], _sentence(*farthest)
    if is_near_chance(right, outputs["largest"], total):
        chance = 100 * outputs["largest"] / total
        return (
            "near_chance",
            f"the teacher is right on {100 * right / total:.1f} % of the test images, near chance "
            f"({chance:.1f} %): is it of this dataset, does it take RGB, and are its side, its "
            "mean and std, and the order of its classes as here?",
        )
    return None, ""


def _share(reading: tuple[str, int, int, int]) -> float:
    """Images right under a reading, %."""
    _, hits, _, total = reading
    return 100 * hits / total


def _is_far(hits: int, right: int, total: int) -> bool:
    """Whether another reading is better by much, and by more than chance."""
    by_much = 100 * (hits - right) >= FAR * total
    return by_much and wilson(hits, total)[0] > wilson(right, total)[1]


def _sentence(word: str, hits: int, right: int, total: int) -> str:
    option = f"with {' '.join(OPTIONS.get(word, ('--class-order', 'FILE')))}"
    if word == "dataset_input":
        option = "without --mean and --std"
    return (
        f"the teacher is right on {100 * right / total:.1f} % of the test images, and on "
        f"{100 * hits / total:.1f} % if {_READINGS[word]}: import it again {option}"
    )
