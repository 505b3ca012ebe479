"""In which order the classes of a dataset are counted.

A network's output says a number and no name. Two programs may count the same class folders
otherwise: torchvision sorts the names 1, 10, 2 as text, timm sorts them as numbers.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdbench._counted import counted
from kdbench.data.base import ImageSet
from kdbench.data.spelling import spelling
from kdbench.errors import ConfigError
from kdbench.untrusted.documents import parse_json
from kdbench.untrusted.files import read_regular
from kdbench.untrusted.recognised import decoded
from kdbench.untrusted.text import strip_control

#: Bytes of a file of names. One of 20,000 classes has less than 1 MiB.
_MOST_BYTES = 4 << 20
#: Names that a message shows.
_SHOWN = 3


def text_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names as torchvision counts class folders: 1, 10, 2."""
    return tuple(sorted(names))


def number_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names as timm counts class folders: 1, 2, 10."""
    return tuple(sorted(names, key=lambda name: (_natural(name), name)))


def _natural(name: str) -> list[Any]:
    parts = re.split("([0-9]+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


#: The orders that have a name.
ORDERS = {"text": text_order, "number": number_order}


def other_orders(names: Sequence[str]) -> dict[str, list[int]]:
    """The orders with a name in which the classes are counted otherwise than here.

    For each class, by its index here, the index that it has in this order.
    """
    orders = {word: order(names) for word, order in ORDERS.items()}
    places = {
        word: {name: place for place, name in enumerate(order)} for word, order in orders.items()
    }
    return {
        word: [places[word][name] for name in names]
        for word, order in orders.items()
        if order != tuple(names)
    }


def read_order(path: Path) -> tuple[str, ...]:
    """The names of the classes by their index, from a file.

    It has one name a line, or is JSON: a list of names, torchvision's ``class_to_idx``, or the
    names by their index (``id2label`` of the hub; where each is a list, its first word).

    Raises:
        ConfigError: it cannot be read, or does not say one name for each index.
    """
    where = f"--class-order {strip_control(path)}"
    try:
        text = decoded(read_regular(path, _MOST_BYTES))
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read ({error.strerror or error}); write text, number, or the name "
            "of a file with one class name a line"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{where} is no text in UTF-8 ({error}); save it as that") from error
    if text.lstrip()[:1] in ("{", "["):
        try:
            names = _from_json(parse_json(text.encode()))
        except ValueError as error:
            raise ConfigError(
                f"{where} is no list of names and no class_to_idx in JSON: {strip_control(error)}"
            ) from error
    else:
        names = [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
    empty = next((number for number, name in enumerate(names, 1) if not name.strip()), None)
    if empty is not None:
        raise ConfigError(f"{where}: class {empty - 1} has no name; write one name a line")
    # An accent may be spelt in two ways, and it is the same class.
    twice = next((n for n, times in Counter(map(spelling, names)).items() if times > 1), None)
    if twice is not None:
        raise ConfigError(f"{where} names {twice!r} twice; each class has one index")
    return tuple(names)


def _from_json(value: Any) -> list[str]:
    """The names of a list, or of a table name -> index."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    if isinstance(value, dict) and value and all(re.fullmatch("[0-9]{1,9}", key) for key in value):
        value = _by_name(value)
    if not isinstance(value, dict) or not all(type(index) is int for index in value.values()):
        raise ValueError("it holds something else than names and whole numbers")
    if sorted(value.values()) != list(range(len(value))):
        raise ValueError(f"its indices are not 0 to {len(value) - 1}, each once")
    return sorted(value, key=value.__getitem__)


def _by_name(names: Mapping[str, Any]) -> Mapping[str, Any]:
    """A table index -> name turned round. A table of class folders called by numbers stays."""
    firsts = {
        index: name[0] if isinstance(name, list) and name else name for index, name in names.items()
    }
    if not all(isinstance(name, str) for name in firsts.values()):
        return names
    if len(set(firsts.values())) < len(firsts):
        raise ValueError("it gives two indices one name")
    return {name: int(index) for index, name in firsts.items()}


def spelt_as(order: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """An order with each name as the dataset spells it. An accent may be spelt in two ways."""
    known = {spelling(name): name for name in names}
    return tuple(known.get(spelling(name), name) for name in order)


def is_same(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether two orders name the same classes in the same places."""
    return [*map(spelling, a)] == [*map(spelling, b)]


def check_names(order: Sequence[str], names: Sequence[str], num_classes: int | None = None) -> None:
    """Raise ConfigError unless an order has exactly the dataset's classes.

    Args:
        order: the names by index.
        names: the dataset's.
        num_classes: it may also name so many of the dataset's classes.
    """
    wanted, known = set(order), set(names)
    missing = [name for name in names if name not in wanted]
    extra = [name for name in order if name not in known]
    if extra:
        raise ConfigError(
            f"the order of classes names {_few(extra)}, which the dataset does not have; its "
            f"{counted(len(names), 'class')}: {_few(names)}"
        )
    if missing and len(order) != num_classes:
        raise ConfigError(
            f"the order of classes has {counted(len(order), 'name')}, the dataset has "
            f"{counted(len(names), 'class')}; name also {_few(missing)}"
        )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def recounted(part: ImageSet, names: Sequence[str], order: Sequence[str]) -> ImageSet:
    """A view of a set whose labels count the classes in another order.

    Images of classes that the order does not name are left out.

    Args:
        names: the classes as the set's labels count them.
        order: the classes as they shall be counted.
    """
    places: Mapping[str, int] = {name: place for place, name in enumerate(order)}
    new = torch.tensor([places.get(name, -1) for name in names], dtype=torch.int64)
    labels = new[part.labels]
    if bool((labels < 0).any()):
        rows = (labels >= 0).nonzero().flatten()
        part, labels = part.subset(rows), labels[rows]
    view = copy.copy(part)
    view.labels = labels
    return view
